"""PyTorch as an engine, eager and compiled, in the form that is quickest here."""

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.engines import (
    STREET,
    TORCH_COMPILE,
    Prepared,
    on_gpu,
    release_memory,
)
from benchmarks.subject import Subject
from benchmarks.timing import Case
from bisenet_jax.processors import available_processors

Call = Callable[[Any], Any]

_TRIAL_CALLS = 3


def missing_for(engine: str, dtype: str) -> str | None:
    import torch

    if on_gpu() and not torch.cuda.is_available():
        return (
            f"{engine} needs a PyTorch that sees this GPU; {torch.__version__} does not: "
            "install it from https://pytorch.org"
        )
    if engine == TORCH_COMPILE and not _compiler():
        if on_gpu():
            return f"{engine} needs a C compiler, as Triton does: install gcc, or set CC"
        return f"{engine} needs a C++ compiler on a CPU: install g++, or set CXX"
    return None


def prepare(engine: str, subject: Subject) -> Prepared:
    """A compiled or eager network whose parameters, images and labels stay on one device."""
    import torch

    device = "cuda" if on_gpu() else "cpu"
    torch.set_num_threads(available_processors())
    torch.backends.cudnn.benchmark = True
    if on_gpu():
        # As XLA does by default: float32 convolutions and products in TF32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    release_memory()
    held_before = torch.cuda.memory_allocated() if on_gpu() else 0
    images = [torch.from_numpy(image).to(device) for image in subject.draw_images()]
    start = time.perf_counter()
    make = _compile if engine == TORCH_COMPILE else _make_eager
    call, words = make(subject, device, images[0])
    if on_gpu():
        torch.cuda.synchronize()
    compile_seconds = time.perf_counter() - start
    memory_bytes = None
    # Memory of CUDA graphs is their own: the allocator tells nothing of it.
    if on_gpu() and engine != TORCH_COMPILE:
        release_memory()  # of the other format that was tried
        torch.cuda.reset_peak_memory_stats()
        call(images[0])
        torch.cuda.synchronize()
        other_images = sum(image.nbytes for image in images[1:])
        memory_bytes = torch.cuda.max_memory_allocated() - held_before - other_images

    def labels(image: np.ndarray) -> np.ndarray:
        return call(torch.from_numpy(image).to(device)).cpu().numpy()

    def timed_call(image: Any) -> Any:
        result = call(image)
        if not on_gpu():
            return result
        # CUDA graphs write the next labels over these: only their completion is kept.
        event = torch.cuda.Event()
        event.record()
        return event

    def wait(result: Any) -> None:
        if on_gpu():
            result.synchronize()

    return Prepared(
        engine,
        Case(timed_call, images, subject.batch, wait=wait),
        labels,
        compile_seconds,
        memory_bytes=memory_bytes,
        kernels=None,
        inside_timer=f"{STREET}, both on the device, no transfer",
        settings=f"torch {torch.__version__}, batch norm folded, inference mode, {words}",
    )


def _module(subject: Subject, device: str, memory_format: Any) -> Any:
    import torch

    from benchmarks.torch_network import TorchNetwork, trace

    size, dtype = (subject.height, subject.width), getattr(torch, subject.dtype)
    network = TorchNetwork(subject.weights, size, dtype, memory_format)
    return trace(network).eval().to(device)


def _make_eager(subject: Subject, device: str, images: Any) -> tuple[Call, str]:
    """In the quicker memory format: which one that is depends on the processor."""
    import torch

    trials = {}
    for name in ("channels_first", "channels_last"):
        is_last = name == "channels_last"
        memory_format = torch.channels_last if is_last else torch.contiguous_format
        call = torch.inference_mode()(_module(subject, device, memory_format))
        call(images)
        trials[name] = min(_seconds(call, images) for _ in range(_TRIAL_CALLS)), call
    best = min(trials, key=lambda name: trials[name][0])
    return trials[best][1], f"{best.replace('_', ' ')}, the quicker of two formats tried"


def _seconds(call: Call, images: Any) -> float:
    import torch

    start = time.perf_counter()
    call(images)
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _compile(subject: Subject, device: str, images: Any) -> tuple[Call, str]:
    import torch

    options: dict[str, Any] = {"dynamic": False, "fullgraph": True}
    words = "torch.compile, channels last"
    if on_gpu():
        options["mode"] = "max-autotune"
        words += ", max-autotune with CUDA graphs"
    # Each size and dtype is a program of its own, and may not count as one compiled too often.
    torch.compiler.reset()
    compiled = torch.compile(_module(subject, device, torch.channels_last), **options)

    def call(images: Any) -> Any:
        with torch.no_grad():
            if on_gpu():
                torch.compiler.cudagraph_mark_step_begin()
            return compiled(images)

    call(images)
    return call, words


def _compiler() -> str | None:
    if on_gpu():
        return shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
