"""How fast a run goes: images, waiting and arithmetic each second, and traces of steps."""

import itertools
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax

from bisenet_jax.complexity import count_training_macs
from bisenet_jax.config import Config
from bisenet_jax.data.example import Batch
from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BiSeNetV2

T = TypeVar("T")

# A trace leaves out the steps that compile, fill queues and settle the memory.
WARM_UP = 3
# Seconds after which waiting, for a batch, say, is told.
PATIENCE = 30.0


def step_flops(model: BiSeNetV2, options: Config) -> int:
    """What counts as the work of a training step, in floating-point operations.

    Two for each multiply-accumulate of the convolutions of a forward pass with boosters, and
    twice as many again for the backward pass, as published utilisations have it: other
    arithmetic, and what is computed anew to save memory, is no work.
    """
    macs = count_training_macs(model, *options.augment.input_size)
    return 2 * 3 * macs * options.train.batch_size


@dataclass
class Pace:
    """Steps, seconds and seconds of waiting for data since the last restart.

    Attributes:
        batch_size: images a step.
        step_flops: see the function.
    """

    batch_size: int
    step_flops: int
    began: float = field(default_factory=time.monotonic)
    waited: float = 0.0
    steps: int = 0
    _latest: dict[str, float] = field(default_factory=dict)

    def wait_for(self, batches: Iterator[Batch], complain: Callable[[float], object]) -> Batch:
        """The next batch.

        Args:
            batches: of the loader.
            complain: see `watched`.
        """
        asked = time.monotonic()
        with watched(complain):
            batch = next(batches)
        self.waited += time.monotonic() - asked
        self.steps += 1
        return batch

    def rates(self) -> dict[str, float]:
        """Speed, and the share of time in which the devices' next work was not there.

        Where two steps are told in one turn, as before a checkpoint, the second has no time of
        its own: the rates of the first, in whose time it was made, are its too.
        """
        if self._latest and not self.steps:
            return self._latest
        seconds = max(time.monotonic() - self.began, 1e-9)
        self._latest = {
            "images_per_second": self.steps * self.batch_size / seconds,
            "step_seconds": seconds / max(self.steps, 1),
            "wait_share": self.waited / seconds,
            "teraflops_per_second": self.steps * self.step_flops / seconds / 1e12,
        }
        return self._latest

    def restart(self) -> None:
        self.began, self.waited, self.steps = time.monotonic(), 0.0, 0


@contextmanager
def watched(complain: Callable[[float], object]) -> Generator[None]:
    """A block that may hang for what others do, such as a disk.

    Args:
        complain: called, in another thread, after each PATIENCE seconds within the block with
            their number so far.
    """
    done = threading.Event()

    def watch() -> None:
        waited = PATIENCE
        while not done.wait(PATIENCE):
            complain(waited)
            waited += PATIENCE

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def watch_each(items: Iterable[T], complain: Callable[[int, float], object]) -> Generator[T]:
    """The items; `complain` gets the place of one that is waited for, and the seconds."""
    iterator = iter(items)
    for place in itertools.count():
        try:
            with watched(partial(complain, place)):
                item = next(iterator)
        except StopIteration:
            return
        yield item


def waiting(seconds: float, what: str) -> str:
    """What a complaint says."""
    return f"waiting for {seconds:.0f} s for {what}: the disk or the network hangs, or is slow"


class Trace:
    """What host and devices do in some steps of a run, for TensorBoard and Perfetto.

    Leaving the context ends a trace that was cut off. Where the number of steps is 0, nothing
    is traced and nothing written.
    """

    def __init__(
        self,
        folder: Path,
        start_step: int,
        steps: int,
        total_steps: int,
        *,
        is_kept: bool = True,
    ) -> None:
        """Choose the steps after the warm-up.

        Args:
            folder: TensorBoard's, which finds the trace in its `plugins/profile`.
            start_step: after which the run begins.
            steps: how many to trace.
            total_steps: of the run.
            is_kept: false for all but one of several processes, whose files would have the
                same names.

        Raises:
            ConfigError: when the run ends before.
        """
        self._folder, self._is_running = folder, False
        first, last = start_step + WARM_UP + 1, start_step + WARM_UP + steps
        self._first, self._last = (first, last) if steps and is_kept else (0, 0)
        if steps and last > total_steps:
            raise ConfigError(
                f"--profile {steps} needs {WARM_UP + steps} steps, {WARM_UP} of them to warm "
                f"up, and the run has {total_steps - start_step} left; trace fewer, or a "
                "longer run in another --workdir"
            )

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_running:
            self._stop()

    def of(self, step: int) -> AbstractContextManager:
        """The context in which a step is dispatched."""
        if step == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._is_running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def end(self, step: int, outputs: Any) -> Path | None:
        """Write the trace once the last of its steps has these outputs; returns its folder."""
        if step != self._last:
            return None
        jax.block_until_ready(outputs)
        self._stop()
        return self._folder / "plugins" / "profile"

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._is_running = False
