"""What becomes of freed memory: the process keeps it, for the next call wants it."""

import ctypes
import platform

import jax

# Names and numbers of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; only scripts call this, before JAX starts.

    On CPU, XLA takes one block for the activations of each call and frees it. glibc hands so
    large a block back to the system, whose fresh pages then fault in one by one with every call
    (docs/performance.md).

    Returns:
        Whether there is a glibc that does as told; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena: those of other threads hold at most 64 MiB, and map what is larger.
    settings = (
        (_ARENA_MAX, 1),
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, -1),  # never; the largest number, 2 GiB, is less than a step may free
        (_TOP_PAD, 2**26),
    )
    return all([mallopt(option, value) == 1 for option, value in settings])


def finish_each_step() -> None:
    """Have a CPU end one program before it takes the next; only scripts call this.

    Before JAX starts. Steps under way at once would each hold their activations, and want
    fresh pages for them, while the cores have enough to do with one
    (docs/performance.md). Other devices queue programs as ever.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
