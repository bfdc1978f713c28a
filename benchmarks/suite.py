"""Everything that a machine is asked for, in a set time: sizes, batches, dtypes, peers, ideas.

The most wanted rows come first. What the time or the memory does not allow is skipped with a
line that says so; nothing that has begun is cut off. A peer that cannot run, or computes
another network, takes no other along.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.engines import (
    OURS,
    PEERS,
    PLAIN,
    TORCH_COMPILE,
    missing_for,
    release_memory,
)
from benchmarks.ideas import measure_ideas
from benchmarks.inference import FailedEngineError, first_line, measure_inference
from benchmarks.layers import measure_layers
from benchmarks.subject import Subject
from benchmarks.timing import Budget
from bisenet_jax.weights import Weights

# Height and width: the paper's, Cityscapes whole, CamVid at two sizes, COCO-Stuff.
SIZES = ((512, 1024), (1024, 2048), (360, 480), (720, 960), (640, 640))
BATCHES = (1, 8, 32)
DTYPES = ("bfloat16", "float16", "float32")
# All engines of a row are in memory at once: of 24 GiB, eight images of 1024x2048 want more.
MOST_CPU_PIXELS = 8 * 720 * 960
# What getting ready takes before it was seen here: a guess, on the safe side.
FIRST_GUESS_SECONDS = {TORCH_COMPILE: 150.0}
OTHER_GUESS_SECONDS = 40.0


class Plan(NamedTuple):
    """What to measure, the most wanted first; no more pixels a call than `most_pixels`."""

    sizes: Sequence[tuple[int, int]]
    batches: Sequence[int]
    dtypes: Sequence[str]
    most_pixels: float = math.inf

    @classmethod
    def for_backend(cls, backend: str) -> "Plan":
        if backend == "cpu":
            return cls(SIZES, BATCHES[:2], ("float32",), MOST_CPU_PIXELS)
        return cls(SIZES, BATCHES, DTYPES)

    def cells(self) -> Iterator[tuple[tuple[int, int], int, str]]:
        """The first of everything, then other dtypes, batches and sizes: small steps first."""
        entries = [
            ((s, b, d), (size, batch, dtype))
            for s, size in enumerate(self.sizes)
            for b, batch in enumerate(self.batches)
            for d, dtype in enumerate(self.dtypes)
            if batch * math.prod(size) <= self.most_pixels
        ]
        yield from (
            entry for _, entry in sorted(entries, key=lambda pair: (sum(pair[0]), pair[0]))
        )


@dataclass
class Suite:
    """One run of it.

    Attributes:
        seconds: for all, from the making of this value.
        row_seconds: of timing for each row.
        say: is told what is begun and what is skipped.
        keep: called whenever something was found, so that a process that is ended loses little.
        rows, ideas, layers, skipped: what was found.
    """

    weights: Weights
    seconds: float
    row_seconds: float
    say: Callable[[str], Any] = print
    keep: Callable[[], Any] = lambda: None
    clock: Callable[[], float] = time.monotonic
    rows: list[dict[str, Any]] = field(default_factory=list)
    ideas: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._end = self.clock() + self.seconds
        self._longest: dict[str, float] = {}
        self._failed: set[str] = set()

    def run(self, plan: Plan) -> None:
        """Layers and ideas come after the first cell, so that no long list starves them."""
        for engine in PEERS:
            reasons = {missing_for(engine, dtype) for dtype in plan.dtypes}
            if None not in reasons:
                self._skip(f"{engine}: {' / '.join(sorted(map(str, reasons)))}")
        for index, (size, batch, dtype) in enumerate(plan.cells()):
            subject = Subject(self.weights, *size, batch, dtype)
            self._measure_cell(subject)
            self.keep()
            if index == 0:
                self._measure_inside(subject)
                self.keep()

    def _measure_cell(self, subject: Subject) -> None:
        name = f"{subject.height}x{subject.width}, batch {subject.batch}, {subject.dtype}"
        # Who has failed and never run is not asked again: getting ready takes minutes.
        hopeless = self._failed - self._longest.keys()
        wanted = [
            engine
            for engine in PEERS
            if missing_for(engine, subject.dtype) is None and engine not in hopeless
        ]
        chosen, guess = [OURS, PLAIN], self._guess(OURS) + self._guess(PLAIN)
        if guess > self._left():
            self._skip(f"{name}: about {guess:.0f} s, {max(self._left(), 0):.0f} s left")
            return
        for engine in wanted:
            if guess + self._guess(engine) > self._left():
                self._skip(
                    f"{name}, {engine}: about {self._guess(engine):.0f} s more, "
                    f"{self._left() - guess:.0f} s left"
                )
            else:
                chosen.append(engine)
                guess += self._guess(engine)
        rows = self._measure_row(name, subject, chosen)
        # What failed while all took turns may be the memory: ours alone needs less.
        if not rows and chosen[2:] and self._guess(OURS) + self._guess(PLAIN) <= self._left():
            rows = self._measure_row(name, subject, chosen[:2])
        self.rows += rows
        for row in rows:
            engine = row["engine"]
            seen = self._longest.get(engine, 0.0)
            self._longest[engine] = max(seen, row["prepare_seconds"])

    def _measure_row(
        self, name: str, subject: Subject, chosen: Sequence[str]
    ) -> list[dict[str, Any]]:
        self.say(f"{name}: {', '.join(chosen)}")

        def lose(error: FailedEngineError) -> None:
            self._skip(f"{name}, {error.engine} {error.reason}")
            self._failed.add(error.engine)

        try:
            budget = Budget(1000, self.row_seconds)
            return measure_inference(subject, chosen, budget, lose=lose)
        # Memory that a GPU lacks has another class in each library.
        except Exception as error:
            self._skip(f"{name}: {first_line(error)}")
            return []
        finally:
            release_memory()

    def _measure_inside(self, subject: Subject) -> None:
        budget = Budget(1000, self.row_seconds)
        for name, programs in (("layers", 2), ("ideas", 6)):
            guess = programs * self._guess(OURS)
            if guess > self._left():
                self._skip(f"{name}: about {guess:.0f} s, {max(self._left(), 0):.0f} s left")
                continue
            self.say(name)
            try:
                if name == "layers":
                    self.layers.append(measure_layers(subject, budget))
                else:
                    self.ideas = measure_ideas(subject, budget)
            except Exception as error:
                self._skip(f"{name}: {first_line(error)}")

    def _guess(self, engine: str) -> float:
        """Seconds to get ready, as long as the longest so far, and to be timed."""
        guess = FIRST_GUESS_SECONDS.get(engine, OTHER_GUESS_SECONDS)
        return self._longest.get(engine, guess) + 1.5 * self.row_seconds

    def _left(self) -> float:
        return self._end - self.clock()

    def _skip(self, line: str) -> None:
        self.skipped.append(line)
        self.say(f"skipped  {line}")
