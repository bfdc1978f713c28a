"""Label pictures, videos or a camera with a trained network.

    python predict.py --weights weights.safetensors photo.jpg --output labelled
    python predict.py --workdir runs/synthetic photos/ 'more/*.png' drive.mp4 --output labelled
    python predict.py --weights weights.safetensors 0 --max_frames 300 --output labelled

Inputs are files, folders (the images in them, not in folders below), globs, and camera indices.
An image NAME becomes NAME_labels.png (8-bit, pixel value = class id), NAME_colours.png and
NAME_overlay.png with a legend; a video becomes NAME_overlay.mp4, with the frames per second of
this program in its corner, and NAME_overlay.png, its last frame with a legend. Of two inputs
with one name the second is written as NAME_2. Videos and cameras need OpenCV: pip install
'bisenet_jax[video]'.

Each size of picture compiles once, which takes seconds: where there are many sizes, give
--height and --width. A camera that is faster than this program loses frames, which are counted;
Ctrl-C ends it and keeps the video, which plays at the camera's rate.

--json keys: pictures and videos (sizes, class_shares, outputs), failures, seconds,
first_result_seconds, images_per_second, network. Exit codes: 0 all done, 2 something to mend
(or some inputs failed: each is named, the others are done), 130 interrupted.
"""

import sys
import time
from pathlib import Path

from absl import flags
from tqdm import tqdm

from bisenet_jax import command_line, media, program_cache, segmenter
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json
from bisenet_jax.media import Input
from bisenet_jax.prediction import (
    Options,
    Report,
    output_paths,
    predict_pictures,
    predict_video,
)

_WEIGHTS = flags.DEFINE_string("weights", None, "A weights file, or a shipped name.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Instead: folder of a train.py run.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Of the workdir: best (by mIoU on val, the default), latest, or a step."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results; made if absent.")
_HEIGHT = flags.DEFINE_integer(
    "height", None, "Of the network's input; by default as in training.", lower_bound=1
)
_WIDTH = flags.DEFINE_integer(
    "width", None, "Of the network's input; follows --height by default.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "Pictures of one size that go together.", lower_bound=1
)
_MAX_FRAMES = flags.DEFINE_integer(
    "max_frames", None, "Of each video or camera.", lower_bound=1
)
_JSON = flags.DEFINE_string("json", None, "File for what was found and how long it took.")


def main(words: list[str]) -> int:
    began = time.monotonic()
    source = _WEIGHTS.value or _WORKDIR.value
    if source is None or (_WEIGHTS.value and _WORKDIR.value):
        raise ConfigError("give either --weights FILE or --workdir DIR")
    if _OUTPUT.value is None or not words:
        raise ConfigError("give inputs and --output DIR; --help shows examples")
    output = Path(_OUTPUT.value)
    inputs = media.find_inputs(words)
    require_no_input_overwritten(inputs, output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output {output} cannot be a folder ({error.strerror}); give another one"
        ) from error
    program_cache.keep_compiled_programs()
    network = segmenter.load(source, _CHECKPOINT.value)
    print(network)

    options = Options(_HEIGHT.value, _WIDTH.value, _BATCH_SIZE.value, _MAX_FRAMES.value)
    report, first_result = Report(), None
    images = [item for item in inputs if not item.is_video]

    def count(is_done: bool) -> None:
        nonlocal first_result
        if is_done and first_result is None:
            first_result = time.monotonic() - began
        bar.update()

    if images:
        with tqdm(desc="predict", total=len(images), unit="image") as bar:
            predict_pictures(network, images, output, options, report, count)
    for item in inputs:
        if item.is_video:
            with tqdm(desc=item.name, total=_MAX_FRAMES.value, unit="frame") as bar:
                predict_video(network, item, output, options, report, count)

    done = len(report.pictures) + sum(video["frames"] for video in report.videos)
    seconds = time.monotonic() - began
    for video in report.videos:
        if video["dropped_frames"]:
            print(f"{video['input']}: {video['dropped_frames']} frames dropped")
    print(f"{done} pictures and frames in {seconds:.1f} s, in {output}")
    for failure in report.failures:
        print(f"error: {failure['error']}", file=sys.stderr)
    if _JSON.value:
        timing = {
            "images": done,
            "seconds": seconds,
            "first_result_seconds": first_result,
            "images_per_second": done / seconds,
        }
        write_json(_JSON.value, vars(report) | timing | {"network": network.description})
    return 2 if report.failures else 0


def require_no_input_overwritten(inputs: list[Input], output: Path) -> None:
    """Neither a picture of the user's nor, at the second run, the labels of labels."""
    read = {item.source.resolve() for item in inputs if isinstance(item.source, Path)}
    for item in inputs:
        for path in output_paths(item, output):
            if path.resolve() in read:
                raise ConfigError(
                    f"{path} is an input and would be overwritten by the result of {item}; "
                    "give another --output, or leave results of a former run out of the inputs"
                )


if __name__ == "__main__":
    command_line.run(main, __doc__, takes_arguments=True)
