"""onnxruntime as an engine: with the file that we export, and with the one PyTorch writes."""

import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import STREET, TORCH_ONNX, Prepared, on_gpu
from benchmarks.subject import Subject
from benchmarks.timing import Case
from bisenet_jax.errors import ConfigError
from bisenet_jax.export.onnx import export_onnx
from bisenet_jax.processors import available_processors


def missing_for(engine: str, dtype: str) -> str | None:
    import onnxruntime

    if dtype != "float32":
        return f"{engine} has no {dtype} row: the file computes in float32"
    if on_gpu() and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"{engine} would run on the CPU beside a GPU: pip install onnxruntime-gpu"
    return None


def prepare(engine: str, subject: Subject) -> Prepared:
    """A session with as many threads as cores, images and labels bound to its device."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if engine == TORCH_ONNX:
            _write_by_torch(path, subject)
        else:
            export_onnx(
                path,
                subject.weights,
                height=subject.height,
                width=subject.width,
                batch=subject.batch,
            )
        # Writing our file is mostly the proof that it is the network.
        start = time.perf_counter()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = available_processors()
        # Threads may spin within a call, but not into the turn of the next engine.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        provider = "CUDAExecutionProvider" if on_gpu() else "CPUExecutionProvider"
        if on_gpu() and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's, from pip's packages
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ConfigError(
            f"onnxruntime {onnxruntime.__version__} makes no session of {provider}, whose "
            "libraries it does not find (its own words are above): install the CUDA and cuDNN "
            "that this version asks for"
        )
    device = "cuda" if on_gpu() else "cpu"
    (image_name,) = (entry.name for entry in session.get_inputs())
    (labels_name,) = (entry.name for entry in session.get_outputs())

    def bind(image: np.ndarray) -> Any:
        binding = session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(image, device, 0)
        binding.bind_ortvalue_input(image_name, value)
        shape = [subject.batch, subject.height, subject.width]
        output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, device, 0)
        binding.bind_ortvalue_output(labels_name, output)
        return binding

    def labels(image: np.ndarray) -> np.ndarray:
        binding = bind(image)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    bindings = [bind(image) for image in subject.draw_images()]
    session.run_with_iobinding(bindings[0])
    writer = "torch.onnx" if engine == TORCH_ONNX else "bisenet_jax.export"
    return Prepared(
        engine,
        # The call returns when it is done.
        Case(session.run_with_iobinding, bindings, subject.batch, wait=lambda result: result),
        labels,
        compile_seconds=time.perf_counter() - start,
        memory_bytes=None,
        kernels=None,
        inside_timer=f"{STREET}, both bound to the device, no transfer",
        settings=f"onnxruntime {onnxruntime.__version__}, {provider}, file by {writer}, "
        f"{available_processors()} threads",
    )


def _write_by_torch(path: Path, subject: Subject) -> None:
    import torch

    from benchmarks.torch_network import TorchNetwork, trace

    size = (subject.height, subject.width)
    module = trace(TorchNetwork(subject.weights, size)).eval()
    images = torch.from_numpy(subject.draw_images()[0])
    with torch.no_grad(), warnings.catch_warnings():
        # What the exporter warns of are its own innards.
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (images,), path, dynamo=True, verbose=False)
