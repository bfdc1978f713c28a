"""Every example of a source counted once, on all processors, whatever lies in its files.

Processes, since a decoder that crashes takes its process along.
"""

import multiprocessing
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from bisenet_jax.data.example import Source
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data.statistics import FrameCounts, count
from bisenet_jax.data.workers import follow_parent
from bisenet_jax.errors import DataError
from bisenet_jax.processors import available_processors

_AHEAD = 4  # examples that wait for each process


class Failure(NamedTuple):
    """An example that cannot be read, and why."""

    message: str


def survey(
    source: Source, processes: int | None = None
) -> Generator[FrameCounts | Failure, None, None]:
    """The counts of each example in order, or what is wrong with it; close it after use.

    Args:
        processes: that read; by default one for each processor. 0 reads in this process, which
            a crash would end.
    """
    if processes == 0:
        yield from (_count(source, index) for index in range(len(source)))
        return
    processes = min(processes or available_processors(), len(source))
    done = 0
    while done < len(source):
        for result in _count_from(done, len(source), source, processes, ahead=_AHEAD):
            yield result
            done += 1
        # If a process died, then over one of the examples in the making: one by one, the first
        # to end its process again is the one.
        suspects = min(done + _AHEAD * processes, len(source))
        for result in _count_from(done, suspects, source, 1, ahead=1):
            yield result
            done += 1
        if done < suspects:
            yield Failure(
                f"{_files_of(source, done)}: reading ended the process that read it, by a "
                "crash of the decoder or for want of memory; save the files again"
            )
            done += 1


def _count_from(
    start: int, stop: int, source: Source, processes: int, *, ahead: int
) -> Generator[FrameCounts | Failure, None, None]:
    """Results from `start` on, until `stop` or until one of the processes dies."""
    if start == stop:
        return
    # Forked processes would inherit locks that threads of this one hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _open, (source,))
    try:
        waiting: deque[Future[FrameCounts | Failure]] = deque()
        for index in range(start, stop):
            waiting.append(pool.submit(_count_opened, index))
            if len(waiting) == ahead * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        return
    finally:
        pool.shutdown(cancel_futures=True)


def _files_of(source: Source, index: int) -> str:
    if isinstance(source, PairSource):
        pair = source.pairs[index]
        return f"{pair.image}, {pair.label}"
    return f"example {index}"


_opened: Source


def _open(source: Source) -> None:
    global _opened
    _opened = source
    follow_parent()


def _count_opened(index: int) -> FrameCounts | Failure:
    return _count(_opened, index)


def _count(source: Source, index: int) -> FrameCounts | Failure:
    try:
        return count(source[index])
    except DataError as error:
        return Failure(str(error))
