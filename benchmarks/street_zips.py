"""Synthetic streets in the zips of Cityscapes: same names, sizes and label ids, free to share.

    python -m benchmarks.street_zips DIR --frames 32 --val 8
    python -m benchmarks.street_zips DIR --extracted --height 128 --width 256

DIR then serves as --zips of bisenet_jax.data.prepare; --extracted writes the folders instead,
which config.data.source=cityscapes reads as they are.
"""

import io
import math
import multiprocessing
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from bisenet_jax import command_line
from bisenet_jax.data.cityscapes.archives import ZIPS
from bisenet_jax.data.cityscapes.labels import (
    IMAGE_ENDING,
    IMAGE_FOLDER,
    LABEL_ENDING,
    LABEL_FOLDER,
    LABEL_ID_OF,
)
from bisenet_jax.data.synthetic import SMALLEST, draw_street
from bisenet_jax.errors import ConfigError
from bisenet_jax.processors import available_processors

TOWNS = {"train": ("altdorf", "neudorf"), "val": ("mittelhausen",), "test": ("hinterwald",)}

MOST_FRAMES = 100_000
ATTEMPTS = 50

_FRAMES = flags.DEFINE_integer("frames", 32, "Of the split train.", lower_bound=1)
_VAL = flags.DEFINE_integer("val", 8, "Frames of the split val.", lower_bound=0)
_TEST = flags.DEFINE_integer("test", 0, "Frames of the split test.", lower_bound=0)
_HEIGHT = flags.DEFINE_integer("height", 1024, "Of a frame, in pixels.", lower_bound=SMALLEST)
_WIDTH = flags.DEFINE_integer("width", 2048, "Of a frame, in pixels.", lower_bound=SMALLEST)
_LARGEST = flags.DEFINE_float(
    "largest_megabytes",
    None,
    "Of a picture's PNG: larger ones are drawn anew. Real frames have about 2.4.",
    lower_bound=0.001,
)
_EXTRACTED = flags.DEFINE_bool("extracted", False, "Write folders instead of zips.")

# Of one frame, its place in the archive and its bytes, for each of the two archives.
Files = dict[str, tuple[str, bytes]]


def frame_names(split: str, count: int) -> list[str]:
    """Names such as `altdorf_000003_000019`, evenly over the towns of a split."""
    towns = TOWNS[split]
    return [
        f"{towns[index * len(towns) // count]}_{index:06d}_000019" for index in range(count)
    ]


def draw_frame(
    height: int, width: int, largest_bytes: float, job: tuple[str, str, int]
) -> Files:
    """The two PNG files of one frame; a job is split, name and number."""
    split, name, number = job
    seed = list(TOWNS).index(split)
    # Some streets have sensor noise and twice the bytes.
    for attempt in range(ATTEMPTS):
        image, label = draw_street(seed, number + attempt * MOST_FRAMES, height, width)
        picture = _png(image)
        if len(picture) <= largest_bytes:
            break
    else:
        raise ConfigError(f"no street of {width}x{height} is as small; give more megabytes")
    label_ids = LABEL_ID_OF[label]
    if split == "test":
        label_ids = np.zeros_like(label_ids)  # as the real ones: nothing to learn from
    town = name.partition("_")[0]
    return {
        IMAGE_FOLDER: (f"{IMAGE_FOLDER}/{split}/{town}/{name}{IMAGE_ENDING}", picture),
        LABEL_FOLDER: (f"{LABEL_FOLDER}/{split}/{town}/{name}{LABEL_ENDING}", _png(label_ids)),
    }


def write_streets(
    folder: Path,
    counts: dict[str, int],
    *,
    height: int,
    width: int,
    extracted: bool = False,
    processes: int = 1,
    largest_bytes: float = math.inf,
) -> None:
    """Draw `counts[split]` frames of each split into two zips, or into folders."""
    jobs = [
        (split, name, number)
        for split, count in counts.items()
        for number, name in enumerate(frame_names(split, count))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    draw = partial(draw_frame, height, width, largest_bytes)
    frames = tqdm(_each(draw, jobs, processes), "draw", len(jobs), unit="frame", disable=None)
    if extracted:
        for frame in frames:
            for name, data in frame.values():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        return
    with (
        zipfile.ZipFile(folder / ZIPS[IMAGE_FOLDER], "w") as images,
        zipfile.ZipFile(folder / ZIPS[LABEL_FOLDER], "w") as labels,
    ):
        for frame in frames:
            images.writestr(*frame[IMAGE_FOLDER])
            labels.writestr(*frame[LABEL_FOLDER])


def _each(
    draw: "partial[Files]", jobs: Iterable[tuple[str, str, int]], processes: int
) -> Iterator[Files]:
    if processes == 1:
        yield from map(draw, jobs)
        return
    # Spawned: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        yield from pool.map(draw, jobs)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        raise ConfigError(f"arguments {arguments} must be one folder; --help shows an example")
    write_streets(
        Path(arguments[0]),
        {"train": _FRAMES.value, "val": _VAL.value, "test": _TEST.value},
        height=_HEIGHT.value,
        width=_WIDTH.value,
        extracted=_EXTRACTED.value,
        processes=available_processors(),
        largest_bytes=1e6 * _LARGEST.value if _LARGEST.value else math.inf,
    )


if __name__ == "__main__":
    command_line.run(main, __doc__, takes_arguments=True)
