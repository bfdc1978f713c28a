"""Rates by a clock of our own; a trace that is there, of the steps that were asked for."""

import gzip
import json
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tiny import NARROW
from bisenet_jax.complexity import count_macs, count_model_macs, count_training_macs
from bisenet_jax.config import AugmentConfig, Config, TrainConfig
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import pace
from bisenet_jax.training.pace import WARM_UP, Pace, Trace, step_flops, watch_each


def test_rates(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])

    def batches():
        while True:
            clock[0] += 0.5  # of waiting
            yield {}

    speed, source = Pace(batch_size=8, step_flops=3 * 10**12, began=100.0), batches()
    for _ in range(4):
        speed.wait_for(source, lambda _: None)
        clock[0] += 1.5  # of work
    assert speed.rates() == {
        "images_per_second": 4.0,
        "step_seconds": 2.0,
        "wait_share": 0.25,
        "teraflops_per_second": 1.5,
    }
    last = speed.rates()
    speed.restart()
    # Of a step that was made before the restart and is told after it.
    clock[0] += 1e-6
    assert speed.rates() == last
    speed.restart()
    speed.wait_for(source, lambda _: None)
    assert speed.rates()["wait_share"] == 1 and speed.rates()["images_per_second"] == 16


def test_work_of_a_step():
    model = build_model(**NARROW)
    config = Config(augment=AugmentConfig(64, 128), train=TrainConfig(batch_size=4))
    macs = count_training_macs(model, 64, 128)
    assert step_flops(model, config) == 2 * 3 * 4 * macs
    # Halved crops are a quarter of the work, boosters are some of it.
    config.augment.shrink = 2
    assert 3.9 < 2 * 3 * 4 * macs / step_flops(model, config) < 4.1
    assert macs > count_model_macs(model, 64, 128)
    config.augment = AugmentConfig(64, 128, enlarge=2)
    assert 3.9 < step_flops(model, config) / (2 * 3 * 4 * macs) < 4.1


def test_three_times_the_forward_pass_is_the_work_of_forward_and_backward():
    model = build_model(**NARROW, depthwise_lowering="conv")
    images = jnp.zeros((1, 64, 128, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, is_training=True))

    def loss(variables, images):
        outputs, _ = model.apply(variables, images, is_training=True, mutable=["batch_stats"])
        return sum(leaf.sum() for leaf in jax.tree.leaves(outputs))

    traced = count_macs(jax.grad(loss, argnums=(0, 1)), variables, images)
    np.testing.assert_allclose(traced, 3 * count_training_macs(model, 64, 128), rtol=0.01)


def test_a_trace_shows_its_steps_and_no_other(tmp_path):
    work = jax.jit(lambda x: x @ x)
    x, folder = jnp.eye(64), None
    with Trace(tmp_path, start_step=20, steps=2, total_steps=30) as trace:
        for step in range(21, 31):
            with trace.of(step):
                x = work(x)
            if found := trace.end(step, x):
                assert step == 20 + WARM_UP + 2
                folder = found
    assert folder is not None and list(folder.glob("*/*.xplane.pb"))
    (perfetto,) = folder.glob("*/perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(perfetto.read_bytes()))["traceEvents"]
    steps = {
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "train" and "step_num" in event.get("args", {})
    }
    assert steps == {20 + WARM_UP + 1, 20 + WARM_UP + 2}


def test_a_trace_that_is_cut_off_ends(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), Trace(tmp_path, 0, 5, 100) as trace:
            for step in range(1, 6):
                with trace.of(step):
                    pass
            raise KeyboardInterrupt


@pytest.mark.parametrize(("steps", "is_kept"), [(0, True), (2, False)])
def test_no_trace_unless_asked(tmp_path, steps, is_kept):
    with Trace(tmp_path, 0, steps, 10, is_kept=is_kept) as trace:
        for step in range(1, 11):
            with trace.of(step):
                pass
            assert trace.end(step, None) is None
    assert not list(tmp_path.iterdir())


def test_a_run_too_short_is_refused(tmp_path):
    message = (
        f"--profile 4 needs {4 + WARM_UP} steps, {WARM_UP} of them to warm up, and the run"
    )
    with pytest.raises(ConfigError, match=re.escape(message) + ".* has 5 left; trace fewer"):
        Trace(tmp_path, 95, 4, 100)
    # In every process, or the others would wait for the one that has gone.
    with pytest.raises(ConfigError, match="--profile 4"):
        Trace(tmp_path, 95, 4, 100, is_kept=False)
    Trace(tmp_path, 93, 4, 100)


def test_a_batch_that_does_not_come_is_told(monkeypatch):
    monkeypatch.setattr(pace, "PATIENCE", 0.02)
    told, has_come = [], threading.Event()

    def complain(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            has_come.set()

    def batches():
        yield {"quick": 1}
        assert has_come.wait(60)
        yield {"slow": 1}

    speed, source = Pace(1, 1), batches()
    assert speed.wait_for(source, complain) == {"quick": 1}
    before = threading.active_count()
    assert speed.wait_for(source, complain) == {"slow": 1}
    assert told[:3] == pytest.approx([0.02, 0.04, 0.06])
    assert threading.active_count() == before


def test_an_item_that_does_not_come_is_told_with_its_place(monkeypatch):
    monkeypatch.setattr(pace, "PATIENCE", 0.02)
    told, has_come = [], threading.Event()

    def complain(place: int, seconds: float) -> None:
        told.append((place, seconds))
        if place == 1:
            has_come.set()

    def items():
        yield "quick"
        assert has_come.wait(60)
        yield "slow"

    before = threading.active_count()
    assert list(watch_each(items(), complain)) == ["quick", "slow"]
    assert (1, 0.02) in told and threading.active_count() == before
