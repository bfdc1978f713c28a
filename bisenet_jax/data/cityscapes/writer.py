"""The folder of ArrayRecord files that tfds reads Cityscapes from, written shard by shard.

Each shard is whole or not there, and the folder is described last: a run may be killed at any
moment and started again, and no reader takes half of it for the whole.
"""

import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bisenet_jax.data.cityscapes.archives import ArchivedFrame, Archives
from bisenet_jax.data.cityscapes.records import (
    DATASET,
    FORMAT,
    import_tfds,
    is_described,
    open_builder,
    read_name,
    tfds_split,
)
from bisenet_jax.data.cityscapes.shard import partial_path, read_ends, write_shard, writing
from bisenet_jax.errors import DataError

DATASET_NAME = DATASET.partition("/")[0]


class Shard(NamedTuple):
    """One file to be, and the frames that belong into it, in order."""

    path: Path
    frames: list[ArchivedFrame]


def finished_splits(folder: Path) -> dict[str, int]:
    """Frames by split, as tfds names them, of a finished folder whose files are whole.

    Empty where preparation has not ended or not begun. A DataError names a damaged file.
    """
    if not is_described(folder):
        return {}
    splits = open_builder(folder).info.splits
    for info in splits.values():
        for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
            ends = read_ends(Path(path))
            if ends is None or ends[0] != length:
                raise DataError(
                    f"{path}: must hold {length} frames, but {ends[0] if ends else 'none'} can "
                    f"be read; delete the folder {folder} and prepare it again"
                )
    return {name: info.num_examples for name, info in splits.items()}


def plan_shards(
    folder: Path, split: str, frames: Sequence[ArchivedFrame], shard_bytes: int
) -> list[Shard]:
    """Divide the frames of a split, in order, into files of about so many bytes at most."""
    groups: list[list[ArchivedFrame]] = []
    room = 0
    for frame in frames:
        if not groups or frame.size > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(frame)
        room -= frame.size
    template = _template(folder, split)
    return [
        Shard(Path(template.sharded_filepath(shard_index=i, num_shards=len(groups))), group)
        for i, group in enumerate(groups)
    ]


@contextmanager
def locked(folder: Path) -> Generator[None, None, None]:
    """Make the folder and keep other runs from writing into it meanwhile."""
    import fcntl  # not on every system that can train from a prepared folder

    with ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".prepare.lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DataError(
                    f"{folder}: another run is writing here; wait for its end, or end it"
                ) from error
        yield


def finished_shards(folder: Path, shards: Sequence[Shard]) -> list[Shard]:
    """Those whose file is whole and holds their frames."""
    features = _features(folder)

    def is_finished(shard: Shard) -> bool:
        ends = read_ends(shard.path)
        if ends is None:
            return False
        count, *records = ends
        names = [read_name(features, record) for record in records]
        expected = [shard.frames[0].name, shard.frames[-1].name]
        return count == len(shard.frames) and names == expected

    return [shard for shard in shards if is_finished(shard)]


def remove_leftovers(folder: Path, shards: Sequence[Shard], splits: Sequence[str]) -> None:
    """Delete what a killed run, or one with other shards, left of splits not yet finished."""
    wanted = {shard.path.name for shard in shards}
    for split in splits:
        pattern = f"{DATASET_NAME}-{tfds_split(split)}.{FORMAT}-*"
        for path in (*folder.glob(pattern), *folder.glob(partial_path(Path(pattern)).name)):
            if path.name not in wanted:
                path.unlink()


def require_space(folder: Path, shards: Sequence[Shard]) -> None:
    """Raise a DataError unless the disk has room for the shards."""
    free = shutil.disk_usage(folder).free
    needed = sum(frame.size for shard in shards for frame in shard.frames)
    if needed > free:
        raise DataError(
            f"{folder}: {needed / 1e9:.1f} GB are needed, but {free / 1e9:.1f} GB are free; "
            "free some, or give a --data_dir on a larger disk"
        )


def write_shards(
    folder: Path, archives: Archives, shards: Sequence[Shard], done: Callable[[], object]
) -> None:
    """Write files, in order; calls `done` after each frame. A DataError names a failed one."""
    features = _features(folder)

    def records(shard: Shard) -> Iterator[bytes]:
        for frame in shard.frames:
            example = {
                "image_id": frame.name,
                "image_left": archives.images.read(frame.image),
                "segmentation_label": archives.labels.read(frame.label),
            }
            yield features.serialize_example(example)
            done()

    for shard in shards:
        write_shard(shard.path, records(shard))


def describe(folder: Path, plans: Mapping[str, Sequence[Shard]]) -> None:
    """Write features.json and dataset_info.json, which make the folder readable.

    Args:
        plans: the new shards by split, as we name them; splits described before stay.
    """
    tfds = import_tfds()
    info = _builder(folder).info
    infos = dict(info.splits)
    for split, shards in plans.items():
        template = _template(folder, split)
        infos[template.split] = tfds.core.SplitInfo(
            name=template.split,
            shard_lengths=[len(shard.frames) for shard in shards],
            num_bytes=sum(frame.size for shard in shards for frame in shard.frames),
            filename_template=template,
        )
    info.set_splits(tfds.core.SplitDict(infos.values()))
    partial = partial_path(folder / "description")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with writing(folder):
            partial.mkdir()
            info.write_to_directory(partial)
            # By dataset_info.json a folder counts as finished, so it comes last.
            for path in sorted(partial.iterdir(), key=lambda path: path.stem == "dataset_info"):
                os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _builder(folder: Path) -> Any:
    data_dir = folder.parents[len(Path(DATASET).parts)]
    return import_tfds().builder(DATASET, data_dir=data_dir, file_format=FORMAT)


def _features(folder: Path) -> Any:
    return _builder(folder).info.features


def _template(folder: Path, split: str) -> Any:
    return import_tfds().core.ShardedFileTemplate(
        data_dir=folder,
        dataset_name=DATASET_NAME,
        split=tfds_split(split),
        filetype_suffix=FORMAT,
    )
