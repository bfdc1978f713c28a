"""Which PNG decoder is the quickest, by one thread and by two: pictures a second of a folder.

    python -m benchmarks.png_decoders FOLDER [RESULTS.json]

Those of pillow, imagecodecs, OpenCV, pyspng and kornia-rs that are installed decode the same
RGB pictures in turns, from memory; their outputs are compared first. Best of five turns.
"""

import importlib
import importlib.metadata
import io
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe_machine
from bisenet_jax.files import write_json

Decoder = Callable[[bytes], np.ndarray]
PICTURES = 16
TURNS = 5


def find_decoders() -> dict[str, Decoder]:
    """The decoders that are installed, by the name of their package."""
    decoders: dict[str, Decoder] = {
        "pillow": lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    }
    if imagecodecs := _find("imagecodecs"):
        decoders["imagecodecs"] = imagecodecs.png_decode
    if cv2 := _find("cv2"):
        cv2.setNumThreads(1)
        decoders["opencv-python-headless"] = lambda data: cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB
        )
    if pyspng := _find("pyspng"):
        decoders["pyspng"] = pyspng.load
    if kornia := _find("kornia_rs"):
        decoders["kornia-rs"] = lambda data: np.asarray(kornia.image.Image.decode(data))
    return decoders


def _find(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def measure(files: list[bytes], decoders: dict[str, Decoder]) -> list[dict]:
    """A row per decoder: pictures a second by one thread and by two."""
    truth = decoders["pillow"](files[0])
    for name, decode in decoders.items():
        if not np.array_equal(decode(files[0]), truth):
            raise ValueError(f"{name} decodes to other pixels than pillow")
    best = {(name, threads): 0.0 for name in decoders for threads in (1, 2)}
    for _ in range(TURNS):
        for name, threads in best:
            with ThreadPoolExecutor(threads) as pool:
                began = time.perf_counter()
                list(pool.map(decoders[name], files))
                rate = len(files) / (time.perf_counter() - began)
            best[name, threads] = max(best[name, threads], rate)
    return [
        {
            "decoder": name,
            "version": importlib.metadata.version(name),
            "one_thread": best[name, 1],
            "two_threads": best[name, 2],
        }
        for name in decoders
    ]


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    paths = sorted(Path(sys.argv[1]).rglob("*.png"))[:PICTURES]
    files = [path.read_bytes() for path in paths]
    megabytes = sum(map(len, files)) / len(files) / 1e6
    rows = measure(files, find_decoders())
    print(f"{len(files)} pictures of {megabytes:.2f} MB on average, a second:")
    for row in rows:
        print(
            f"{row['decoder']:<24}{row['version']:<12}{row['one_thread']:>8.1f} by one thread"
            f"{row['two_threads']:>8.1f} by two"
        )
    if len(sys.argv) == 3:
        write_json(sys.argv[2], describe_machine() | {"megabytes": megabytes, "rows": rows})


if __name__ == "__main__":
    main()
