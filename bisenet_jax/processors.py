"""The processors that this process may use, which may be fewer than the machine has."""

import os


def available_processors() -> int:
    """How many taskset or a container's cpuset leave it; all of them where none can say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
