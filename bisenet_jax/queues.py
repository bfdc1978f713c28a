"""Work in threads ahead of a loop and behind it, never far: memory does not grow with it."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

WRITE_BEHIND = 4  # calls


def read_ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """The same items in order, up to `count` of them made before they are asked for.

    Closing it waits for the one that is being made.
    """
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
        waiting = deque(reader.submit(next, items, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(reader.submit(next, items, end))
                yield item
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


@contextmanager
def write_behind(threads: int) -> Generator[Callable[..., None]]:
    """A function that calls another in a thread; it waits when too much is unfinished.

    Leaving the block waits for all; an error in a thread is raised here.
    """
    unfinished: deque[Future[None]] = deque()

    def start(function: Callable[..., None], *arguments: Any) -> None:
        if len(unfinished) >= WRITE_BEHIND:
            unfinished.popleft().result()
        unfinished.append(writer.submit(function, *arguments))

    with ThreadPoolExecutor(threads, thread_name_prefix="write") as writer:
        yield start
        while unfinished:
            unfinished.popleft().result()
