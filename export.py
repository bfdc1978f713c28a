"""Write a trained network as a file of its own.

    python export.py --workdir runs/synthetic --format safetensors --output weights.safetensors
    python export.py --workdir runs/synthetic --output half.safetensors --dtype float16

safetensors: parameters and batch statistics, and beside them the network's fields, the classes,
the normalisation, the configuration of the run and its score. `bisenet_jax.load` and predict.py
take the file. --json repeats what was written. Exit codes: 0 done, 2 something to mend, 130
interrupted.
"""

from pathlib import Path

from absl import flags

from bisenet_jax import command_line
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.training.run import read_run
from bisenet_jax.weights import DTYPES, read_weights, write_weights

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a train.py run.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "best", "best (by mIoU on val), latest, or a step."
)
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors"], "Of the file.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", DTYPES, "Of the stored parameters.")
_BOOSTERS = flags.DEFINE_bool("boosters", False, "Keep the heads that only training uses.")
_JSON = flags.DEFINE_string("json", None, "File for what was written.")


def main() -> None:
    if _WORKDIR.value is None or _OUTPUT.value is None:
        raise ConfigError("give --workdir DIR and --output FILE; --help shows an example")
    path = Path(_OUTPUT.value)
    weights = read_run(Path(_WORKDIR.value), _CHECKPOINT.value)
    write_weights(path, weights, dtype=_DTYPE.value, with_boosters=_BOOSTERS.value)
    # Read back: what is reported is what the file holds.
    segmenter = Segmenter(read_weights(path), str(path))
    print(segmenter)
    if _JSON.value:
        file = {"format": _FORMAT.value, "path": str(path), "bytes": path.stat().st_size}
        stored = {"dtype": _DTYPE.value, "boosters": _BOOSTERS.value}
        write_json(_JSON.value, file | {"stored": stored, "network": segmenter.description})


if __name__ == "__main__":
    command_line.run(main, __doc__)
