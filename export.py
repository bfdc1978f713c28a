"""Write a trained network as a file of its own.

    python export.py --workdir runs/synthetic --format safetensors --output weights.safetensors
    python export.py --workdir runs/synthetic --output half.safetensors --dtype float16
    python export.py --weights weights.safetensors --format onnx --height 512 --width 1024 \\
        --output network.onnx
    python export.py --weights weights.safetensors --format stablehlo --output network.stablehlo

safetensors: parameters and batch statistics, and beside them the network's fields, the classes,
the normalisation, the configuration of the run and its score. `bisenet_jax.load` and predict.py
take the file.

onnx: for images of one size; stablehlo: for images of one size and number or, where --height,
--width or --batch are not given, of any (sizes in multiples of 32), described by OUTPUT.json.
--io uint8-labels takes uint8 images and gives uint8 labels, with everything between them
inside; --io float-logits takes normalised images and gives logits (in onnx channels come
first). Both need pip install 'bisenet_jax[export]', and both are run on drawn streets, or on
the pictures of --verify_images, before they are written: where they compute something else than
the network, there is an error and no file.

--input_scale 1.25 makes a file whose network sees every image at 1.25 times its size, in
scoring as in use, and gives labels of the image's own size; the network's work grows by 1.6.

--json repeats what was written. Exit codes: 0 done, 2 something to mend, 130 interrupted.
"""

from pathlib import Path
from typing import Any

from absl import flags

from bisenet_jax import command_line
from bisenet_jax.errors import ConfigError
from bisenet_jax.export.description import IOS
from bisenet_jax.export.onnx import export_onnx
from bisenet_jax.export.stablehlo import export_stablehlo
from bisenet_jax.export.verification import find_pictures
from bisenet_jax.files import write_json
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.training.run import read_run
from bisenet_jax.weights import DTYPES, Weights, read_weights, write_weights

_WEIGHTS = flags.DEFINE_string("weights", None, "A weights file, or a shipped name.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Instead: folder of a train.py run.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "Of the workdir: best (by mIoU on val), latest, or a step."
)
_FORMAT = flags.DEFINE_enum(
    "format", "safetensors", ["safetensors", "onnx", "stablehlo"], "Of the file."
)
_INPUT_SCALE = flags.DEFINE_float(
    "input_scale", None, "How large the network sees an image; by default as in training."
)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", DTYPES, "safetensors: of the parameters.")
_BOOSTERS = flags.DEFINE_bool(
    "boosters", False, "safetensors: keep the heads that only training uses."
)
_HEIGHT = flags.DEFINE_integer("height", None, "Of the images.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", None, "Of the images.", lower_bound=1)
_BATCH = flags.DEFINE_integer(
    "batch", None, "Number of images (onnx: 1 by default; stablehlo: any).", lower_bound=1
)
_IO = flags.DEFINE_enum("io", IOS[0], IOS, "What goes in and comes out.")
_VERIFY_IMAGES = flags.DEFINE_string(
    "verify_images", None, "Folder of pictures to compare on, resized to the images' size."
)
_JSON = flags.DEFINE_string("json", None, "File for what was written.")

_OF_SAFETENSORS = ("dtype", "boosters")
_OF_PROGRAMS = ("height", "width", "batch", "io", "verify_images")


def main() -> None:
    path = _output_path()
    if _WEIGHTS.value is None:
        weights = read_run(Path(_WORKDIR.value or ""), _CHECKPOINT.value)
    else:
        weights = read_weights(_WEIGHTS.value)
    if _INPUT_SCALE.value is not None:
        weights = weights.with_input_scale(_INPUT_SCALE.value)
    if _FORMAT.value == "safetensors":
        write_weights(path, weights, dtype=_DTYPE.value, with_boosters=_BOOSTERS.value)
        # Read back: what is reported is what the file holds.
        segmenter = Segmenter(read_weights(path), str(path))
        print(segmenter)
        about: dict[str, Any] = {"stored": {"dtype": _DTYPE.value, "boosters": _BOOSTERS.value}}
    else:
        segmenter = Segmenter(weights, str(_WEIGHTS.value or _WORKDIR.value))
        print(segmenter)
        about = _write_program(path, weights)
    if _JSON.value:
        file = {"format": _FORMAT.value, "path": str(path), "bytes": path.stat().st_size}
        write_json(_JSON.value, file | about | {"network": segmenter.description})


def _write_program(path: Path, weights: Weights) -> dict[str, Any]:
    options: dict[str, Any] = {"height": _HEIGHT.value, "width": _WIDTH.value, "io": _IO.value}
    if _FORMAT.value == "onnx":
        write, options["batch"] = export_onnx, _BATCH.value or 1
    else:
        write, options["batch"] = export_stablehlo, _BATCH.value
    found = write(path, weights, **options, pictures=_VERIFY_IMAGES.value)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {found}")
    return {"program": options, "verified": found._asdict()}


def _output_path() -> Path:
    """The output, once the flags are known to belong together."""
    if (_WEIGHTS.value is None) == (_WORKDIR.value is None) or _OUTPUT.value is None:
        raise ConfigError(
            "give --workdir DIR or --weights FILE, and --output FILE; --help shows examples"
        )
    if _WEIGHTS.value is not None and flags.FLAGS["checkpoint"].present:
        raise ConfigError("--checkpoint is of a --workdir; a weights file holds one")
    foreign = _OF_PROGRAMS if _FORMAT.value == "safetensors" else _OF_SAFETENSORS
    for name in foreign:
        if flags.FLAGS[name].present:
            raise ConfigError(
                f"--{name} means nothing to --format {_FORMAT.value}; leave it out"
            )
    if _FORMAT.value == "onnx" and None in (_HEIGHT.value, _WIDTH.value):
        raise ConfigError("an onnx file is for images of one size: give --height and --width")
    if (_HEIGHT.value is None) != (_WIDTH.value is None):
        raise ConfigError(
            "give --height and --width together, or neither for every multiple of 32"
        )
    if _VERIFY_IMAGES.value is not None:
        find_pictures(_VERIFY_IMAGES.value)
    return Path(_OUTPUT.value)


if __name__ == "__main__":
    command_line.run(main, __doc__)
