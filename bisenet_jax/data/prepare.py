"""Bring a downloaded data set into the form that training reads fastest.

    python -m bisenet_jax.data.prepare cityscapes --zips ZIPS --data_dir DATA_DIR
    python -m bisenet_jax.data.prepare cache --config configs/X.py --config.data.cache=jpeg

cityscapes: ZIPS holds leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or the folders
extracted from them. The frames go unchanged into ArrayRecord files, which tfds reads as
cityscapes/semantic_segmentation; then set config.data.root to DATA_DIR. A run that was stopped
goes on where it was when it is started again.

cache: what train.py does at its first start with the same configuration, ahead of it.

Exit codes: 0 done, 2 something to mend, 130 interrupted.
"""

import time
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from bisenet_jax import command_line
from bisenet_jax.data.cityscapes.labels import SPLITS
from bisenet_jax.data.cityscapes.preparation import prepare_cityscapes
from bisenet_jax.data.sources import open_training_source
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "With cache: a file in configs/.")
    flags.DEFINE_string("zips", None, "Folder of the two zips, or of their content.")
    flags.DEFINE_string("data_dir", None, "Folder to write to, as in tfds.")
    flags.DEFINE_list("splits", list(SPLITS), "Which to prepare.")
    flags.DEFINE_float(
        "shard_megabytes",
        256,
        "Size of a file; what a stopped run does anew.",
        lower_bound=0.01,
    )
    flags.DEFINE_string("json", None, "A file for what was done, and how fast.")


def main(arguments: list[str]) -> None:
    commands = {"cityscapes": _prepare_cityscapes, "cache": _prepare_cache}
    if len(arguments) != 1 or arguments[0] not in commands:
        raise ConfigError(
            f"arguments {arguments} must be one of {', '.join(commands)}; --help shows how"
        )
    summary = commands[arguments[0]]()
    if flags.FLAGS.json:
        write_json(flags.FLAGS.json, summary)


def _prepare_cityscapes() -> dict[str, Any]:
    if not flags.FLAGS.zips or not flags.FLAGS.data_dir:
        raise ConfigError("give --zips DIR and --data_dir DIR; --help shows an example")
    if unknown := [split for split in flags.FLAGS.splits if split not in SPLITS]:
        raise ConfigError(f"--splits {unknown} must be of {', '.join(SPLITS)}")
    return prepare_cityscapes(
        Path(flags.FLAGS.zips).expanduser(),
        Path(flags.FLAGS.data_dir).expanduser(),
        flags.FLAGS.splits,
        int(flags.FLAGS.shard_megabytes * 1e6),
    )


def _prepare_cache() -> dict[str, Any]:
    config = command_line.read_config(flags.FLAGS.config, None)
    if config.data.cache == "none":
        raise ConfigError("config.data.cache none makes no cache; choose jpeg or array")
    start = time.perf_counter()
    source = open_training_source(config.data)
    print(f"{config.data.cache} cache of {len(source)} frames in {config.data.cache_dir}")
    return {"frames": len(source), "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__, takes_arguments=True)
