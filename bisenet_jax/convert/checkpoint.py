"""Files of tensors by name: `.pth` of PyTorch, `.safetensors`, `.npz`."""

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open
from safetensors.numpy import save

from bisenet_jax.errors import WeightsError
from bisenet_jax.files import write_bytes

SUFFIXES = (".pth", ".pt", ".safetensors", ".npz")
# Under these keys training programs keep the tensors, beside other things.
WRAPPERS = ("state_dict", "model")
MAX_BYTES = 2**31  # of all tensors; the largest network that is trained here has 2**29
DEEPEST = 8  # wrappers and tables in each other
# How PyTorch's reader names what it would have to call.
_OBJECT = re.compile(r"GLOBAL ([\w.]+)")


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Every tensor by its name; wrappers, and `module.` before all names, are taken off.

    Floating tensors come as float32. A `.pth` is read by PyTorch's reader for tensors only,
    which runs no code from the file.

    Raises:
        WeightsError: for a file that is missing, of another kind or damaged, that holds
            anything but tensors, or numbers that are not finite.
    """
    _check_suffix(path)
    if not path.is_file():
        raise WeightsError(f"{path} is no file; give a checkpoint to convert")
    read = {".safetensors": _read_safetensors, ".npz": _read_npz}.get(path.suffix, _read_torch)
    tensors = _unwrap(path, read(path))
    if not tensors:
        raise WeightsError(f"{path} holds no tensors; give a checkpoint to convert")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    for name, array in sorted(tensors.items()):
        if not np.isfinite(array).all():
            raise WeightsError(
                f"{path}: tensor {name} holds numbers that are not finite; take an earlier "
                "checkpoint of that training"
            )
    return tensors


def write_checkpoint(path: Path, tensors: Mapping[str, np.ndarray], wrapper: str = "") -> None:
    """Write tensors by name, whole or not at all, in the format of the suffix.

    Args:
        path: of the file.
        tensors: by name.
        wrapper: for a `.pth` the key that the public code looks under; empty for none.
    """
    _check_suffix(path)
    if path.suffix == ".safetensors":
        write_bytes(path, save(dict(tensors)))
        return
    buffer = BytesIO()
    if path.suffix == ".npz":
        # Before 2.2 numpy takes `allow_pickle` for one more array.
        # pyrefly: ignore[bad-argument-type]
        np.savez(buffer, **tensors)
    else:
        torch = _import_torch()
        named = {name: torch.from_numpy(array) for name, array in tensors.items()}
        torch.save({wrapper: named} if wrapper else named, buffer)
    write_bytes(path, buffer.getvalue())


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"{path} must end with one of {', '.join(SUFFIXES)}, which says its format"
        )


def _read_torch(path: Path) -> Any:
    torch = _import_torch()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                # PyTorch stores members as they are, but would inflate packed ones.
                _require_bytes(path, sum(member.file_size for member in file.infolist()))
        with warnings.catch_warnings():
            # Its words on pickle protocols; what it cannot read it refuses anyway.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign bytes raise a dozen classes
        raise WeightsError(f"{path} {_describe_refusal(error)}") from error


def _describe_refusal(error: Exception) -> str:
    """In our words: PyTorch's own advise to read the file with its code running."""
    found = _OBJECT.search(str(error))
    if found:
        return (
            f"cannot be read without running code: it holds {found[1]} beside tensors; where "
            "you trust it, load it with the code that wrote it and save its state_dict alone "
            "with torch.save"
        )
    reason = str(error).strip().splitlines()[:1]
    if isinstance(error, pickle.UnpicklingError | LookupError) or not reason:
        reason = ["it is damaged, or was not written by torch.save"]
    return f"cannot be read by PyTorch ({reason[0].partition('. ')[0]}); fetch it again"


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            "a .pth file needs PyTorch: pip install 'bisenet_jax[torch]', or use .safetensors "
            "or .npz"
        ) from error
    return torch


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # noqa: BLE001 - of a dtype that numpy lacks, say
        raise WeightsError(f"{path} cannot be read ({error}); fetch it again") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as file:
            _require_bytes(path, sum(member.file_size for member in file.infolist()))
            return {
                member.filename.removesuffix(".npy"): _read_npy(path, file.read(member))
                for member in file.infolist()
            }
    except WeightsError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign bytes raise a dozen classes
        raise WeightsError(f"{path} cannot be read ({error}); fetch it again") from error


def _read_npy(path: Path, data: bytes) -> np.ndarray:
    """The array in a member, whose header may promise more than there is."""
    file = BytesIO(data)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"its arrays are of version {version}, which only odd names need")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise WeightsError(
            f"{path} cannot be read without running code: it holds an array of Python objects; "
            "save arrays of numbers alone"
        )
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"an array of {shape} {dtype} has {len(data) - file.tell()} bytes")
    file.seek(0)
    return npy.read_array(file, allow_pickle=False)


def _require_bytes(path: Path, count: int) -> None:
    if count > MAX_BYTES:
        raise WeightsError(
            f"{path} unpacks to {count:,} bytes, a network has at most {MAX_BYTES:,}; fetch it "
            "again, or save the model's state_dict alone"
        )


def _unwrap(path: Path, content: Any, depth: int = 0, used: int = 0) -> dict[str, np.ndarray]:
    """The tensors by name; `used` bytes of `MAX_BYTES` are taken already."""
    if depth > DEEPEST:
        raise WeightsError(
            f"{path} holds tables in tables in tables; save the model's state_dict alone"
        )
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__} instead of tensors by name; save the "
            "model's state_dict"
        )
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            return _unwrap(path, content[key], depth + 1, used)
    tensors: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            # CoinCheung's backbone is a table of the parts' own tables.
            inside = _unwrap(path, value, depth + 1, used)
            used += sum(array.nbytes for array in inside.values())
            tensors |= {f"{name}.{inner}": array for inner, array in inside.items()}
        elif isinstance(value, np.ndarray) or hasattr(value, "detach"):
            # A view may be larger by far than what it is a view of.
            used += 4 * math.prod(value.shape)
            _require_bytes(path, used)
            tensors[name] = _as_float32(path, name, value)
        else:
            raise WeightsError(
                f"{path}: {name!r} is a {type(value).__name__}, no tensor; save the model's "
                "state_dict alone"
            )
    return tensors


def _as_float32(path: Path, name: str, value: Any) -> np.ndarray:
    try:
        if isinstance(value, np.ndarray):
            return value.astype(np.float32)
        return value.detach().float().numpy()
    except Exception as error:  # noqa: BLE001 - complex, sparse, quantised, without content
        raise WeightsError(
            f"{path}: tensor {name!r} is no array of real numbers ({error}); save the model's "
            "state_dict alone"
        ) from error
