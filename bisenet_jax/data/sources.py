"""From a configuration to the frames of one split."""

import os
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bisenet_jax.config import SOURCES, Config, DataConfig
from bisenet_jax.data import folder
from bisenet_jax.data.cache import CacheableSource, open_cache
from bisenet_jax.data.camvid import open_camvid
from bisenet_jax.data.cityscapes import labels as cityscapes
from bisenet_jax.data.cityscapes.records import CityscapesRecords, is_described, records_folder
from bisenet_jax.data.class_sets import find_class_set, find_labelling
from bisenet_jax.data.classes import CAMVID, CAMVID_EXACT, CITYSCAPES, ClassSet
from bisenet_jax.data.coco_stuff import open_coco_stuff
from bisenet_jax.data.coco_stuff_classes import COCO_STUFF
from bisenet_jax.data.example import Batch, Source
from bisenet_jax.data.loader import Sampler, shuffled, training_batches
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data.sampling import balanced, require_match
from bisenet_jax.data.statistics import read as read_statistics
from bisenet_jax.data.synthetic import SyntheticStreets
from bisenet_jax.errors import ConfigError, DataError


def open_source(config: DataConfig, split: str) -> CacheableSource:
    """The examples of a split; a ConfigError or DataError says what is missing."""
    class_set, coding = find_labelling(config.classes)
    config = replace(config, root=os.path.expanduser(config.root))
    if config.source == "folder":
        return PairSource(folder.list_pairs(config.root, split), coding)
    if config.source == "camvid":
        require_class_set(config, class_set, (CAMVID, CAMVID_EXACT))
        return open_camvid(config.root, split, class_set)
    if config.source == "coco_stuff":
        require_class_set(config, class_set, (COCO_STUFF,))
        return open_coco_stuff(config.root, split)
    if config.source == "synthetic":
        require_class_set(config, class_set, (CITYSCAPES,))
        return _open_streets(config, split)
    if config.source == "cityscapes":
        require_class_set(config, class_set, (CITYSCAPES,))
        return _open_cityscapes(Path(config.root), split)
    raise ConfigError(
        f"data source {config.source!r} is not known; choose from {', '.join(SOURCES)}"
    )


def open_training_source(config: DataConfig) -> Source:
    """The training split, from its cache where the configuration asks for one."""
    return with_cache(open_source(config, config.train_split), config)


def with_cache(source: CacheableSource, config: DataConfig) -> Source:
    """The source, or its cache where the configuration asks for one; making that takes long."""
    if config.cache == "none":
        return source
    return open_cache(source, config.cache, config.cache_dir, threads=config.threads)


def open_sampler(config: DataConfig, source: Source) -> Sampler:
    """The order of the training frames; a ConfigError where the statistics do not fit them."""
    if config.sampling == "uniform":
        return partial(shuffled, len(source))
    statistics = read_statistics(config.statistics)
    require_match(statistics, source, find_class_set(config.classes))
    return balanced(statistics)


def open_batches(
    config: Config,
    source: Source,
    sampler: Sampler,
    start_step: int = 0,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """One process's share of each batch from `start_step` on; close it after use."""
    data = config.data
    return training_batches(
        source,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start_step=start_step,
        workers=data.workers,
        threads=data.threads,
        prefetch_bytes=data.prefetch_megabytes << 20,
        canvas=(data.canvas_height, data.canvas_width) if data.canvas_height else None,
        sampler=sampler,
        process_index=process_index,
        process_count=process_count,
    )


def where(config: DataConfig) -> str:
    """Where the frames lie and who reads them, in words."""
    place = f"{config.source} {config.root}".strip()
    return f"{place} ({config.workers} loader processes, {config.threads} threads each)"


def require_class_set(
    config: DataConfig, class_set: ClassSet, fitting: tuple[ClassSet, ...]
) -> None:
    """Raise a ConfigError unless the class set is one that the source can show."""
    if class_set not in fitting:
        names = " or ".join(repr(each.name) for each in fitting)
        raise ConfigError(
            f"config.data.classes {config.classes!r} does not fit the source "
            f"{config.source!r}, which shows the classes of {names}"
        )


def _open_cityscapes(root: Path, split: str) -> CacheableSource:
    is_extracted = (root / cityscapes.IMAGE_FOLDER).is_dir()
    if is_extracted and not is_described(records_folder(root)):
        return PairSource(cityscapes.list_pairs(root, split), cityscapes.coding_of(split))
    return CityscapesRecords(root, split)


def _open_streets(config: DataConfig, split: str) -> SyntheticStreets:
    # One seed per split: no training frame is scored, unless both have one name.
    if split == config.train_split:
        images, seed = config.train_images, 0
    elif split == config.val_split:
        images, seed = config.val_images, 1
    else:
        known = [config.train_split, config.val_split]
        raise DataError(f"split {split!r} does not exist; the synthetic ones are {known}")
    return SyntheticStreets(images=images, height=config.height, width=config.width, seed=seed)
