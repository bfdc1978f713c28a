"""Weights as one file that says what it is: safetensors, described by one JSON document.

Tensors are named by their collection and path, such as `params/head/classifier/kernel`. The
file holds nothing that runs when it is read.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bisenet_jax import __version__
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.errors import ConfigError, WeightsError
from bisenet_jax.files import write_bytes
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, STRIDE, BiSeNetV2, without_boosters
from bisenet_jax.normalization import Normalization

PyTree = Any
Tensors = Mapping[str, np.ndarray]

FORMAT_VERSION = 1
DTYPES = ("float32", "float16")  # of stored parameters; batch statistics are float32 always

# One entry: safetensors writes several in an order that changes from file to file.
_METADATA_KEY = "bisenet_jax"


@dataclass(frozen=True)
class Score:
    """What the weights reached, and how it was measured.

    Attributes:
        miou: from 0 to 1.
        split: of the data set that was scored.
        protocol: how, in one sentence.
    """

    miou: float
    split: str
    protocol: str


@dataclass(frozen=True)
class Weights:
    """A trained network and all that is known of it.

    Attributes:
        model: the network, every field as used.
        variables: `params` and `batch_stats`, numpy float32, with or without boosters.
        class_set: what the class ids mean.
        normalization: the one it was trained with.
        input_scale: how large it sees an image, 1 or, where it was trained on halved ones, 0.5.
        preset: the name that the model's fields started from.
        training: the configuration of the run as JSON values, or None.
        score: None where nothing was measured.
        step: of the run, or None.
        version: of the project that wrote it.
        content_hash: of the stored tensors; empty for weights that come from no file.
    """

    model: BiSeNetV2
    variables: PyTree
    class_set: ClassSet
    normalization: Normalization
    preset: str
    input_scale: float = 1.0
    training: dict[str, Any] | None = None
    score: Score | None = None
    step: int | None = None
    version: str = __version__
    content_hash: str = ""


def write_weights(
    path: str | os.PathLike[str],
    weights: Weights,
    *,
    dtype: str = "float32",
    with_boosters: bool = False,
) -> str:
    """Write one file, whole or not at all; returns the hash of its tensors.

    Equal weights give equal files, byte for byte.

    Args:
        path: of the file.
        weights: what to write.
        dtype: of the stored parameters, float32 or float16. Batch statistics stay float32:
            a small variance in float16 would change every output.
        with_boosters: keep the heads that only training uses.

    Raises:
        WeightsError: for another dtype, for boosters that are not there, and for numbers that
            float16 cannot hold.
    """
    if dtype not in DTYPES:
        raise WeightsError(f"weights dtype {dtype!r} is not known; choose from {DTYPES}")
    variables = weights.variables if with_boosters else without_boosters(weights.variables)
    if with_boosters and not _has_boosters(_flatten(variables)):
        raise WeightsError("these weights hold no boosters; write them without")
    tensors = {
        name: _store(name, np.asarray(array), dtype)
        for name, array in sorted(_flatten(variables).items())
    }
    _require_fit(str(path), tensors, weights.model)
    digest = content_hash(tensors)
    metadata = {
        "format_version": FORMAT_VERSION,
        "preset": weights.preset,
        "model": model_fields(weights.model),
        "class_set": dataclasses.asdict(weights.class_set),
        "normalization": weights.normalization._asdict(),
        "input_scale": weights.input_scale,
        "training": weights.training,
        "score": None if weights.score is None else dataclasses.asdict(weights.score),
        "step": weights.step,
        "version": weights.version,
        "content_hash": digest,
    }
    text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
    write_bytes(path, save(tensors, metadata={_METADATA_KEY: text}))
    return digest


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read what `write_weights` wrote, float16 parameters as float32 again.

    Raises:
        WeightsError: for a file that is missing, of another format, truncated, changed, or
            whose tensors are not those of the network it describes.
    """
    metadata, tensors = _read_file(Path(path))
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version}, this version of the project reads "
            f"{FORMAT_VERSION}; install the version that wrote it ({metadata.get('version')})"
        )
    try:
        model = _build_model(metadata["model"])
        class_set = ClassSet(**_tuples(metadata["class_set"]))
        normalization = Normalization(**_tuples(metadata["normalization"]))
        score = None if metadata["score"] is None else Score(**metadata["score"])
        expected = metadata["content_hash"]
        kept = ("preset", "input_scale", "training", "step", "version")
        known = {name: metadata[name] for name in kept}
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise WeightsError(
            f"{path} describes its network in a way that cannot be read ({error}); export it "
            "anew, or install the version that wrote it"
        ) from error
    digest = content_hash(tensors)
    if digest != expected:
        raise WeightsError(
            f"{path} was changed after it was written: its tensors hash to {digest[:12]}, the "
            f"file says {str(expected)[:12]}; fetch or export it again"
        )
    if model.num_classes != len(class_set):
        raise WeightsError(
            f"{path} describes a network of {model.num_classes} classes and names "
            f"{len(class_set)}; export it anew"
        )
    _require_fit(str(path), tensors, model)
    variables = traverse_util.unflatten_dict(
        {name: array.astype(np.float32) for name, array in tensors.items()}, sep="/"
    )
    return Weights(
        model=model,
        variables=variables,
        class_set=class_set,
        normalization=normalization,
        score=score,
        content_hash=digest,
        **known,
    )


def content_hash(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def model_fields(model: BiSeNetV2) -> dict[str, Any]:
    """Every field of the network as a JSON value, but the one that is of training alone."""
    fields = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name", "frozen_batch_norm")
    }
    return fields | {"dtype": jnp.dtype(model.dtype).name}


# What every network was that a file of before these fields describes.
_BEFORE_FIELDS_CAME = {
    "fusion": "bga",
    "semantic_branch": "gather_expansion",
    "gather_kernel_size": 3,
    "use_second_depthwise": True,
    "use_context_embedding": True,
}


def _build_model(fields: dict[str, Any]) -> BiSeNetV2:
    # Any other absent field has no default: the switch was thrown one way or the other.
    fields = _BEFORE_FIELDS_CAME | fields
    known = model_fields(BiSeNetV2())
    differing = sorted(known.keys() ^ fields.keys())
    if differing:
        raise ConfigError(f"the model's field {differing[0]} is on one side only")
    return BiSeNetV2(**_tuples(fields))


def _read_file(path: Path) -> tuple[dict[str, Any], Tensors]:
    if not path.is_file():
        raise WeightsError(f"{path} is no file; give one that export.py wrote")
    try:
        with path.open("rb") as file:
            beginning = file.read(9)
        # The format's own mark: after eight bytes of length a JSON table begins.
        if len(beginning) == 9 and beginning[8:] != b"{":
            raise WeightsError(
                f"{path} is not a safetensors file; give one that export.py wrote"
            )
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is truncated or damaged ({error}); fetch or export it again"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    try:
        description = json.loads(metadata.get(_METADATA_KEY, ""))
    except json.JSONDecodeError:
        description = None
    if not isinstance(description, dict):
        raise WeightsError(
            f"{path} is a safetensors file of another project: nothing in it describes the "
            "network; give one that export.py wrote"
        )
    return description, tensors


def _store(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    if not name.startswith("params/") or dtype == "float32":
        return array.astype(np.float32)
    if array.size and not np.abs(array).max() <= np.finfo(np.float16).max:
        raise WeightsError(f"{name} holds numbers that float16 cannot; write it as float32")
    return array.astype(np.float16)


def _require_fit(path: str, tensors: Tensors, model: BiSeNetV2) -> None:
    """Name the first tensor that the network lacks, wants, or has in another shape."""
    init = partial(model.init, is_training=_has_boosters(tensors))
    images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
    wanted = _flatten(jax.eval_shape(init, jax.random.key(0), images))
    for names, words in (
        (wanted.keys() - tensors.keys(), "is missing"),
        (tensors.keys() - wanted.keys(), "is unexpected"),
    ):
        if names:
            raise WeightsError(
                f"{path} does not fit the network it describes: tensor {min(names)} {words} "
                f"({len(names)} such tensors); export it anew with the run's own configuration"
            )
    for name, array in sorted(tensors.items()):
        if array.shape != wanted[name].shape or array.dtype.name not in DTYPES:
            raise WeightsError(
                f"{path} does not fit the network it describes: tensor {name} is "
                f"{array.dtype}{list(array.shape)}, the network has "
                f"float32{list(wanted[name].shape)}; export it anew with the run's own "
                "configuration"
            )


def _has_boosters(tensors: Mapping[str, Any]) -> bool:
    return any(name.split("/")[1] in BOOSTER_NAMES for name in tensors if "/" in name)


def _flatten(variables: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(variables, sep="/")


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at the top the fields of a table."""
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
