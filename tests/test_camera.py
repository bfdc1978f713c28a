"""The clock that stands in for a camera keeps its time, and slow readers lose frames."""

import time

import numpy as np
import pytest

from benchmarks import camera


def test_frames_come_at_their_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    images = [np.full((2, 4, 3), number, np.uint8) for number in range(3)]
    clocked = camera.ClockedCamera(images, rate=10.0)
    for number in range(4):
        assert clocked.read()[1][0, 0, 0] == number % 3
        assert now[0] == pytest.approx(100.1 + number / 10)
    now[0] += 0.55  # five more were shown
    clocked.read()
    assert clocked.shown == 9 and now[0] == pytest.approx(100.95)
    clocked.read()
    assert now[0] == pytest.approx(101.0)


def test_all_frames_are_counted():
    pytest.importorskip("cv2")
    images = [np.full((64, 96, 3), shade, np.uint8) for shade in (40, 200)]
    slow = camera.measure(images, 500.0, 32, 6)
    assert slow["frames"] == 6 and slow["dropped_frames"] > 0
    assert (slow["height"], slow["width"]) == (32, 48)
    assert 0 < slow["frames_per_second"] < 500
