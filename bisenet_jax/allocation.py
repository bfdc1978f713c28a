"""What becomes of freed memory: the process keeps it, for the next call wants it."""

import ctypes
import platform

# Names and numbers of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGEST = 2**31 - 1


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
        (_MMAP_THRESHOLD, _LARGEST),
        (_TRIM_THRESHOLD, _LARGEST),
        (_TOP_PAD, 2**26),
    )
    return all([mallopt(option, value) == 1 for option, value in settings])
