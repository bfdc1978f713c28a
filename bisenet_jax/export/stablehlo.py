"""The network as a StableHLO program: the very computation, for any jax on CPU or CUDA.

A program is an archive for months, not for good: jax promises to read it for half a year. The
weights file stays the master.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bisenet_jax.errors import ConfigError, ExportError
from bisenet_jax.export.description import IOS, UINT8_LABELS, describe
from bisenet_jax.export.verification import (
    Verification,
    image_batches,
    in_float32,
    make_reference,
    verify,
)
from bisenet_jax.fast.network import Lowerings, fasten
from bisenet_jax.files import write_bytes, write_json
from bisenet_jax.inference import predict_labels, scaled_logits
from bisenet_jax.weights import Weights

PLATFORMS = ("cpu", "cuda")

# What a reader needs is jax, and nothing of ours: so does the check in a process of its own.
_RELOAD = """
import sys
import numpy as np
from jax import export
program_path, inputs_path, outputs_path = sys.argv[1:]
with open(program_path, "rb") as file:
    program = export.deserialize(bytearray(file.read()))
with np.load(inputs_path, allow_pickle=False) as inputs:
    outputs = [np.asarray(program.call(inputs[name])) for name in inputs.files]
np.savez(outputs_path, *outputs)
"""


def export_stablehlo(
    path: str | os.PathLike[str],
    weights: Weights,
    *,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
    io: str = UINT8_LABELS,
    pictures: str | os.PathLike[str] | None = None,
) -> Verification:
    """Write the network if a fresh process computes the same from it; and PATH.json beside it.

    It computes in float32, whatever the dtype of the network's activations.

    Args:
        path: of the file.
        weights: what to write; boosters are left behind.
        height, width: of the images; None together for every multiple of 32.
        batch: number of images; None for any.
        io: `uint8-labels`: `[B, H, W, 3] uint8`, red first -> `[B, H, W] uint8`;
            `float-logits`: `[B, H, W, 3] float32`, normalised -> `[B, H, W, classes] float32`.
        pictures: folder of images to compare on; None draws streets. What the program leaves
            open is tried with two values.

    Raises:
        ConfigError: for sizes and an io that cannot be, for a network whose program depends on
            the size when none is given, and without flatbuffers.
        ExportError: when the file would compute something else; none is written then.
    """
    if io not in IOS:
        raise ConfigError(f"io {io!r} is not known; choose from {IOS}")
    weights = in_float32(weights)
    shape = _shape(weights, height, width, batch)
    # Lowerings that suit every platform, and sizes that are not known yet.
    network, parameters = fasten(weights.model, weights.variables, Lowerings())

    def program(images: jax.Array) -> jax.Array:
        arguments = network, parameters, images
        if io == UINT8_LABELS:
            return predict_labels(*arguments, weights.normalization, weights.input_scale)
        return scaled_logits(*arguments, weights.input_scale)

    dtype = jnp.uint8 if io == UINT8_LABELS else jnp.float32
    exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct(shape, dtype)
    )
    content = _serialize(exported)
    sizes = zip(
        _tried(batch, 1, 3), _tried(height, 64, 96), _tried(width, 128, 160), strict=True
    )
    # Once where nothing is left open.
    batches = [b for size in dict.fromkeys(sizes) for b in image_batches(pictures, *size)]
    inputs = [_inputs(weights, io, images) for images, _ in batches]
    results = iter(_run_in_a_fresh_process(content, inputs))

    def reloaded(_: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        result = next(results)
        return (result, None) if io == UINT8_LABELS else (result.argmax(-1), result)

    found = verify(f"{path}, reloaded,", reloaded, make_reference(weights), batches)
    write_bytes(path, content)
    about = {"input": [str(size) for size in shape], "platforms": list(PLATFORMS)}
    write_json(f"{path}.json", describe(weights, io) | about)
    return found


def _shape(
    weights: Weights, height: int | None, width: int | None, batch: int | None
) -> tuple[Any, ...]:
    for name, size in (("height", height), ("width", width), ("batch", batch)):
        if size is not None and size < 1:
            raise ConfigError(f"{name} {size} must be at least 1")
    if (height is None) != (width is None):
        raise ConfigError("give both height and width, or neither for every multiple of 32")
    if height is None:
        _require_size_free(weights)
    sides = ("32*h", "32*w") if height is None else (str(height), str(width))
    names = ", ".join(("b" if batch is None else str(batch), *sides, "3"))
    return tuple(jax.export.symbolic_shape(names))


def _tried(size: int | None, *values: int) -> tuple[int, ...]:
    return values if size is None else (size,) * len(values)


def _require_size_free(weights: Weights) -> None:
    """The parts of the network that are tables computed from the size."""
    tables = {
        "input_scale": weights.input_scale != 1,
        "bga_upsampling": weights.model.bga_upsampling == "align_corners",
        "bga_pool_counts_padding": not weights.model.bga_pool_counts_padding,
    }
    for name, is_table in tables.items():
        if is_table:
            value = getattr(weights if name == "input_scale" else weights.model, name)
            raise ConfigError(
                f"with {name} {value!r} the program depends on the image's size; give height "
                "and width"
            )


def _serialize(exported: jax.export.Exported) -> bytes:
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise ConfigError(
            "the format stablehlo needs flatbuffers: pip install 'bisenet_jax[export]'"
        ) from error


def _inputs(weights: Weights, io: str, images: np.ndarray) -> np.ndarray:
    if io == UINT8_LABELS:
        return images
    return np.asarray(weights.normalization.normalize(jnp.asarray(images)))


def _run_in_a_fresh_process(content: bytes, batches: list[np.ndarray]) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory(prefix="bisenet_jax_") as folder:
        paths = [Path(folder) / name for name in ("program", "inputs.npz", "outputs.npz")]
        paths[0].write_bytes(content)
        np.savez(paths[1], *batches)
        command = [sys.executable, "-c", _RELOAD, *map(str, paths)]
        # On the CPU: this process may hold the accelerator's memory.
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(
                f"a fresh process could not run the program, so that none was written: "
                f"{last_line}"
            )
        with np.load(paths[2], allow_pickle=False) as outputs:
            return [outputs[name] for name in outputs.files]
