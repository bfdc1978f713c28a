"""Data parallelism: one 1-D mesh of all devices, the state on each, the batch split over them.

The only file that says mesh. Under `jax.jit` XLA inserts the sums over devices by itself, so
gradients, batch statistics and losses are those of the global batch whatever the device count.
"""

import io
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bisenet_jax.errors import ConfigError

PyTree = Any


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh with the one axis `data` over the given devices, by default all of them.

    Evaluation takes `jax.local_devices()`: its processes then need not keep in step.
    """
    devices = jax.devices() if devices is None else devices
    # Auto axes: under Explicit ones, jax's default, a sort or a selection along a sharded
    # batch has to be annotated by hand.
    return jax.make_mesh((len(devices),), ("data",), (AxisType.Auto,), devices=devices)


def require_divisible(name: str, batch_size: int, mesh: Mesh) -> None:
    """Raise a ConfigError unless each device gets the same number of images."""
    processes = [device.process_index for device in mesh.devices.flat]
    if len({processes.count(process) for process in processes}) > 1:
        raise ConfigError(
            f"the {len(set(processes))} processes have different numbers of devices; make as "
            "many visible to each (CUDA_VISIBLE_DEVICES), so that each gets an equal share"
        )
    if batch_size % mesh.size:
        fitting = max(1, batch_size // mesh.size) * mesh.size
        of_all = f" of {len(set(processes))} processes" if len(set(processes)) > 1 else ""
        raise ConfigError(
            f"{name} {batch_size} must be divisible by the {mesh.size} devices{of_all}; use "
            f"{fitting}"
        )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put a copy of every leaf on each device; all processes of the mesh hold the same tree."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    if everywhere.is_fully_addressable:
        return jax.device_put(tree, everywhere)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(everywhere, np.asarray(leaf)), tree
    )


def split_batch(arrays: PyTree, mesh: Mesh) -> PyTree:
    """Put numpy arrays `[B, ...]` on the devices, each an equal share of the batch.

    With several processes each gives its own share of the batch, in their order.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.tree.map(
        lambda array: jax.make_array_from_process_local_data(sharding, np.asarray(array)),
        arrays,
    )


# XLA then neither adds in an order that differs from run to run nor chooses its programs by
# their speed of this moment. A CPU does neither anyway.
_DETERMINISTIC = {"xla_gpu_deterministic_ops": True}


def compile_train_step(step: Callable, mesh: Mesh, *, deterministic: bool = False) -> Callable:
    """Jit `(state, batch) -> (state, metrics)`; the state's memory is used anew."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(everywhere, split),
        out_shardings=(everywhere, everywhere),
        compiler_options=_DETERMINISTIC if deterministic else None,
    )


def compile_evaluate_step(
    step: Callable, mesh: Mesh, *, deterministic: bool = False
) -> Callable:
    """Jit `(variables, batch) -> (confusion, labels)`, both by image; nothing is donated."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(
        step,
        in_shardings=(everywhere, split),
        out_shardings=(split, split),
        compiler_options=_DETERMINISTIC if deterministic else None,
    )


def gather_arrays(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of all processes, in their order; shapes may differ between processes."""
    if jax.process_count() == 1:
        return [arrays]
    file = io.BytesIO()
    # Before 2.2 numpy takes `allow_pickle` for one more array.
    # pyrefly: ignore[bad-argument-type]
    np.savez(file, **arrays)
    data = np.frombuffer(file.getvalue(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([data.size]))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded)
    shares = []
    for row, length in zip(rows, lengths.ravel(), strict=True):
        with np.load(io.BytesIO(row[: int(length)].tobytes()), allow_pickle=False) as share:
            shares.append(dict(share))
    return shares


def local_copy(tree: PyTree) -> PyTree:
    """Arrays that are on every device, as this process's own."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(lambda array: np.asarray(array.addressable_data(0)), tree)
