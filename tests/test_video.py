"""Videos, and a camera that is faster than who looks at it."""

import sys
import threading

import numpy as np
import pytest

from bisenet_jax.data import decode
from bisenet_jax.errors import DataError
from bisenet_jax.video import DEFAULT_RATE, open_video, open_video_writer


def test_video_round_trip(tmp_path):
    pytest.importorskip("cv2")
    path = tmp_path / "new" / "a.mp4"
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with open_video_writer(path, 20, height=48, width=63) as append:
        for colour in colours:
            append(np.full((48, 63, 3), colour, np.uint8))
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    with open_video(path) as video:
        assert video.rate == 20 and video.announced == 3
        frames = list(video.frames)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 3  # the codec wants even sides
    for frame, colour in zip(frames, colours, strict=True):
        np.testing.assert_allclose(frame.mean((0, 1)), colour, atol=12)


def test_a_video_that_failed_leaves_nothing(tmp_path):
    pytest.importorskip("cv2")
    with pytest.raises(ValueError, match=r"frame must be \[32, 32, 3\]"):
        with open_video_writer(tmp_path / "a.mp4", 20, height=32, width=32) as append:
            append(np.zeros((32, 32, 3), np.uint8))
            append(np.zeros((32, 33, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_videos_that_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="a.mp4: cannot be read as a video"):
        with open_video(tmp_path / "a.mp4"):
            pass
    with open_video_writer(tmp_path / "b.mp4", 20, height=32, width=32) as append:
        append(np.zeros((32, 32, 3), np.uint8))
    monkeypatch.setattr(decode, "MAX_PIXELS", 1000)
    with pytest.raises(DataError, match="b.mp4: 32x32 is more than 1,000 pixels"):
        with open_video(tmp_path / "b.mp4"):
            pass
    with pytest.raises(DataError, match="camera 93 cannot be opened"):
        with open_video(93):
            pass


def test_missing_opencv_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"pip install 'bisenet_jax\[video\]'"):
        with open_video(0):
            pass


class FakeCamera:
    """Frames 0, 1, 2, ... of one brightness, each as soon as the test lets it come."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.made = 0
        self.may_go = threading.Semaphore(0)
        self.was_asked = threading.Semaphore(0)

    def isOpened(self) -> bool:
        return True

    def get(self, property_id: int) -> float:
        return 0.0

    def release(self) -> None:
        pass

    def read(self):
        self.was_asked.release()
        self.may_go.acquire()
        if self.made == self.frames:
            return False, None
        self.made += 1
        return True, np.full((4, 4, 3), self.made - 1, np.uint8)

    def make(self, frames: int) -> None:
        """Let so many frames come, and wait until the camera is asked for one more."""
        for _ in range(frames):
            self.was_asked.acquire()
            self.may_go.release()
        self.was_asked.acquire()
        self.was_asked.release()


def test_a_slow_user_of_a_camera_gets_the_newest_frame(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    camera = FakeCamera(frames=6)
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: camera)
    with open_video(0) as video:
        assert video.rate == DEFAULT_RATE and video.announced is None
        camera.make(1)
        assert next(video.frames)[0, 0, 0] == 0 and video.dropped == 0
        camera.make(4)
        assert next(video.frames)[0, 0, 0] == 4 and video.dropped == 3
        camera.make(1)
        # The camera ends: its last frame is still given.
        camera.may_go.release()
        assert [frame[0, 0, 0] for frame in video.frames] == [5]
        assert video.dropped == 3


def test_a_video_is_released_only_when_no_thread_reads_it(tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "drive.mp4").write_bytes(b"\0\0\0\0ftypisom")
    capture, made_at_release, read = FakeCamera(frames=2), [], []
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: capture)
    monkeypatch.setattr(capture, "release", lambda: made_at_release.append(capture.made))

    reader = threading.Thread(target=lambda: read.append(next(video.frames)))
    with open_video(tmp_path / "drive.mp4") as video:
        reader.start()
        capture.was_asked.acquire()  # it is in the midst of a frame
        threading.Timer(0.2, capture.may_go.release).start()
    assert made_at_release == [1]
    reader.join(10)
    assert len(read) == 1
    assert list(video.frames) == []  # a released capture is asked for nothing
    assert capture.made == 1
