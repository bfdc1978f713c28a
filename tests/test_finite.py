"""Numbers that are none change nothing that is kept, and are told by name."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax.data.classes import IGNORE
from bisenet_jax.errors import TrainingError
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import finite
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import TrainState, create_state
from bisenet_jax.training.step import make_train_step


def small_state(value: float, step: int = 3) -> TrainState:
    array = jnp.full(4, value, jnp.float32)
    momentum = {"trace": array, "count": jnp.int32(step)}
    ema = {"params": {"kernel": array}}
    skipped = jnp.int32(1)
    return TrainState(
        jnp.int32(step), {"kernel": array}, {"mean": array}, momentum, ema, skipped
    )


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["loss", "gradient_norm"])
def test_a_skipped_step_changes_only_the_counters(number, place):
    old, new = small_state(1.0), small_state(2.0, step=4)
    good = {"loss": jnp.float32(1), "gradient_norm": jnp.float32(2)}
    kept = jax.jit(finite.keep_unless_finite)(old, new, good)
    jax.tree.map(np.testing.assert_array_equal, kept, new)

    kept = finite.keep_unless_finite(old, new, good | {place: jnp.float32(number)})
    assert kept.step == 4 and kept.opt_state["count"] == 4 and kept.skipped == 2
    for name in ("params", "batch_stats", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(kept, name), getattr(old, name))
    np.testing.assert_array_equal(kept.opt_state["trace"], old.opt_state["trace"])


def test_a_bad_step_is_told_with_all_that_helps():
    values = {
        "loss": np.nan,
        "loss_main": 1.5,
        "loss_booster_s3": np.inf,
        "learning_rate": 0.05,
    }
    with pytest.raises(TrainingError) as stopped:
        finite.require_finite(12, values, ["a_1", "b_2"], 10)
    message = str(stopped.value)
    assert message.startswith("step 12 is no longer finite: loss, loss_booster_s3 (loss nan, ")
    for part in ("learning_rate 0.05", "images a_1, b_2", "last good checkpoint: step 10"):
        assert part in message
    finite.require_finite(12, values | {"loss": 1.0, "loss_booster_s3": 1.0}, ["a"], None)


@pytest.mark.parametrize("place", ["params", "batch_stats", "ema"])
def test_a_bad_state_is_never_saved(place):
    state = small_state(1.0)
    finite.require_finite_state(7, state, 5)
    broken = jax.tree.map(lambda leaf: leaf.at[2].set(np.inf), getattr(state, place))
    with pytest.raises(TrainingError, match=rf"after step 7 .*{place}/.*not saved; .*step 5"):
        finite.require_finite_state(7, dataclasses.replace(state, **{place: broken}), 5)


@pytest.fixture
def one_step(tiny_config):
    """Makes one step of a narrow network on labels, with a change of the images."""
    tiny_config.model.semantic_repeats = (1, 1, 1)
    tiny_config.augment.crop_width = 64
    tiny_config.optimizer.ema_decay = 0.9
    tiny_config.loss.ohem = True
    # A class without weight, which may be the only one in sight.
    tiny_config.loss.class_weights = (0.0, *(1.0,) * 18)
    tiny_config.train.micro_batches = 2
    tiny_config.train.max_skipped_steps = 1
    model = build_model(**dataclasses.asdict(tiny_config.model))
    optimizer = make_optimizer(tiny_config.optimizer, tiny_config.train.steps)
    start = create_state(model, optimizer, 0, with_ema=True, counts_skips=True)
    step = jax.jit(make_train_step(model, optimizer, tiny_config))
    images = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)

    def make(label: np.ndarray, image: np.ndarray = images):
        size = np.full((4, 2), 64, np.int32)
        return start, *step(start, {"image": image, "label": label, "size": size})

    return make


def test_labels_that_teach_nothing_make_no_nan(one_step):
    ignored = np.full((4, 64, 64), IGNORE, np.uint8)
    half = ignored.copy()
    half[1:3] = 7  # a micro-batch holds one image of each kind
    for labels, teaches in ((ignored, False), (ignored * 0, False), (half, True)):
        _, state, metrics = one_step(labels)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
        assert metrics["skipped_steps"] == 0 and state.skipped == 0
        assert (metrics["loss"] > 0) == teaches == bool(metrics["gradient_norm"] > 0)


def test_a_step_of_nan_is_skipped_in_the_whole_state(one_step):
    start, state, metrics = one_step(
        np.full((4, 64, 64), 7, np.uint8), np.full((4, 64, 64, 3), np.nan, np.float32)
    )
    assert not np.isfinite(metrics["loss"]) and metrics["skipped_steps"] == 1
    assert state.step == 1 and state.skipped == 1
    for name in ("params", "batch_stats", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, name), getattr(start, name))
