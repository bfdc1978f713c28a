"""What becomes of freed memory: the process keeps it, for the next call wants it."""

import ctypes
import mmap
import platform

import jax

# Names and numbers of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8

_IN_HUGE_PAGES = 2**32  # bytes of address space; memory is only what is written to
_MADV_HUGEPAGE = 14  # of madvise(2)


def keep_freed_memory() -> bool:
    """Have this process keep what it frees; only scripts call this, before JAX starts.

    On CPU, XLA takes one block for the activations of each call and frees it. glibc hands so
    large a block back to the system, whose fresh pages then fault in one by one with every call
    (docs/performance.md). Where Linux has huge pages for whom asks, the first 4 GiB are such:
    small ones are scattered, and how they fall upon the caches differs from start to start.

    Returns:
        Whether there is a glibc that does as told; elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # One arena: those of other threads hold at most 64 MiB, and map what is larger.
    settings = (
        (_ARENA_MAX, 1),
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, -1),  # never; the largest number, 2 GiB, is less than a step may free
        (_TOP_PAD, 2**26),
    )
    is_kept = all([libc.mallopt(option, value) == 1 for option, value in settings])
    if is_kept:
        _ask_for_huge_pages(libc)
    return is_kept


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    # A block that is never used: what is allocated from now on takes its place.
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(_IN_HUGE_PAGES)
    if block is None:  # a limit on address space
        return
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.madvise(start, _IN_HUGE_PAGES - mmap.PAGESIZE, _MADV_HUGEPAGE)  # or else small ones
    libc.free(block)


def finish_each_step() -> None:
    """Have a CPU end one program before it takes the next; only scripts call this.

    Before JAX starts. Steps under way at once would each hold their activations, and want
    fresh pages for them, while the cores have enough to do with one
    (docs/performance.md). Other devices queue programs as ever.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)
