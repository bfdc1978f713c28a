"""Ending a run between two steps, or within an evaluation, when a scheduler asks for it."""

import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np

from bisenet_jax import parallel

T = TypeVar("T")

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(Exception):
    """What was at work is left, as the run was asked to end."""


class Stop:
    """Whether this run was asked to end; a context in which signals do so.

    SIGTERM comes from schedulers, containers and shutdowns, SIGUSR1 from SLURM's
    `--signal=USR1@60`. A second one ends the process at once, as without this.

    Attributes:
        name: of the signal that came, or None.
    """

    def __init__(self, agree_every: int) -> None:
        """Choose how often several processes ask each other: every so many steps."""
        self.name: str | None = None
        self._agree_every = agree_every
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        # Python hands signals to the main thread alone.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def is_due(self, step: int) -> bool:
        """Whether to end after this step; the same answer in every process.

        Every process must call it once for each step.
        """
        if jax.process_count() > 1 and step % self._agree_every:
            return False
        return self._agree()

    def until_asked(self, items: Iterable[T]) -> Iterator[T]:
        """The items, as long as no signal comes; every process must go through all of its own.

        Raises:
            Stopped: after the items, or before their end, in every process where one of them
                was asked to end.
        """
        for item in items:
            if self.name is not None:
                break
            yield item
        # One process may have read all of its items when another one is asked.
        if self._agree():
            raise Stopped

    def _agree(self) -> bool:
        if jax.process_count() == 1:
            return self.name is not None
        own = np.frombuffer((self.name or "").encode(), np.uint8)
        shares = parallel.gather_arrays({"name": own})
        names = [share["name"].tobytes().decode() for share in shares]
        agreed = next(filter(None, names), None)
        if agreed is not None:
            self.name = agreed
        # A signal that came meanwhile is still to be agreed upon: the others do not know of it.
        return agreed is not None

    def _note(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
