"""From the downloaded zips to the folder that tfds reads, resumable."""

import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bisenet_jax.data.cityscapes import writer
from bisenet_jax.data.cityscapes.archives import Archives, list_frames, open_archives
from bisenet_jax.data.cityscapes.records import records_folder, tfds_split


def prepare_cityscapes(
    zips: Path, data_dir: Path, splits: list[str], shard_bytes: int
) -> dict[str, Any]:
    """Write what is not there yet and say so; returns a summary ready for JSON.

    Raises:
        DataError: says what is missing, damaged or full; what was finished stays.
    """
    folder = records_folder(data_dir)
    there = writer.finished_splits(folder)
    missing = [split for split in splits if tfds_split(split) not in there]
    kept = written = 0
    start = time.perf_counter()
    if missing:
        with (
            open_archives(zips) as archives,
            writer.locked(folder),
        ):
            print(f"looking at the frames of {', '.join(missing)} in {zips}", flush=True)
            plans = {
                split: writer.plan_shards(
                    folder, split, list_frames(archives, split), shard_bytes
                )
                for split in missing
            }
            kept, written = _write(folder, archives, plans)
        there = writer.finished_splits(folder)
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
    archives: Archives,
    plans: dict[str, list[writer.Shard]],
) -> tuple[int, int]:
    """Write the shards that are not there; returns the frames kept and written."""
    shards = [shard for plan in plans.values() for shard in plan]
    writer.remove_leftovers(folder, shards, list(plans))
    finished = writer.finished_shards(folder, shards)
    rest = [shard for shard in shards if shard not in finished]
    kept, total = (sum(len(shard.frames) for shard in part) for part in (finished, shards))
    if kept:
        print(f"resuming, {kept} of {total} frames are there", flush=True)
    writer.require_space(folder, rest)
    with tqdm(desc="prepare", total=total, initial=kept, unit="frame") as bar:
        writer.write_shards(folder, archives, rest, bar.update)
    writer.describe(folder, plans)
    return kept, total - kept
