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
from tqdm import tqdm

from bisenet_jax import command_line
from bisenet_jax.data import cityscapes, cityscapes_archives, cityscapes_writer
from bisenet_jax.data.records import records_folder, tfds_split
from bisenet_jax.data.sources import open_training_source
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json

_CONFIG = config_flags.DEFINE_config_file("config", None, "With cache: a file in configs/.")
_ZIPS = flags.DEFINE_string("zips", None, "Folder of the two zips, or of their content.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder to write to, as in tfds.")
_SPLITS = flags.DEFINE_list("splits", list(cityscapes.SPLITS), "Which to prepare.")
_SHARD_MEGABYTES = flags.DEFINE_float(
    "shard_megabytes", 256, "Size of a file; what a stopped run does anew.", lower_bound=0.01
)
_JSON = flags.DEFINE_string("json", None, "A file for what was done, and how fast.")


def main(arguments: list[str]) -> None:
    commands = {"cityscapes": _prepare_cityscapes, "cache": _prepare_cache}
    if len(arguments) != 1 or arguments[0] not in commands:
        raise ConfigError(
            f"arguments {arguments} must be one of {', '.join(commands)}; --help shows how"
        )
    summary = commands[arguments[0]]()
    if _JSON.value:
        write_json(_JSON.value, summary)


def _prepare_cityscapes() -> dict[str, Any]:
    if not _ZIPS.value or not _DATA_DIR.value:
        raise ConfigError("give --zips DIR and --data_dir DIR; --help shows an example")
    if unknown := [split for split in _SPLITS.value if split not in cityscapes.SPLITS]:
        raise ConfigError(f"--splits {unknown} must be of {', '.join(cityscapes.SPLITS)}")
    return prepare_cityscapes(
        Path(_ZIPS.value).expanduser(),
        Path(_DATA_DIR.value).expanduser(),
        _SPLITS.value,
        int(_SHARD_MEGABYTES.value * 1e6),
    )


def _prepare_cache() -> dict[str, Any]:
    config = command_line.read_config(_CONFIG.value, None)
    if config.data.cache == "none":
        raise ConfigError("config.data.cache none makes no cache; choose jpeg or array")
    start = time.perf_counter()
    source = open_training_source(config.data)
    print(f"{config.data.cache} cache of {len(source)} frames in {config.data.cache_dir}")
    return {"frames": len(source), "seconds": time.perf_counter() - start}


def prepare_cityscapes(
    zips: Path, data_dir: Path, splits: list[str], shard_bytes: int
) -> dict[str, Any]:
    """Write what is not there yet and say so; returns a summary ready for JSON.

    Raises:
        DataError: says what is missing, damaged or full; what was finished stays.
    """
    folder = records_folder(data_dir)
    there = cityscapes_writer.finished_splits(folder)
    missing = [split for split in splits if tfds_split(split) not in there]
    kept = written = 0
    start = time.perf_counter()
    if missing:
        with (
            cityscapes_archives.open_archives(zips) as archives,
            cityscapes_writer.locked(folder),
        ):
            print(f"looking at the frames of {', '.join(missing)} in {zips}", flush=True)
            plans = {
                split: cityscapes_writer.plan_shards(
                    folder, split, cityscapes_archives.list_frames(archives, split), shard_bytes
                )
                for split in missing
            }
            kept, written = _write(folder, archives, plans)
        there = cityscapes_writer.finished_splits(folder)
    seconds = time.perf_counter() - start
    listing = ", ".join(f"{name} {frames} frames" for name, frames in there.items())
    print(f"{folder}: {'prepared' if missing else 'was prepared already'}: {listing}")
    return {
        "folder": str(folder),
        "splits": there,
        "frames_written": written,
        "frames_kept": kept,
        "seconds": seconds,
        "frames_per_second": written / seconds if written else None,
    }


def _write(
    folder: Path,
    archives: cityscapes_archives.Archives,
    plans: dict[str, list[cityscapes_writer.Shard]],
) -> tuple[int, int]:
    """Write the shards that are not there; returns the frames kept and written."""
    shards = [shard for plan in plans.values() for shard in plan]
    cityscapes_writer.remove_leftovers(folder, shards, list(plans))
    finished = cityscapes_writer.finished_shards(folder, shards)
    rest = [shard for shard in shards if shard not in finished]
    kept, total = (sum(len(shard.frames) for shard in part) for part in (finished, shards))
    if kept:
        print(f"resuming, {kept} of {total} frames are there", flush=True)
    cityscapes_writer.require_space(folder, rest)
    with tqdm(desc="prepare", total=total, initial=kept, unit="frame") as bar:
        cityscapes_writer.write_shards(folder, archives, rest, bar.update)
    cityscapes_writer.describe(folder, plans)
    return kept, total - kept


if __name__ == "__main__":
    command_line.run(main, __doc__, takes_arguments=True)
