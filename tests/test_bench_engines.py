"""Engines that are timed against each other compute the same network, or nobody is timed."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from benchmarks import engines, inference
from benchmarks.engines import HOST, ONNXRUNTIME, OURS, PEERS, PLAIN, TORCH_COMPILE
from benchmarks.inference import (
    FailedEngineError,
    compare_labels,
    measure_inference,
)
from benchmarks.kernels import count_kernels, scopes_of
from benchmarks.subject import Subject, draw_weights
from benchmarks.timing import Budget
from benchmarks.tiny import narrow_model
from bisenet_jax.config import Config
from bisenet_jax.errors import ConfigError


@pytest.fixture(scope="module")
def prepare_small():
    """Prepares an engine for a narrow network with other fields, each once."""
    weights = draw_weights(Config(model=narrow_model()))

    @functools.cache
    def prepare(engine, **fields):
        changed = dataclasses.replace(weights, model=weights.model.clone(**fields))
        subject = Subject(changed, 40, 64, 1, "float32")
        if reason := engines.missing_for(engine, "float32"):
            pytest.skip(reason)
        return engines.prepare(engine, subject), subject

    return prepare


def test_drawn_weights_tell_classes_apart(prepare_small):
    plain, subject = prepare_small(PLAIN)
    labels = plain.labels(subject.draw_images()[0])
    assert labels.dtype == np.uint8 and labels.shape == (1, 40, 64)
    assert len(np.unique(labels)) > 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", [OURS, HOST, *PEERS])
def test_engine_is_the_plain_model(engine, prepare_small, monkeypatch):
    if engine == TORCH_COMPILE:
        torch = pytest.importorskip("torch")
        # The whole graph is captured as ever; making C++ of it takes a minute and more.
        compile_quickly = functools.partial(torch.compile, backend="aot_eager")
        monkeypatch.setattr(torch, "compile", compile_quickly)
    plain, subject = prepare_small(PLAIN)
    other, _ = prepare_small(engine)
    differences = compare_labels([plain, other], subject)
    assert differences[PLAIN] == 0 and differences[engine] < 0.005
    for data in other.case.inputs:
        other.case.wait(other.case.call(data))
    assert other.inside_timer and other.settings and other.compile_seconds > 0


@pytest.mark.parametrize(
    "fields", [{"bga_upsampling": "nearest"}, {"bga_relu": True}, {"use_depthwise_relu": True}]
)
def test_another_network_is_refused(fields, prepare_small):
    plain, subject = prepare_small(PLAIN)
    other, _ = prepare_small(OURS, **fields)
    with pytest.raises(FailedEngineError, match="bisenet_jax gives .* another label"):
        compare_labels([plain, other], subject)


def test_batch_that_does_not_fit_is_a_message(monkeypatch, prepare_small):
    def exhaust(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(inference, "prepare", exhaust)
    _, small = prepare_small(PLAIN)
    subject = Subject(small.weights, 64, 64, 512, "float32")
    with pytest.raises(ConfigError, match="--batch 512 at 64x64 does not fit"):
        measure_inference(subject, [OURS, PLAIN], Budget(1, 1))


class LibraryError(Exception):
    """As onnxruntime's, of no other class."""


@pytest.mark.parametrize("when", ["prepare", "labels", "wrong labels"])
def test_a_peer_that_fails_is_named_and_leaves_the_others(when, monkeypatch, prepare_small):
    _, subject = prepare_small(PLAIN)

    def fail(*_):
        raise LibraryError("no kernel image\nand pages more")

    def prepare(engine, subject):
        if engine != ONNXRUNTIME:
            return prepare_small(engine)[0]
        if when == "prepare":
            fail()
        found = prepare_small(PLAIN)[0]._replace(engine=engine)
        return found._replace(labels=fail if when == "labels" else lambda _: np.array(255))

    monkeypatch.setattr(inference, "prepare", prepare)
    engines_asked = [OURS, PLAIN, ONNXRUNTIME]
    message = "cannot run: LibraryError: no kernel image"
    if when == "wrong labels":
        message = "gives 100.00% .* it is not the same network"
    with pytest.raises(FailedEngineError, match=f"^onnxruntime {message}; leave it out of"):
        measure_inference(subject, engines_asked, Budget(1, 1))
    lost = []
    rows = measure_inference(subject, engines_asked, Budget(1, 1), lose=lost.append)
    assert [error.engine for error in lost] == [ONNXRUNTIME]
    assert [row["engine"] for row in rows] == [OURS, PLAIN]
    assert all(row["prepare_seconds"] >= 0 for row in rows)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_onnxruntime_without_its_libraries_is_no_engine_of_a_gpu(monkeypatch, prepare_small):
    pytest.importorskip("onnxruntime")
    import onnxruntime

    from benchmarks import onnx_engines

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("it may find them")
    _, subject = prepare_small(PLAIN)
    monkeypatch.setattr(onnx_engines, "on_gpu", lambda: True)
    with pytest.raises(ConfigError, match="makes no session of CUDAExecutionProvider"):
        onnx_engines.prepare(ONNXRUNTIME, subject)


def test_an_engine_that_cannot_run_says_why(monkeypatch):
    assert "float32" in engines.missing_for(ONNXRUNTIME, "bfloat16")
    pytest.importorskip("torch")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "install g++" in engines.missing_for(TORCH_COMPILE, "float32")
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'bisenet_jax[torch]'" in engines.missing_for(TORCH_COMPILE, "float32")


HLO = """HloModule jit_run
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%inner (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %a.1 = f32[8]{0} negate(%p)
  ROOT %b.1 = f32[8]{0} custom-call(%a.1), custom_call_target="cudnn"
}

ENTRY %main (q: f32[8]) -> (f32[8], f32[]) {
  %q = f32[8]{0} parameter(0)
  %zero = f32[] constant(0)
  %c.1 = f32[8]{0} call(%q), to_apply=%inner
  %r.1 = f32[] reduce(%c.1, %zero), to_apply=%add, metadata={op_name="jit(run)/head/conv/add"}
  %pair = (f32[8]{0}, f32[8]{0}) fusion(%c.1), kind=kLoop, calls=%inner
  ROOT %t = (f32[8], f32[]) tuple(%c.1, %r.1)
}
"""


def test_kernels_are_what_the_entry_launches():
    # Two of the call, the reduction, the fusion.
    assert count_kernels(HLO) == 4
    assert scopes_of(HLO)["r.1"] == "jit(run)/head/conv/add"
    assert scopes_of(HLO)["pair"] == ""


def test_kernels_of_a_program():
    compiled = jax.jit(lambda x: (x @ x).sum()).lower(np.ones((9, 9), np.float32)).compile()
    assert 1 <= count_kernels(compiled.as_text()) <= 3
