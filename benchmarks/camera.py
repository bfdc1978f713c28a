"""Whether predict.py keeps up with a camera: 30 frames of 640x480 a second, in several sizes.

    python -m benchmarks.camera [FILE.json]

A clock stands in for the camera: each frame is there at its time, once. All that `predict.py 0
--height H` does with it is done: shrink, network (`bisenetv2-synthetic`, 19 classes), enlarge
labels, overlay, write mp4. A frame is dropped when the next one comes before it was taken; the
rate counts from the end of compilation to the finished file.
"""

import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.machine import describe_machine
from bisenet_jax import program_cache, segmenter
from bisenet_jax.allocation import keep_freed_memory
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.files import write_json
from bisenet_jax.media import Input
from bisenet_jax.prediction import Options, Report, predict_video

RATE, HEIGHT, WIDTH = 30.0, 480, 640
NETWORK_HEIGHTS = (480, 360, 240, 160)
SECONDS = 10


class ClockedCamera:
    """What OpenCV's capture is to its reader: `read` waits for the next frame.

    Args:
        images: `[H, W, 3] uint8`, shown in turn.
        rate: frames a second.
    """

    def __init__(self, images: list[np.ndarray], rate: float) -> None:
        self.images, self.rate = itertools.cycle(images), rate
        self.height, self.width, _ = images[0].shape
        self.began, self.shown = time.monotonic(), 0

    def isOpened(self) -> bool:  # noqa: N802, OpenCV's name
        return True

    def get(self, property_id: int) -> float:
        import cv2

        known = {
            cv2.CAP_PROP_FPS: self.rate,
            cv2.CAP_PROP_FRAME_WIDTH: self.width,
            cv2.CAP_PROP_FRAME_HEIGHT: self.height,
        }
        return known.get(property_id, 0.0)

    def read(self) -> tuple[bool, np.ndarray]:
        due = self.began + (self.shown + 1) / self.rate
        time.sleep(max(0.0, due - time.monotonic()))
        # Who comes late gets the frame of now; those between are lost in the driver.
        passed = int((time.monotonic() - self.began) * self.rate)
        self.shown = max(self.shown + 1, passed)
        return True, next(self.images)

    def release(self) -> None:
        pass


def measure(
    images: list[np.ndarray], rate: float, network_height: int, frames: int
) -> dict[str, Any]:
    """One row: what predict.py tells of so many frames of a camera."""
    import cv2

    network, report = segmenter.load("bisenetv2-synthetic"), Report()
    camera = ClockedCamera(images, rate)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(cv2, "VideoCapture", lambda source: camera),
    ):
        options = Options(height=network_height, max_frames=frames)
        predict_video(network, Input("camera", 0), Path(folder), options, report)
    (told,) = report.videos
    kept = ("frames", "dropped_frames", "frames_per_second", "compile_seconds")
    width = round(network_height * images[0].shape[1] / images[0].shape[0])
    return {"height": network_height, "width": width} | {name: told[name] for name in kept}


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    keep_freed_memory()
    program_cache.keep_compiled_programs()
    images = [draw_street(0, index, HEIGHT, WIDTH)[0] for index in range(8)]
    print(f"{'network sees':<14}{'frames':>8}{'dropped':>9}{'frames/s':>10}")
    rows = []
    for height in NETWORK_HEIGHTS:
        row = measure(images, RATE, height, int(RATE * SECONDS))
        size = f"{row['width']}x{row['height']}"
        print(
            f"{size:<14}{row['frames']:>8}{row['dropped_frames']:>9}"
            f"{row['frames_per_second']:>10.1f}",
            flush=True,
        )
        rows.append(row)
    if len(sys.argv) == 2:
        about = {"protocol": __doc__, "rate": RATE, "size": [HEIGHT, WIDTH]}
        write_json(sys.argv[1], describe_machine() | about | {"rows": rows})


if __name__ == "__main__":
    main()
