"""What this device reaches at most: a large copy and a large matrix product, measured."""

import functools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.engines import on_gpu

PROTOCOL = (
    "Ceilings: the quickest of many synchronised calls of x + 1 on 1 GiB of float32 (128 MiB "
    "on a CPU; bytes read and written) and of a matrix product of 8192x8192 (1024x1024 on a "
    "CPU) in the row's dtype."
)
_SECONDS = 1.0


class Ceilings(NamedTuple):
    """`flops` and `bytes`, both a second."""

    flops: float
    bytes: float


@functools.cache
def measure_ceilings(dtype: str) -> Ceilings:
    """Once a process and dtype; takes about two seconds."""
    side = _side()
    matrix = jnp.full((side, side), 1 / side, dtype)  # its square is itself
    numbers = jnp.zeros(_copy_bytes() // 4, jnp.float32)
    return Ceilings(
        flops=2 * side**3 / _quickest(lambda x: x @ x, matrix),
        # In place: memory that is new to the process would be timed instead of the copy.
        bytes=2 * numbers.nbytes / _quickest(lambda x: x + 1, numbers, donate_argnums=0),
    )


def _quickest(function: Callable[[jax.Array], jax.Array], x: jax.Array, **options) -> float:
    """Seconds of the quickest call; each is given the result of the one before."""
    compiled = jax.jit(function, **options)
    x = jax.block_until_ready(compiled(x))
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while not seconds or time.perf_counter() < end:
        start = time.perf_counter()
        x = jax.block_until_ready(compiled(x))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _side() -> int:
    return 8192 if on_gpu() else 1024


def _copy_bytes() -> int:
    # Larger than the caches, or the copy tells their speed.
    return 2**30 if on_gpu() else 2**27
