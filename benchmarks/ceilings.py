"""What this device reaches at most: a large copy and a large matrix product, measured."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engines import on_gpu
from benchmarks.timing import Budget, Case, time_calls

PROTOCOL = (
    "Ceilings: the quickest of many synchronised calls of x + 1 on 1 GiB of float32 (128 MiB "
    "on a CPU; bytes read and written) and of a matrix product of 8192x8192 (1024x1024 on a "
    "CPU) in the row's dtype."
)
_BUDGET = Budget(calls=50, seconds=1.0)


class Ceilings(NamedTuple):
    """`flops` and `bytes`, both a second."""

    flops: float
    bytes: float


@functools.cache
def measure_ceilings(dtype: str) -> Ceilings:
    """Once a process and dtype; takes about two seconds."""
    side = _side()
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(side, side)), dtype)
    numbers = jnp.zeros(_copy_bytes() // 4, jnp.float32)
    product = _quickest(lambda x: x @ x, matrix)
    copy = _quickest(lambda x: x + 1, numbers)
    return Ceilings(flops=2 * side**3 / product, bytes=2 * numbers.nbytes / copy)


def _quickest(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    compiled = jax.jit(function)
    case = Case(compiled, [x], images=1)
    jax.block_until_ready(compiled(x))
    return min(time_calls(case, iter(lambda: x, None), _BUDGET))


def _side() -> int:
    return 8192 if on_gpu() else 1024


def _copy_bytes() -> int:
    # Larger than the caches, or the copy tells their speed.
    return 2**30 if on_gpu() else 2**27
