"""Work by layer, boxes under the profiler, ideas, the suite's clock, and the page."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import jax
import pytest

from benchmarks import ideas, layers, suite
from benchmarks.ceilings import Ceilings, measure_ceilings
from benchmarks.engines import OURS, PLAIN
from benchmarks.ideas import DifferentNetworkError
from benchmarks.inference import FailedEngineError
from benchmarks.page import render_page
from benchmarks.roofline import Layer, block_of, count_layers, floor_seconds
from benchmarks.subject import Subject, draw_weights, model_of
from benchmarks.suite import Plan, Suite
from benchmarks.timing import Budget
from benchmarks.tiny import narrow_model
from bisenet_jax.complexity import count_model_macs
from bisenet_jax.config import Config, ModelConfig
from bisenet_jax.errors import ConfigError
from bisenet_jax.fast.network import Lowerings
from bisenet_jax.model.presets import PRESETS
from bisenet_jax.weights import Weights


@pytest.fixture(scope="module")
def subject():
    return Subject(draw_weights(Config(model=narrow_model())), 40, 64, 1, "float32")


def unnumbered(preset):
    """Weights without numbers: enough to count."""
    model = model_of(Config(model=ModelConfig(preset=preset)))
    return Weights(model, None, None, None, preset)


@pytest.mark.parametrize("preset", PRESETS)
def test_layers_hold_all_the_macs(preset):
    weights = unnumbered(preset)
    found = count_layers(Subject(weights, 64, 96, 2, "float32"))
    assert sum(layer.macs for layer in found) == count_model_macs(weights.model, 64, 96, 2)


def test_layers_of_a_backbone_are_those_of_the_traced_program():
    model = model_of(Config(model=ModelConfig(semantic_branch="resnet18")))
    subject = Subject(Weights(model, None, None, None, "paper"), 60, 96, 2, "bfloat16")
    found = {layer.name: layer for layer in count_layers(subject)}
    macs = sum(layer.macs for layer in count_layers(subject))
    assert macs == count_model_macs(model, 64, 96, 2)
    first = found["detail_branch/s1_1/conv"]
    assert first.shape == (2, 32, 48, 64) and block_of(first.name) == "detail_branch/s1"
    assert first.bytes == 2 * (2 * 64 * 96 * 3 + 3 * 3 * 3 * 64 + 2 * 32 * 48 * 64)
    assert found["images"].bytes == 3 * 2 * 60 * 96


def test_bytes_by_hand():
    found = {
        layer.name: layer
        for layer in count_layers(Subject(unnumbered("paper"), 64, 96, 2, "bfloat16"))
    }
    numbers = 2 * 64 * 96 * 3 + 3 * 3 * 3 * 64 + 64 + 2 * 32 * 48 * 64
    assert found["detail_branch/s1_1"].bytes == 2 * numbers
    assert found["detail_branch/s1_1"].shape == (2, 32, 48, 64)
    assert found["labels"].bytes == 4 * 2 * 8 * 12 * 19 + 2 * 64 * 96


def test_floor_is_the_longer_of_math_and_bytes():
    ceilings = Ceilings(flops=10, bytes=2)
    math, memory = Layer("a", 50, 1, (1, 1, 1, 1)), Layer("b", 5, 30, (1, 1, 1, 1))
    assert floor_seconds([math, memory], ceilings) == 10 + 15


def test_ceilings_are_measured_once():
    first = measure_ceilings("float32")
    assert first.flops > 1e6 and first.bytes > 1e6
    assert measure_ceilings("float32") is first


@pytest.mark.parametrize(
    "name, block",
    [
        ("detail_branch/s1_2", "detail_branch/s1"),
        ("semantic_branch/stem/fuse", "semantic_branch/stem"),
        ("semantic_branch/s5_4/gather", "semantic_branch/s5"),
        ("semantic_branch/context_embedding/add", "semantic_branch/context_embedding"),
        ("aggregation/out", "aggregation"),
    ],
)
def test_block_is_the_papers_box(name, block):
    assert block_of(name) == block


def test_time_goes_to_boxes(subject):
    found = layers.measure_layers(subject, Budget(3, 0.1))
    shares = {row["block"]: row["share"] for row in found["rows"]}
    assert sum(shares.values()) == pytest.approx(1)
    for box in ("detail_branch/s1", "semantic_branch/s3", "aggregation", "head", "labels"):
        assert shares[box] > 0
    assert shares.get(layers.UNATTRIBUTED, 0) < 0.5
    milliseconds = sum(row["milliseconds"] for row in found["rows"])
    assert milliseconds == pytest.approx(found["latency_ms"]["median"])


def test_ideas_change_one_thing_each():
    names = [idea.name for idea in ideas.list_ideas("float32")]
    default = Lowerings.for_backend("cpu")
    assert names[0] == OURS and len(names) == len(set(names))
    for entry in dataclasses.fields(default):
        assert any(name.startswith(f"{entry.name}: ") for name in names)
    assert not any("winograd" in idea.name for idea in ideas.list_ideas("bfloat16"))


def test_ideas_are_compared_and_timed(subject, monkeypatch):
    listed = ideas.list_ideas("float32")
    monkeypatch.setattr(ideas, "list_ideas", lambda dtype: [listed[0], *listed[-2:]])
    rows = ideas.measure_ideas(subject, Budget(2, 0.1))
    assert [row["idea"] for row in rows] == [listed[0].name, *(i.name for i in listed[-2:])]
    assert rows[0]["ratio"] == 1 and rows[0]["labels_differ"] == 0
    assert all(row["labels_differ"] < 0.005 for row in rows)

    wrong = ideas.Idea("wrong", listed[-2].build, lambda n, v, images, _: images[..., 0])
    monkeypatch.setattr(ideas, "list_ideas", lambda dtype: [listed[0], wrong])
    with pytest.raises(DifferentNetworkError, match="'wrong' gives"):
        ideas.measure_ideas(subject, Budget(1, 0.1))


def row_of(subject, engine, seconds):
    return {
        "engine": engine,
        "batch": subject.batch,
        "dtype": subject.dtype,
        "height": subject.height,
        "width": subject.width,
        "latency_ms": {"median": 2.0 * subject.batch, "p90": 3.0, "p99": 4.0},
        "images_per_second": 500.0,
        "ratio": 1.5,
        "roofline_share": 0.2,
        "compile_seconds": seconds / 2,
        "prepare_seconds": seconds,
    }


class Machine:
    """Stands in for measuring: each engine takes set seconds of a clock without hands."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds, self.kept = 0.0, seconds, 0
        monkeypatch.setattr(suite, "measure_inference", self.measure)
        monkeypatch.setattr(suite, "measure_layers", self.take)
        monkeypatch.setattr(suite, "measure_ideas", lambda *_: [self.take()])
        monkeypatch.setattr(suite, "missing_for", self.missing_for)

    def take(self, *_):
        self.now += self.seconds
        return {}

    def measure(self, subject, engines, budget, lose=None):
        self.now += self.seconds * len(engines)
        return [row_of(subject, engine, self.seconds) for engine in engines]

    def keep(self):
        self.kept += 1

    @staticmethod
    def missing_for(engine, dtype):
        return None if engine == "torch-eager" else f"{engine} is not here"


def run_suite(machine, seconds):
    plan = Plan(((64, 64), (32, 96)), (1, 8), ("bfloat16", "float32"))
    lines = []
    run = Suite(
        unnumbered("paper"), seconds, 1.0, lines.append, machine.keep, lambda: machine.now
    )
    run.run(plan)
    return run, lines


def test_suite_with_time_measures_all(monkeypatch):
    machine = Machine(monkeypatch, 1.0)
    run, _ = run_suite(machine, 1000.0)
    assert machine.kept == 9  # after each cell, and after layers and ideas
    cells = {(row["height"], row["batch"], row["dtype"]) for row in run.rows}
    assert len(cells) == 8 and len(run.rows) == 8 * 3
    assert {row["engine"] for row in run.rows} == {OURS, PLAIN, "torch-eager"}
    assert len(run.layers) == len(run.ideas) == 1
    assert sorted(line.split(":")[0] for line in run.skipped) == [
        "onnxruntime",
        "torch-compile",
        "torch-onnx",
    ]


@pytest.mark.parametrize("seconds", [130.0, 150.0, 250.0])
def test_suite_ends_in_time_and_names_each_gap(seconds, monkeypatch):
    machine = Machine(monkeypatch, 10.0)
    run, lines = run_suite(machine, seconds)
    assert machine.now <= seconds
    assert run.rows
    for height, width in ((64, 64), (32, 96)):
        for batch in (1, 8):
            for dtype in ("bfloat16", "float32"):
                name = f"{height}x{width}, batch {batch}, {dtype}"
                is_there = any(line.startswith(f"{name}: bisenet_jax") for line in lines)
                assert is_there != any(
                    line.startswith(f"{name}: about") for line in run.skipped
                )
    assert [line for line in lines if line.startswith("skipped")] == [
        f"skipped  {line}" for line in run.skipped
    ]


def test_a_cell_without_memory_is_skipped(monkeypatch):
    machine = Machine(monkeypatch, 1.0)

    def measure(subject, engines, budget, lose):
        if subject.batch == 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nat 0x1")
        return machine.measure(subject, engines, budget)

    monkeypatch.setattr(suite, "measure_inference", measure)
    run, lines = run_suite(machine, 1000.0)
    assert {row["batch"] for row in run.rows} == {1}
    lost = [
        line for line in run.skipped if line.endswith(": RESOURCE_EXHAUSTED: Out of memory")
    ]
    # Ours is tried again without the peer.
    assert len(lost) == 8 and len(run.rows) == 4 * 3
    assert lost[2] == lost[3] and lost[2].startswith("64x64, batch 8, float32: RuntimeError: ")
    assert lines.count("64x64, batch 8, float32: bisenet_jax, plain-model") == 1


def test_a_peer_that_fails_takes_no_other_along(monkeypatch):
    machine = Machine(monkeypatch, 1.0)
    asked = []

    def measure(subject, engines, budget, lose):
        asked.append("torch-eager" in engines)
        if "torch-eager" in engines:
            lose(FailedEngineError("torch-eager", "cannot run: no compiler"))
        return machine.measure(subject, [OURS, PLAIN], budget)

    monkeypatch.setattr(suite, "measure_inference", measure)
    run, _ = run_suite(machine, 1000.0)
    assert len(run.rows) == 8 * 2
    assert "64x64, batch 1, bfloat16, torch-eager cannot run: no compiler" in run.skipped
    # Once is enough.
    assert asked == [True] + [False] * 7


def test_a_peer_that_ran_before_is_asked_again(monkeypatch):
    machine = Machine(monkeypatch, 1.0)

    def measure(subject, engines, budget, lose):
        if subject.batch == 8:
            lose(FailedEngineError("torch-eager", "cannot run: no memory"))
            engines = [OURS, PLAIN]
        return machine.measure(subject, engines, budget)

    monkeypatch.setattr(suite, "measure_inference", measure)
    run, _ = run_suite(machine, 1000.0)
    assert len(run.rows) == 4 * 3 + 4 * 2
    assert sum("no memory" in line for line in run.skipped) == 4


class LibraryError(Exception):
    """As onnxruntime's, of no other class."""


def test_a_profiler_that_fails_costs_its_own_table_only(monkeypatch):
    machine = Machine(monkeypatch, 1.0)

    def fail(*_):
        assert machine.kept == 1, "what was found before is on the disk"
        raise LibraryError("of CUPTI\nat 0x1")

    monkeypatch.setattr(suite, "measure_layers", fail)
    monkeypatch.setattr(suite, "measure_ideas", fail)
    run, _ = run_suite(machine, 1000.0)
    assert len(run.rows) == 8 * 3 and run.layers == run.ideas == []
    reason = "LibraryError: of CUPTI"
    assert {f"layers: {reason}", f"ideas: {reason}"} <= set(run.skipped)


def test_a_profiler_that_tells_nothing_is_said(monkeypatch, subject):
    monkeypatch.setattr(layers, "profile_boxes", lambda *_: {})
    with pytest.raises(ConfigError, match="told of no instruction.*CUPTI"):
        layers.measure_layers(subject, Budget(1, 0.1))


def test_a_cpu_is_not_asked_for_more_than_it_holds():
    cells = list(Plan.for_backend("cpu").cells())
    assert ((1024, 2048), 1, "float32") in cells and ((720, 960), 8, "float32") in cells
    assert ((1024, 2048), 8, "float32") not in cells and len(cells) == 9


def test_the_most_wanted_comes_first():
    cells = list(Plan.for_backend("gpu").cells())
    assert cells[0] == ((512, 1024), 1, "bfloat16")
    assert len(cells) == len(set(cells)) == 5 * 3 * 3
    assert set(cells[1:4]) == {
        ((512, 1024), 1, "float16"),
        ((512, 1024), 8, "bfloat16"),
        ((1024, 2048), 1, "bfloat16"),
    }


def test_page_is_whole_and_shows_each_engine(subject):
    data = {
        "preset": "paper",
        "device": {"kind": "cpu", "host_processor": "A <fast> one"},
        "versions": {"jax": jax.__version__},
        "date": "today",
        "protocol": "1 & 2",
        "skipped": ["torch: none"],
        "rows": [
            row_of(dataclasses.replace(subject, batch=batch), engine, 1.0)
            for batch in (1, 8)
            for engine in (OURS, PLAIN)
        ],
        "layers": [layers.measure_layers(subject, Budget(1, 0.1))],
        "ideas": [
            {"idea": "x", "dtype": "float32", "batch": 1, "ratio": 1.2},
        ],
    }
    page = render_page(data)
    assert "A &lt;fast&gt; one" in page and "torch: none" in page
    drawings = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page)]
    assert len(drawings) == 4
    bars = [mark for mark in drawings[0] if mark.tag == "rect"]
    assert len(bars) == 4 + 2  # and the legend's
    assert len([mark for mark in drawings[2] if mark.tag == "circle"]) >= 8
