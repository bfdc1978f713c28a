"""Where arrays lie: the state on every device, the batch split, old memory given back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax import parallel
from bisenet_jax.errors import ConfigError

BATCH = {"image": np.arange(24, dtype=np.uint8).reshape(4, 6), "label": np.arange(4.0)}


@pytest.fixture(params=[1, 2], ids=["one device", "two devices"])
def mesh(request):
    return parallel.make_mesh(jax.devices()[: request.param])


def test_mesh_takes_all_devices():
    mesh = parallel.make_mesh()
    assert mesh.axis_names == ("data",) and mesh.size == jax.device_count() == 2


@pytest.mark.parametrize(("batch_size", "cure"), [(3, 2), (1, 2), (7, 6), (8, None)])
def test_batches_must_be_divisible(batch_size, cure):
    mesh = parallel.make_mesh()
    if cure is None:
        parallel.require_divisible("config.train.batch_size", batch_size, mesh)
        return
    with pytest.raises(ConfigError) as error:
        parallel.require_divisible("config.train.batch_size", batch_size, mesh)
    assert str(error.value) == (
        f"config.train.batch_size {batch_size} must be divisible by the 2 devices; use {cure}"
    )


def test_one_device_divides_everything():
    parallel.require_divisible("batch_size", 7, parallel.make_mesh(jax.devices()[:1]))


def test_replicate_puts_a_whole_copy_on_each_device(mesh):
    tree = {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "step": jnp.int32(7)}
    for name, leaf in parallel.replicate(tree, mesh).items():
        assert leaf.is_fully_replicated and leaf.dtype == tree[name].dtype
        assert {shard.device for shard in leaf.addressable_shards} == set(mesh.devices)
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, tree[name])


def test_split_batch_gives_each_device_its_share(mesh):
    for name, leaf in parallel.split_batch(BATCH, mesh).items():
        np.testing.assert_array_equal(leaf, BATCH[name])
        assert len(leaf.addressable_shards) == mesh.size
        share = 4 // mesh.size
        for shard in leaf.addressable_shards:
            first = list(mesh.devices).index(shard.device) * share
            np.testing.assert_array_equal(shard.data, BATCH[name][first : first + share])


def test_train_step_reuses_the_memory_of_the_state(mesh):
    def step(state, batch):
        total = batch["image"].sum(dtype=jnp.int32)
        return state + total, {"total": total}

    compiled = parallel.compile_train_step(step, mesh)
    state = parallel.replicate(np.ones(1000, np.int32), mesh)
    batch = parallel.split_batch(BATCH, mesh)
    new_state, metrics = jax.block_until_ready(compiled(state, batch))
    np.testing.assert_array_equal(new_state, np.full(1000, 1 + BATCH["image"].sum()))
    assert metrics["total"] == BATCH["image"].sum()
    assert state.is_deleted() and not batch["image"].is_deleted()
    assert new_state.is_fully_replicated and metrics["total"].is_fully_replicated
    # The result fits in again as it is: nothing is compiled or moved in the next step.
    newer, _ = jax.block_until_ready(compiled(new_state, batch))
    assert new_state.is_deleted() and newer.sharding == new_state.sharding
    assert compiled._cache_size() == 1


def test_evaluate_step_keeps_its_variables(mesh):
    compiled = parallel.compile_evaluate_step(
        lambda variables, batch: (batch["label"] + 1, batch["label"] * variables), mesh
    )
    variables = parallel.replicate(np.float32(3), mesh)
    counts, labels = jax.block_until_ready(
        compiled(variables, parallel.split_batch(BATCH, mesh))
    )
    np.testing.assert_array_equal(counts, [1, 2, 3, 4])
    np.testing.assert_array_equal(labels, [0, 3, 6, 9])
    assert len({str(shard.index) for shard in labels.addressable_shards}) == mesh.size
    assert not variables.is_deleted()


def test_deterministic_reaches_the_compiler(monkeypatch):
    asked, jit = [], jax.jit

    def watched_jit(function, **options):
        asked.append(options["compiler_options"])
        return jit(function, **options)

    monkeypatch.setattr(parallel.jax, "jit", watched_jit)
    mesh = parallel.make_mesh()
    for deterministic in (False, True):
        for compile_step in (parallel.compile_train_step, parallel.compile_evaluate_step):
            step = compile_step(lambda x, y: (x, y), mesh, deterministic=deterministic)
    assert asked == [None, None, *[{"xla_gpu_deterministic_ops": True}] * 2]
    # XLA knows the option, on every backend.
    x = np.arange(mesh.size)
    np.testing.assert_array_equal(step(x, parallel.split_batch(x, mesh))[1], x)
