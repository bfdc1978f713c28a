"""The stopwatch on a clock that the test winds, and bench.py as a user starts it."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.machine import share_gpu_memory
from benchmarks.timing import Budget, Case, Measurement
from bisenet_jax import config_file
from bisenet_jax.config import ModelConfig

ROOT = Path(__file__).parent.parent


class Device:
    """Work that takes set seconds of a clock without hands, one call after the other."""

    def __init__(self, seconds: float, clock: "FakeClock"):
        self.seconds, self.clock = seconds, clock
        self.free_at, self.under_way, self.most_under_way = 0.0, 0, 0
        self.seen: list[int] = []

    def call(self, data: int) -> float:
        self.seen.append(data)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.free_at = max(self.free_at, self.clock.now) + self.seconds
        return self.free_at

    def wait(self, done_at: float) -> None:
        self.under_way -= 1
        self.clock.now = max(self.clock.now, done_at)

    def case(self, inputs=(0, 1, 2), images=1) -> Case:
        return Case(self.call, inputs, images, wait=self.wait)


class FakeClock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_latency_waits_for_each_call_and_takes_inputs_in_turn():
    clock = FakeClock()
    device = Device(0.5, clock)
    seconds = timing.time_calls(
        device.case(), itertools.cycle((0, 1, 2)), Budget(5, 100), clock
    )
    assert seconds == [0.5] * 5
    assert device.most_under_way == 1
    assert device.seen == [0, 1, 2, 0, 1]


def test_budget_ends_by_time_but_not_before_one_call():
    clock = FakeClock()
    device = Device(2.0, clock)
    inputs = itertools.cycle((0,))
    assert timing.time_calls(device.case(), inputs, Budget(100, 5.0), clock) == [2.0] * 3
    assert timing.time_calls(device.case(), inputs, Budget(100, 0.1), clock) == [2.0]
    assert timing.time_stream(device.case(), inputs, 1, clock) == 2.0


def test_stream_keeps_a_bounded_number_of_calls_under_way():
    clock = FakeClock()
    device = Device(0.25, clock)
    stream = timing.time_stream(device.case(), itertools.cycle((0, 1)), 10, clock, in_flight=3)
    assert stream == 2.5
    assert device.most_under_way == 3
    assert device.under_way == 0


def test_measure_takes_turns_and_reports_progress():
    clock = FakeClock()
    fast, slow = Device(0.001, clock), Device(0.01, clock)
    turns = []
    results = timing.measure(
        [fast.case(images=2), slow.case()],
        Budget(calls=8, seconds=1000),
        rounds=2,
        clock=clock,
        progress=lambda: turns.append((len(fast.seen), len(slow.seen))),
    )
    warm_up = timing.WARM_UP_CALLS
    assert turns == [
        (warm_up + fast_calls, warm_up + slow_calls)
        for fast_calls, slow_calls in ((8, 0), (8, 8), (16, 8), (16, 16))
    ]
    assert [len(result.latencies) for result in results] == [8, 8]
    assert [result.stream_calls for result in results] == [8, 8]
    assert results[0].frames_per_second == pytest.approx(2 / 0.001)
    assert results[1].images_per_second == pytest.approx(1 / 0.01)


@pytest.mark.parametrize("budget", [Budget(1000, 40.0), Budget(1000, 0.1), Budget(6, 40.0)])
def test_engines_that_return_early_and_when_done_stream_as_long(budget):
    clock = FakeClock()
    early, done = Device(0.5, clock), Device(0.5, clock)

    def call(data: int) -> float:
        done_at = done.call(data)
        done.wait(done_at)
        return done_at

    results = timing.measure(
        [early.case(), Case(call, (0,), 1, wait=lambda _: None)], budget, clock=clock
    )
    calls = {40.0: 40, 0.1: 4}[budget.seconds] if budget.calls > 6 else 8
    assert [result.stream_calls for result in results] == [calls, calls]
    assert results[0].images_per_second == results[1].images_per_second == 2


def test_percentiles_are_milliseconds():
    measurement = Measurement(1, tuple(np.arange(1, 102) / 1000), 1, 1.0)
    assert measurement.latency_ms == pytest.approx({"median": 51.0, "p90": 91.0, "p99": 100.0})


def test_compiled_program_gives_the_same_numbers():
    x = jnp.ones((4, 4))
    program = timing.compile_program(lambda x: x @ x, x, clock=itertools.count().__next__)
    assert program.compile_seconds == 1
    assert program.run(x).tolist() == (x @ x).tolist()


def test_peak_memory_is_none_where_no_device_tells():
    class Silent:
        def memory_stats(self):
            return None

    class Telling:
        def memory_stats(self):
            return {"peak_bytes_in_use": 7}

    assert timing.peak_memory_bytes([Silent()]) is None
    assert timing.peak_memory_bytes([Silent(), Telling()]) == 7


def test_pause_is_followed_by_a_call_that_does_not_count():
    clock = FakeClock()
    device = Device(0.5, clock)
    (result,) = timing.measure(
        [device.case()], Budget(4, 1e9), rounds=2, pause=1e-6, clock=clock
    )
    assert len(result.latencies) == result.stream_calls == 4
    assert len(device.seen) == timing.WARM_UP_CALLS + 2 + 4 + 4


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_peers_get_half_of_a_gpu_unless_the_user_says_otherwise(name):
    set_by_user = {name: "0.3"}
    share_gpu_memory(set_by_user)
    assert set_by_user == {name: "0.3"}
    bare: dict[str, str] = {}
    share_gpu_memory(bare)
    assert bare == {"XLA_CLIENT_MEM_FRACTION": "0.5"}


def run_bench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "bench.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def workdir(tiny_config, tmp_path):
    config_file.save(tiny_config, tmp_path)
    return tmp_path


SMALL = ("--height", "40", "--width", "64", "--seconds", "0.1", "--repeats", "9")


def test_bench_measures_and_writes(workdir):
    path, page = workdir / "results" / "speed.json", workdir / "results" / "speed.html"
    done = run_bench(
        *("--workdir", str(workdir), *SMALL, "--batch", "2", "--dtype", "float32"),
        *("--against", "host-to-host,onnxruntime", "--json", str(path), "--html", str(page)),
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text(encoding="utf-8"))
    assert set(data) >= {"parameters", "gmacs", "device", "versions", "protocol", "rows"}
    assert data["device"]["platform"] == "cpu"
    assert set(data["versions"]) >= {"python", "jax", "jaxlib", "flax", "bisenet_jax"}
    rows = {row["engine"]: row for row in data["rows"]}
    assert list(rows) == ["bisenet_jax", "plain-model", "host-to-host", "onnxruntime"]
    for row in rows.values():
        assert (row["batch"], row["dtype"]) == (2, "float32")
        assert (row["height"], row["width"]) == (40, 64)
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        assert row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["images_per_second"] > 0 and row["roofline_share"] > 0
        ours = rows["bisenet_jax"]["latency_ms"]["median"]
        assert row["ratio"] == pytest.approx(row["latency_ms"]["median"] / ours)
        assert row["engine"] in done.stdout and row["inside_timer"]
    assert rows["bisenet_jax"]["kernels"] > 0
    assert f"{data['parameters']:,} parameters" in done.stdout
    assert "<svg" in page.read_text(encoding="utf-8")


def test_bench_suite_keeps_a_budget_and_says_what_it_skips(workdir):
    path = workdir / "suite.json"
    arguments = ("--workdir", str(workdir), "--minutes", "0.02", "--json", str(path))
    done = run_bench("suite", *arguments)
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["rows"] == data["ideas"] == data["layers"] == []
    assert any("512x1024, batch 1, float32" in line for line in data["skipped"])
    assert "skipped  512x1024" in done.stdout
    # Two engines at 40 s each, as nothing is known yet, and the time of their rows.
    about = [re.search("float32: about (\\d+) s", done.stdout)]
    arguments = (*arguments, "--seconds", "100")
    about.append(re.search("float32: about (\\d+) s", run_bench("suite", *arguments).stdout))
    assert [int(found[1]) for found in about if found] == [86, 380]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--batch", "1,none"), "error: --batch '1,none' must be"),
        (("--dtype", "int8", "--height", "64"), "error: --dtype 'int8' is not known"),
        (("--against", "tensorrt"), "error: --against: engine 'tensorrt' is not known"),
        (("suite", "--batch", "8"), "error: --batch has no effect with suite; leave it out"),
        (("ideas", "--against", "all"), "error: --against has no effect with ideas"),
        (("training", "--height", "64"), "error: --height has no effect with training"),
        (("loader", "--html", "page.html"), "error: --html has no effect with loader"),
        (("everything",), "error: 'everything' is not one of inference, layers"),
    ],
)
def test_bench_refuses_with_one_line(arguments, message):
    done = run_bench(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_a_network_with_a_backbone_is_timed_too(tiny_config, tmp_path):
    tiny_config.model = ModelConfig(semantic_branch="mobilenetv2", head_channels=8)
    tiny_config.augment.shrink = 2
    tiny_config.augment.crop_height = tiny_config.augment.crop_width = 64
    config_file.save(tiny_config, tmp_path)
    done = run_bench("--workdir", str(tmp_path), *SMALL)
    assert done.returncode == 0, done.stderr
    assert "bisenet_jax" in done.stdout and "plain-model" in done.stdout
    assert "scaling pictures by 0.5 before it is not timed" in done.stdout
    done = run_bench("ideas", "--workdir", str(tmp_path), *SMALL)
    assert done.returncode == 2 and "'mobilenetv2' runs as it is written" in done.stderr


def test_bench_help():
    done = run_bench("--help")
    assert done.returncode == 0
    assert "--batch" in done.stdout and "latency" in done.stdout
