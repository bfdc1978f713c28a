"""The stopwatch on a clock that the test winds, and bench.py as a user starts it."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import inference, timing
from benchmarks.timing import Budget, Case, Measurement
from bisenet_jax import config_file
from bisenet_jax.config import Config, ModelConfig
from bisenet_jax.errors import ConfigError

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
    assert timing.time_stream(device.case(), inputs, Budget(100, 0.0), clock) == (1, 2.0)


def test_stream_keeps_a_bounded_number_of_calls_under_way():
    clock = FakeClock()
    device = Device(0.25, clock)
    stream = timing.time_stream(
        device.case(), itertools.cycle((0, 1)), Budget(10, 100), clock, in_flight=3
    )
    assert stream == (10, 2.5)
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


def test_batch_that_does_not_fit_is_a_message(monkeypatch):
    def exhaust(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(inference, "_prepare", exhaust)
    with pytest.raises(ConfigError, match="--batch 512 at 64x64 does not fit"):
        inference.measure_inference(
            Config(),
            height=64,
            width=64,
            batches=[512],
            dtypes=["float32"],
            budget=Budget(1, 1),
        )


def run_bench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "bench.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_bench_measures_and_writes_json(tmp_path):
    small = ModelConfig(
        detail_channels=(16, 16, 32), semantic_repeats=(1, 1, 1), dtype="bfloat16"
    )
    config_file.save(Config(model=small), tmp_path)
    path = tmp_path / "results" / "speed.json"
    done = run_bench(
        *("--workdir", str(tmp_path), "--height", "40", "--width", "64", "--batch", "2"),
        *("--dtype", "float32", "--seconds", "0.1", "--repeats", "9", "--json", str(path)),
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(path.read_text(encoding="utf-8"))
    assert set(data) >= {"parameters", "gmacs", "device", "versions", "rows"}
    assert data["gmacs"] == pytest.approx(sum(data["gmacs_by_block"].values()))
    assert data["device"]["platform"] == "cpu"
    assert set(data["versions"]) >= {"python", "jax", "jaxlib", "flax", "bisenet_jax"}
    sizes = {row["name"]: (row["height"], row["width"]) for row in data["rows"]}
    assert sizes == {
        "uint8 to labels": (40, 64),
        "bare network": (64, 64),
        "host to host": (40, 64),
    }
    for row in data["rows"]:
        assert (row["batch"], row["dtype"]) == (2, "float32")
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"]
        assert row["latency_ms"]["p90"] <= row["latency_ms"]["p99"]
        assert row["images_per_second"] > 0
        assert "Inside the timer" in row["protocol"] and "no boosters" in row["protocol"]
        assert row["name"] in done.stdout
    assert f"{data['parameters']:,} parameters" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--batch", "1,none"), "error: --batch '1,none' must be"),
        (("--dtype", "int8", "--height", "64"), "error: --dtype 'int8' is not known"),
    ],
)
def test_bench_refuses_with_one_line(arguments, message):
    done = run_bench(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_bench_help():
    done = run_bench("--help")
    assert done.returncode == 0
    assert "--batch" in done.stdout and "latency" in done.stdout
