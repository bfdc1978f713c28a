"""Threads ahead of a loop and behind it: bounded, in order, and their errors are heard."""

import threading

import pytest

from bisenet_jax.errors import DataError
from bisenet_jax.queues import WRITE_BEHIND, read_ahead, write_behind


def test_read_ahead_is_bounded_and_hands_errors_on():
    made, third = [], threading.Event()

    def items():
        for index in range(5):
            made.append(index)
            if index == 2:
                third.set()
            if index == 4:
                raise DataError("the fifth is broken")
            yield index

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    assert third.wait(10)  # made without being asked for
    assert made == [0, 1, 2]
    assert [next(ahead), next(ahead), next(ahead)] == [1, 2, 3]
    with pytest.raises(DataError, match="the fifth"):
        next(ahead)


def test_write_behind_waits_hands_errors_on_and_is_bounded():
    gate, done = threading.Event(), []

    def work(index: int) -> None:
        assert gate.wait(10)
        done.append(index)

    with write_behind(1) as start:
        for index in range(WRITE_BEHIND):
            start(work, index)
        late = threading.Thread(target=start, args=(work, WRITE_BEHIND))
        late.start()
        late.join(0.05)
        assert late.is_alive() and done == []
        gate.set()
        late.join(10)
    assert done == list(range(WRITE_BEHIND + 1))

    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        with write_behind(1) as start:
            start(fail)
