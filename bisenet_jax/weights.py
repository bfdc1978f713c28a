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
from bisenet_jax.weights_description import (
    MAX_INPUT_SCALE,
    MIN_INPUT_SCALE,
    Score,
    model_fields,
    read_description,
)
from bisenet_jax.zoo.registry import describe_names, find_weights

PyTree = Any
Tensors = Mapping[str, np.ndarray]

FORMAT_VERSION = 1
DTYPES = ("float32", "float16")  # of stored parameters; batch statistics are float32 always

# One entry: safetensors writes several in an order that changes from file to file.
_METADATA_KEY = "bisenet_jax"
_DESCRIPTION_HASH = "description_hash"


@dataclass(frozen=True)
class Weights:
    """A trained network and all that is known of it.

    Attributes:
        model: the network, every field as used.
        variables: `params` and `batch_stats`, numpy float32, with or without boosters.
        class_set: what the class ids mean.
        normalization: the one it was trained with.
        input_scale: how large it sees an image: as it was trained, 1, 0.5 or 2, or as
            `with_input_scale` has it.
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

    @property
    def has_boosters(self) -> bool:
        """Whether the heads that only training uses are there."""
        return _has_boosters(_flatten(self.variables))

    def with_input_scale(self, input_scale: float) -> "Weights":
        """The same network for images that it sees at another size, 1.25 times theirs, say.

        Trained on frames of many scales it may do best at another than theirs. The score is
        left behind: it was that of another size.

        Raises:
            ConfigError: for a scale that no file may have.
        """
        if not MIN_INPUT_SCALE <= input_scale <= MAX_INPUT_SCALE:
            raise ConfigError(
                f"input scale {input_scale:g} must be from {MIN_INPUT_SCALE} to "
                f"{MAX_INPUT_SCALE}: how large the network sees an image, 1 as it is"
            )
        if input_scale == self.input_scale:
            return self
        return dataclasses.replace(self, input_scale=input_scale, score=None)


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
            a small variance in float16 would change every output. So does a parameter whose
            numbers are too large for float16, or all so small that it would round them.
        with_boosters: keep the heads that only training uses.

    Raises:
        WeightsError: for another dtype, and for boosters that are not there.
    """
    if dtype not in DTYPES:
        raise WeightsError(f"weights dtype {dtype!r} is not known; choose from {DTYPES}")
    variables = weights.variables if with_boosters else without_boosters(weights.variables)
    if with_boosters and not weights.has_boosters:
        raise WeightsError("these weights hold no boosters; write them without")
    tensors = {
        name: _as_stored(name, np.asarray(array), dtype)
        for name, array in sorted(_flatten(variables).items())
    }
    _require_fit(str(path), tensors, _shapes(tensors, weights.model))
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
        "stored": {
            "dtype": dtype,
            "float32": [name for name in tensors if tensors[name].dtype == np.float32],
        },
        "content_hash": digest,
    }
    metadata[_DESCRIPTION_HASH] = _hash_description(metadata)
    text = json.dumps(metadata, allow_nan=False, ensure_ascii=False)
    write_bytes(path, save(tensors, metadata={_METADATA_KEY: text}))
    return digest


def read_weights(path: str | os.PathLike[str]) -> Weights:
    """Read what `write_weights` wrote, float16 parameters as float32 again.

    Args:
        path: of the file, or the name of a shipped network, such as `bisenetv2-synthetic`.

    Raises:
        WeightsError: for a file that is missing, of another format, truncated, changed, or
            whose tensors are not those of the network it describes.
    """
    metadata, tensors = _read_file(find_weights(path))
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path} has format version {version}, this version of the project reads "
            f"{FORMAT_VERSION}; install the version that wrote it ({metadata.get('version')})"
        )
    expected = metadata.pop(_DESCRIPTION_HASH, None)  # absent in files of older versions
    if expected not in (None, _hash_description(metadata)):
        raise WeightsError(
            f"{path} was changed after it was written: its description is not the one that its "
            "hash was taken of; fetch or export it again"
        )
    try:
        known, expected = read_description(metadata), metadata["content_hash"]
        model, class_set = known["model"], known["class_set"]
    except _MISREAD as error:
        raise WeightsError(_misread(path, error)) from error
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
    try:
        wanted = _shapes(tensors, model)
    except _MISREAD as error:
        raise WeightsError(_misread(path, error)) from error
    _require_fit(str(path), tensors, wanted)
    variables = traverse_util.unflatten_dict(
        {name: array.astype(np.float32) for name, array in tensors.items()}, sep="/"
    )
    return Weights(variables=variables, content_hash=digest, **known)


def content_hash(tensors: Tensors) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, array in sorted(tensors.items()):
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _read_file(path: Path) -> tuple[dict[str, Any], Tensors]:
    if not path.is_file():
        raise WeightsError(
            f"{path} is neither a file nor a shipped network; give a file that export.py "
            f"wrote, or one of these names: {describe_names()}"
        )
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
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict):
        raise WeightsError(
            f"{path} is a safetensors file of another project: nothing in it describes the "
            "network; give one that export.py wrote"
        )
    return description, tensors


def _as_stored(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    array = array.astype(np.float32)
    if not name.startswith("params/") or dtype == "float32" or not array.size:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        half = array.astype(np.float16)
        error = np.abs(array - half.astype(np.float32)).max()
    # Rounding alone moves a number by 2^-11 of itself; more, against the tensor's largest, is
    # an overflow or a tensor at the lower end of float16's range.
    return half if error <= 2.0**-11 * np.abs(array).max() else array


# What a description of another kind ends in, there or in the network that is made of it.
_MISREAD = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, ConfigError)


def _misread(path: str | os.PathLike[str], error: Exception) -> str:
    return (
        f"{path} describes its network in a way that cannot be read ({error}); export it "
        "anew, or install the version that wrote it"
    )


def _hash_description(metadata: Mapping[str, Any]) -> str:
    # As it comes back from JSON, tuples being lists.
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _shapes(tensors: Tensors, model: BiSeNetV2) -> dict[str, Any]:
    """What the network holds by name, with boosters where the tensors have any."""
    # Tracing takes time for each layer, and a few digits may ask for millions.
    if model.depth * sum(model.semantic_repeats) > len(tensors):
        raise ConfigError(f"more layers than the {len(tensors)} tensors there are")
    init = partial(model.init, is_training=_has_boosters(tensors))
    images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
    return _flatten(jax.eval_shape(init, jax.random.key(0), images))


def _require_fit(path: str, tensors: Tensors, wanted: Mapping[str, Any]) -> None:
    """Name the first tensor that the network lacks, wants, or has in another shape."""
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
