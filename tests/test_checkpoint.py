"""Checkpoints of a narrow network: equal bit for bit, and messages that name what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax import parallel
from bisenet_jax.config import OptimizerConfig
from bisenet_jax.errors import CheckpointError
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import checkpoint
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import TrainState, create_state

NARROW = {
    "num_classes": 3,
    "detail_channels": (8, 8, 16),
    "semantic_late_channels": (8, 16),
    "semantic_repeats": (1, 1, 1),
    "head_channels": 8,
    "booster_channels": (4, 4, 4, 4),
}


def template_of(**changes) -> TrainState:
    """Shapes and dtypes of a state, as train.py asks for them."""
    model = build_model(**(NARROW | changes))
    optimizer = make_optimizer(OptimizerConfig(), 10)
    return jax.eval_shape(lambda: create_state(model, optimizer, seed=0))


@pytest.fixture(scope="module")
def template() -> TrainState:
    return template_of()


@pytest.fixture(scope="module")
def numbers(template) -> TrainState:
    """A state whose every number is another one, in numpy."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (random.normal(size=leaf.shape) * 1000).astype(leaf.dtype), template
    )


@pytest.fixture(scope="module")
def saved(numbers, tmp_path_factory):
    """A run with the one checkpoint 7."""
    workdir = tmp_path_factory.mktemp("saved")
    with checkpoint.open_checkpoints(workdir, keep=2) as checkpoints:
        checkpoint.save(checkpoints, parallel.replicate(numbers, parallel.make_mesh()), 7, 0.5)
    return workdir


def small_state(value: float) -> TrainState:
    """For tests in which the network does not matter."""
    array = jnp.full(4, value, jnp.float32)
    return TrainState(jnp.int32(value), {"kernel": array}, {"mean": array}, ())


def assert_same(actual: TrainState, expected: TrainState) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for leaf, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert leaf.dtype == other.dtype and leaf.shape == other.shape
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("devices", [1, 2])
def test_round_trip_is_bit_equal(saved, template, numbers, devices):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    with checkpoint.open_checkpoints(saved) as checkpoints:
        restored = checkpoint.restore(checkpoints, 7, template, mesh)
    assert_same(restored, numbers)
    for leaf in jax.tree.leaves(restored):
        assert leaf.is_fully_replicated and leaf.sharding.device_set == set(mesh.devices)


@pytest.mark.parametrize("devices", [1, 2])
def test_state_may_be_donated_right_after_save(tmp_path, devices):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    start = jax.tree.map(lambda leaf: np.arange(1 << 20, dtype=leaf.dtype), small_state(0))
    step = parallel.compile_train_step(
        lambda state, _: (jax.tree.map(lambda leaf: leaf * 2 + 1, state), {}), mesh
    )
    batch = parallel.split_batch(np.zeros(2), mesh)
    # Twice around, so that the state lies in the memory of a step's output, as in a run.
    state, _ = step(parallel.replicate(start, mesh), batch)
    expected = jax.tree.map(lambda leaf: leaf * 2 + 1, start)
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoint.save(checkpoints, state, 1, None)
        for _ in range(5):
            state, _ = jax.block_until_ready(step(state, batch))
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoint.restore(checkpoints, 1, jax.eval_shape(lambda: expected), mesh)
    assert_same(restored, expected)


def test_latest_and_best_stay(tmp_path):
    scores = {1: 0.5, 2: 0.9, 3: None, 4: 0.1, 5: 0.3, 6: None}
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoint.latest_step(checkpoints) is None
        assert checkpoint.best_step(checkpoints) is None
        for step, miou in scores.items():
            checkpoint.save(checkpoints, small_state(step), step, miou)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert [found.step for found in checkpoints.checkpoints] == [2, 5, 6]
        assert checkpoint.latest_step(checkpoints) == 6
        assert checkpoint.best_step(checkpoints) == 2
        mesh = parallel.make_mesh()
        for step in (2, 5, 6):
            restored = checkpoint.restore(checkpoints, step, small_state(0), mesh)
            assert_same(restored, small_state(step))
    # A run that is continued keeps to the same rule.
    with checkpoint.open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, small_state(7), 7, 0.95)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert [found.step for found in checkpoints.checkpoints] == [7]


def test_the_later_of_equals_is_the_best(tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep=5) as checkpoints:
        for step, miou in ((1, 0.5), (2, 0.5), (3, 0.25), (4, None)):
            checkpoint.save(checkpoints, small_state(step), step, miou)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert checkpoint.best_step(checkpoints) == 2


def test_no_score_is_no_best(tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, small_state(1), 1, None)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert checkpoint.best_step(checkpoints) is None
        assert checkpoint.latest_step(checkpoints) == 1


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist: give the --workdir"):
        with checkpoint.open_checkpoints(tmp_path / "nowhere"):
            pass
    assert not list(tmp_path.iterdir())


def test_absent_step_lists_those_there(saved, template):
    with checkpoint.open_checkpoints(saved) as checkpoints:
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 9; there are \[7\]"):
            checkpoint.restore(checkpoints, 9, template, parallel.make_mesh())


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        (
            {"num_classes": 5},
            r"booster_s3/classifier/bias is float32\[3\] there and float32\[5\] here",
        ),
        (
            {"detail_channels": (8, 8, 32), "semantic_ratio": 0.25},
            r"aggregation/detail_down/bn/bias is float32\[16\] there and float32\[32\] here",
        ),
        (
            {"semantic_repeats": (2, 1, 1)},
            r"semantic_branch/s3_2/depthwise/bn/bias is absent there and float32\[24\] here",
        ),
        (
            {"context_last_form": "conv_bn_relu"},
            r"context_embedding/last/bn/bias is absent there and float32\[16\] here",
        ),
    ],
    ids=["classes", "width", "depth", "form"],
)
def test_another_network_is_refused_by_name(saved, changes, first):
    with checkpoint.open_checkpoints(saved) as checkpoints:
        with pytest.raises(CheckpointError, match=first) as error:
            checkpoint.restore(checkpoints, 7, template_of(**changes), parallel.make_mesh())
    message = str(error.value)
    assert message.startswith(
        "the checkpoint of step 7 does not fit this configuration: params/"
    )
    assert message.endswith("use the configuration it was trained with, or another --workdir")
    assert len(message) < 400


@pytest.mark.parametrize("there", [True, False])
def test_an_array_too_many_is_refused_by_name(tmp_path, there):
    plain = small_state(1)
    more = plain.replace(params=plain.params | {"scale": jnp.zeros(2, jnp.bfloat16)})
    held, template = (more, plain) if there else (plain, more)
    with checkpoint.open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, held, 1, None)
    places = "bfloat16[2] there and absent" if there else "absent there and bfloat16[2]"
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoint.restore(checkpoints, 1, template, parallel.make_mesh())
    assert f": params/scale is {places} here, and 0 more arrays differ;" in str(error.value)


def test_another_dtype_is_refused(tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, small_state(1), 1, None)
    half = small_state(1).replace(step=jnp.zeros((), jnp.float32))
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            CheckpointError, match=r"step is int32\[\] there and float32\[\] here"
        ):
            checkpoint.restore(checkpoints, 1, half, parallel.make_mesh())


def test_a_half_written_checkpoint_is_none(tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoint.save(checkpoints, small_state(step), step, 0.5)
    folder = tmp_path / checkpoint.FOLDER
    # orbax writes under this name and renames at the end.
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        assert [found.step for found in checkpoints.checkpoints] == [1]
        assert checkpoint.latest_step(checkpoints) == checkpoint.best_step(checkpoints) == 1
    # The run is continued from there and writes the step anew.
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoint.save(checkpoints, small_state(5), 2, 0.5)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        restored = checkpoint.restore(checkpoints, 2, small_state(0), parallel.make_mesh())
    assert_same(restored, small_state(5))


@pytest.mark.parametrize("lost", ["state/_METADATA", "state/manifest.ocdbt", "state"])
def test_a_damaged_checkpoint_is_named(tmp_path, lost):
    with checkpoint.open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.save(checkpoints, small_state(1), 1, None)
    path = tmp_path / checkpoint.FOLDER / "1" / lost
    path.rename(tmp_path / "lost")
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            CheckpointError,
            match="step 1 is damaged and cannot be read .*checkpoints/1 may be deleted",
        ):
            checkpoint.restore(checkpoints, 1, small_state(0), parallel.make_mesh())


def test_an_average_is_kept_and_one_that_is_off_leaves_no_trace(tmp_path):
    plain = small_state(1)
    averaged = plain.replace(ema={"params": {"kernel": jnp.full(4, 7.0)}})
    mesh = parallel.make_mesh()
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        checkpoint.save(checkpoints, plain, 1, None)
        checkpoint.save(checkpoints, averaged, 2, None)
    with checkpoint.open_checkpoints(tmp_path) as checkpoints:
        held = checkpoints.checkpointables_metadata(1).metadata["state"]
        # As it was before there were averages: such runs go on.
        assert set(held) == {"step", "params", "batch_stats", "opt_state"}
        assert_same(checkpoint.restore(checkpoints, 1, plain, mesh), plain)
        assert_same(checkpoint.restore(checkpoints, 2, averaged, mesh), averaged)
        with pytest.raises(CheckpointError, match="ema/params/kernel is absent there"):
            checkpoint.restore(checkpoints, 1, averaged, mesh)
