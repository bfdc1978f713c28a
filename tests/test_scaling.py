"""What is said to be sent is what the compiled program sends; eight devices are as two."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from math import prod
from pathlib import Path

import jax
import numpy as np
import pytest

from benchmarks import scaling
from bisenet_jax import config_file, parallel
from bisenet_jax.config import Config
from bisenet_jax.data.sources import open_source
from bisenet_jax.model.presets import PRESETS, build_model
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import create_state
from bisenet_jax.training.step import make_train_step

ROOT = Path(__file__).parents[1]
COLLECTIVES = (
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


def numbers_sent(program: str) -> dict[str, int]:
    """From HLO text: of each kind of collective operation, how many numbers it takes in all."""
    found: dict[str, int] = {}
    for line in program.splitlines():
        if kind := re.search(COLLECTIVES, line):
            result = line[: kind.start()].partition(" = ")[2]
            shapes = re.findall(r"\b(\w+)\[([\d,]*)\]", result)
            assert {dtype for dtype, _ in shapes} == {"f32"}, line
            sizes = [prod(int(n) for n in shape.split(",") if n) for _, shape in shapes]
            found[kind[1]] = found.get(kind[1], 0) + sum(sizes)
    return found


def run_steps(options: Config, devices: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Three steps on some devices: what their program sends, and the parameters by name."""
    model = build_model(**dataclasses.asdict(options.model))
    optimizer = make_optimizer(options.optimizer, options.train.steps)
    source = open_source(options.data, "train")
    examples = [source[index] for index in range(8)]
    batch = {
        name: np.stack([example[name] for example in examples]) for name in ("image", "label")
    }
    batch["size"] = np.tile(np.int32(batch["label"].shape[1:]), (8, 1))
    mesh = parallel.make_mesh(jax.devices()[:devices])
    step = parallel.compile_train_step(make_train_step(model, optimizer, options), mesh)
    state = parallel.replicate(create_state(model, optimizer, seed=0), mesh)
    compiled = step.lower(state, parallel.split_batch(batch, mesh)).compile()
    for _ in range(3):
        state, _ = compiled(state, parallel.split_batch(batch, mesh))
        jax.block_until_ready(state)
    named = jax.tree_util.tree_flatten_with_path(state.params)[0]
    params = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named}
    return numbers_sent(compiled.as_text()), params


def test_eight_devices_equal_two_and_send_what_is_said(tmp_path, tiny_config):
    tiny_config.model.semantic_repeats = (1, 1, 1)
    # Rounding differs between two sums and eight; a small step does not amplify it.
    tiny_config.optimizer.learning_rate = 0.001
    config_file.save(tiny_config, tmp_path)
    simulated = "--xla_force_host_platform_device_count=8"
    told = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        cwd=ROOT,
        env=os.environ
        | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {simulated}",
            "PYTHONPATH": str(ROOT),  # for `benchmarks`, which is not installed
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert told.returncode == 0, told.stderr
    model = build_model(**dataclasses.asdict(tiny_config.model))
    traffic = scaling.describe_model(model)
    sent, two = run_steps(tiny_config, 2)
    assert sent == {"all-reduce": traffic.bytes // scaling.BYTES}
    assert json.loads(told.stdout) == sent
    with np.load(tmp_path / "params.npz") as eight:
        assert two.keys() == set(eight)
        for name, values in two.items():
            np.testing.assert_allclose(values, eight[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_traffic_counts_what_training_holds(preset):
    model = build_model(preset, num_classes=19)
    traffic = scaling.describe_model(model)
    state = jax.eval_shape(
        lambda: create_state(model, make_optimizer(Config().optimizer, 1), seed=0)
    )
    assert traffic.gradients == sum(prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    means = [
        prod(leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state.batch_stats)[0]
        if jax.tree_util.keystr(path[-1:], simple=True) == "mean"
    ]
    assert (traffic.norms, traffic.statistics) == (len(means), 3 * sum(means))
    assert traffic.losses == 10
    assert traffic.bytes == 4 * (traffic.gradients + traffic.statistics + traffic.losses)


def test_the_model_of_time():
    traffic = scaling.Traffic(gradients=10**9, statistics=0, losses=0, norms=0)
    assert scaling.all_reduce_seconds(traffic, 1) == 0
    # Of 4 GB, a ring of eight moves 2 * 7 / 8; then two hosts an eighth of it, 2 * 1 / 2.
    inside = 7e9 / scaling.NVLINK.bandwidth
    between = 0.5e9 / scaling.INFINIBAND.bandwidth
    assert scaling.all_reduce_seconds(traffic, 8) == pytest.approx(inside, rel=1e-2)
    assert scaling.all_reduce_seconds(traffic, 16) == pytest.approx(inside + between, rel=1e-2)
    # Small messages cost their latency, however small they are.
    small = scaling.Traffic(gradients=0, statistics=0, losses=0, norms=50)
    waits = 101 * 2 * 3 * scaling.NVLINK.latency
    assert scaling.all_reduce_seconds(small, 8) == pytest.approx(waits)

    one, _, many, _ = scaling.rows(traffic, step_seconds=0.5, images=16)
    assert one["efficiency"] == 1 and one["images_per_second"] == 32
    assert 0 < many["efficiency"] == scaling.efficiency(traffic, 0.5, 64) < 1
    assert many["images_per_second"] == pytest.approx(64 * 32 * many["efficiency"])
    assert many["images_per_second_and_host"] == pytest.approx(many["images_per_second"] / 8)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    sent_by_eight, params_of_eight = run_steps(config_file.load(folder), 8)
    np.savez(folder / "params.npz", **params_of_eight)
    print(json.dumps(sent_by_eight))
