"""Who runs the network: ours and its peers, each behind one door with the same inputs.

Every engine takes `[B, H, W, 3] uint8` images where it computes and leaves `[B, H, W] uint8`
labels there. Programs of others are imported when they are asked for.
"""

import gc
import importlib.util
import sys
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.subject import Subject
from benchmarks.timing import Case
from bisenet_jax.errors import ConfigError

OURS = "bisenet_jax"
PLAIN = "plain-model"
BARE = "bare-network"
HOST = "host-to-host"
TORCH_EAGER, TORCH_COMPILE = "torch-eager", "torch-compile"
ONNXRUNTIME, TORCH_ONNX = "onnxruntime", "torch-onnx"

# The module that prepares each engine; it has a function `prepare(engine, subject)`.
_PREPARED_IN = {
    **dict.fromkeys((OURS, PLAIN, BARE, HOST), "benchmarks.jax_engines"),
    **dict.fromkeys((TORCH_EAGER, TORCH_COMPILE), "benchmarks.torch_engines"),
    **dict.fromkeys((ONNXRUNTIME, TORCH_ONNX), "benchmarks.onnx_engines"),
}
ENGINES = tuple(_PREPARED_IN)
PEERS = (TORCH_EAGER, TORCH_COMPILE, ONNXRUNTIME, TORCH_ONNX)
_NEEDS = {
    TORCH_EAGER: ("torch",),
    TORCH_COMPILE: ("torch",),
    ONNXRUNTIME: ("onnx", "onnxruntime"),
    TORCH_ONNX: ("onnx", "onnxruntime", "onnxscript", "torch"),
}
STREET = "uint8 images -> normalise, network, bilinear x8, argmax -> uint8 labels"


class Prepared(NamedTuple):
    """An engine that is ready to be timed.

    Attributes:
        case: what the stopwatch calls.
        labels: the result of one call on images in numpy, `[B, H, W] uint8`; None where the
            engine gives none.
        compile_seconds: until the first call was possible: compiling, tuning, and reading a
            file, not its writing.
        memory_bytes: what one call holds, by its compiler or allocator, weights included; None
            where it does not tell.
        kernels: how many the compiled program launches; None where it does not tell.
        inside_timer: from where to where the clock runs.
        settings: what was chosen for the engine.
    """

    engine: str
    case: Case
    labels: Callable[[np.ndarray], np.ndarray] | None
    compile_seconds: float
    memory_bytes: int | None
    kernels: int | None
    inside_timer: str
    settings: str


def prepare(engine: str, subject: Subject) -> Prepared:
    """Raises ConfigError where `missing_for` tells a reason."""
    if reason := missing_for(engine, subject.dtype):
        raise ConfigError(reason)
    return import_module(_PREPARED_IN[engine]).prepare(engine, subject)


def missing_for(engine: str, dtype: str) -> str | None:
    """Why an engine cannot run here, and the cure; None where it can."""
    if engine not in ENGINES:
        return f"engine {engine!r} is not known; choose from {', '.join(ENGINES)}"
    for name in _NEEDS.get(engine, ()):
        if importlib.util.find_spec(name) is None:
            extra = "torch" if name in ("torch", "onnxscript") else "export"
            return f"{engine} needs {name}: pip install 'bisenet_jax[{extra}]'"
    if engine in PEERS:
        return import_module(_PREPARED_IN[engine]).missing_for(engine, dtype)
    return None


def release_memory() -> None:
    """Give back what PyTorch keeps for itself on a GPU: the next engine may be another."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and on_gpu():
        torch.cuda.empty_cache()


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"
