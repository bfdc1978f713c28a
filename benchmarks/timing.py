"""The stopwatch: how long a call takes, and how many fit into a second.

Two questions, two measurements. Latency: one call at a time, each waited for. Throughput: many
calls under way at once, waited for at the end, which is how a busy service runs. JAX returns
from a call before the device is done, so that a timer without a wait measures nothing.
"""

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Clock = Callable[[], float]

IN_FLIGHT = 4
PAUSE_SECONDS = 0.02
ROUNDS = 4
WARM_UP_CALLS = 100
WARM_UP_SHARE = 0.1


class Budget(NamedTuple):
    """When to stop: after so many calls or seconds, whichever is first, but not before one."""

    calls: int
    seconds: float

    def share(self, parts: int) -> "Budget":
        """One of equal parts, rounded up to whole calls."""
        return Budget(-(-self.calls // parts), self.seconds / parts)


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        call: starts the work on one of the inputs.
        inputs: several of them, taken in turn, so that no cache flatters a repeated one.
        images: how many images one call takes.
        wait: returns when the work of a call, whose result it is given, is done.
    """

    call: Callable[[Any], Any]
    inputs: Sequence[Any]
    images: int
    wait: Callable[[Any], Any] = jax.block_until_ready


@dataclass(frozen=True)
class Measurement:
    """What the stopwatch read of one case.

    Attributes:
        latencies: seconds of each synchronised call.
        stream_calls: calls of all the streams together.
        stream_seconds: from the first call of a stream to the end of its last, summed.
    """

    images: int
    latencies: tuple[float, ...]
    stream_calls: int
    stream_seconds: float

    @property
    def latency_ms(self) -> dict[str, float]:
        """Median, 90th and 99th percentile of the synchronised calls, in milliseconds."""
        percentiles = np.percentile(self.latencies, (50, 90, 99)) * 1e3
        return dict(zip(("median", "p90", "p99"), percentiles.tolist(), strict=True))

    @property
    def frames_per_second(self) -> float:
        """Images a second when each call is waited for, by the median call."""
        return self.images / float(np.median(self.latencies))

    @property
    def images_per_second(self) -> float:
        """Images a second of the streams: throughput."""
        return self.images * self.stream_calls / self.stream_seconds


def time_calls(
    case: Case, inputs: Iterator[Any], budget: Budget, clock: Clock = time.perf_counter
) -> list[float]:
    """Seconds of each of many calls, one at a time, on endless inputs."""
    seconds: list[float] = []
    begin = clock()
    while len(seconds) < budget.calls:
        data = next(inputs)
        start = clock()
        case.wait(case.call(data))
        end = clock()
        seconds.append(end - start)
        if end - begin >= budget.seconds:
            break
    return seconds


def time_stream(
    case: Case,
    inputs: Iterator[Any],
    calls: int,
    clock: Clock = time.perf_counter,
    in_flight: int = IN_FLIGHT,
) -> float:
    """How long so many calls take together.

    At most `in_flight` are under way at once: an unbounded queue would hold the results of
    all calls in the memory of the device.
    """
    pending: deque[Any] = deque()
    begin = clock()
    for _ in range(calls):
        if len(pending) == in_flight:
            case.wait(pending.popleft())
        pending.append(case.call(next(inputs)))
    while pending:
        case.wait(pending.popleft())
    return clock() - begin


def measure(
    cases: Sequence[Case],
    budget: Budget,
    *,
    rounds: int = ROUNDS,
    pause: float = 0.0,
    clock: Clock = time.perf_counter,
    progress: Callable[[], Any] = lambda: None,
) -> list[Measurement]:
    """Time the cases against each other, in turns.

    Turns spread what disturbs a machine, such as a neighbour or a processor that heats up,
    over all cases, so that their ratios hold when their times do not.

    Args:
        budget: of one case; half its seconds, and all its calls, go to each of the two
            measurements.
        rounds: how many turns each case has.
        pause: seconds of rest before each turn, and then a call that is not timed. Threads of
            the engine before spin for a while when they have nothing to do, and would take the
            cores of the next.
        progress: called after each turn of a case.
    """
    turn = Budget(budget.calls, budget.seconds / 2).share(rounds)
    # Endless, so that a turn of one slow call does not begin with the same input each time.
    feeds = [itertools.cycle(case.inputs) for case in cases]
    for case, feed in zip(cases, feeds, strict=True):
        time_calls(case, feed, Budget(WARM_UP_CALLS, budget.seconds * WARM_UP_SHARE), clock)
    latencies: list[list[float]] = [[] for _ in cases]
    streams: list[list[tuple[int, float]]] = [[] for _ in cases]
    for _ in range(rounds):
        for index, (case, feed) in enumerate(zip(cases, feeds, strict=True)):
            if pause:
                time.sleep(pause)
                time_calls(case, feed, Budget(1, 0), clock)
            alone = time_calls(case, feed, turn, clock)
            # What fits in one by one: the same for engines that return early or when done.
            calls = min(turn.calls, max(int(turn.seconds / float(np.median(alone))), 1))
            latencies[index] += alone
            streams[index].append((calls, time_stream(case, feed, calls, clock)))
            progress()
    return [
        Measurement(
            case.images,
            tuple(latencies[index]),
            sum(calls for calls, _ in streams[index]),
            sum(seconds for _, seconds in streams[index]),
        )
        for index, case in enumerate(cases)
    ]


class Program(NamedTuple):
    """A compiled function and what its compiler says of it; None where it is silent.

    Attributes:
        run: the function, for arguments of the shapes it was compiled for.
        compile_seconds: of lowering and compiling, apart from any run.
        flops: XLA's own count for one call; an addition is one, a multiplication another.
        memory_bytes: arguments, results and temporaries of one call, on the device.
        hlo: the compiled program as text.
    """

    run: Callable[..., Any]
    compile_seconds: float
    flops: float | None
    memory_bytes: dict[str, int] | None
    hlo: str


def compile_program(
    function: Callable[..., Any],
    *arguments: Any,
    clock: Clock = time.perf_counter,
    options: dict[str, Any] | None = None,
) -> Program:
    """Compile ahead of time, for the shapes and the device of the arguments.

    Args:
        options: XLA's, by their names without dashes.
    """
    start = clock()
    compiled = jax.jit(function).lower(*arguments).compile(compiler_options=options)
    seconds = clock() - start
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    return Program(
        compiled,
        seconds,
        flops=costs.get("flops") if isinstance(costs, dict) else None,
        memory_bytes=None
        if memory is None
        else {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        },
        hlo=compiled.as_text() or "",
    )


def peak_memory_bytes(devices: Iterable[jax.Device]) -> int | None:
    """The most that any of the devices has held since this process began, where it tells."""
    statistics = [device.memory_stats() for device in devices]
    peaks = [
        entry["peak_bytes_in_use"]
        for entry in statistics
        if entry and "peak_bytes_in_use" in entry
    ]
    return max(peaks, default=None)
