"""From a configuration to the frames of one split."""

from collections.abc import Generator
from functools import partial

from bisenet_jax.config import Config, DataConfig
from bisenet_jax.data import folder
from bisenet_jax.data.class_sets import find_class_set, find_labelling
from bisenet_jax.data.classes import CITYSCAPES, ClassSet
from bisenet_jax.data.example import Batch, Source
from bisenet_jax.data.loader import Sampler, shuffled, training_batches
from bisenet_jax.data.pairs import PairSource
from bisenet_jax.data.sampling import balanced, require_match
from bisenet_jax.data.statistics import read as read_statistics
from bisenet_jax.data.synthetic import SyntheticStreets
from bisenet_jax.errors import ConfigError, DataError


def open_source(config: DataConfig, split: str) -> Source:
    """The examples of a split; a ConfigError or DataError says what is missing."""
    class_set, coding = find_labelling(config.classes)
    if config.source == "folder":
        return PairSource(folder.list_pairs(config.root, split), coding)
    if config.source == "synthetic":
        require_class_set(config, class_set, (CITYSCAPES,))
        return _open_streets(config, split)
    raise ConfigError(f"data source {config.source!r} is not known: synthetic or folder")


def open_sampler(config: DataConfig, source: Source) -> Sampler:
    """The order of the training frames; a ConfigError where the statistics do not fit them."""
    if config.sampling == "uniform":
        return partial(shuffled, len(source))
    statistics = read_statistics(config.statistics)
    require_match(statistics, source, find_class_set(config.classes))
    return balanced(statistics)


def open_batches(
    config: Config, source: Source, sampler: Sampler, start_step: int = 0
) -> Generator[Batch, None, None]:
    """Training batches from `start_step` on, as configured; close it after use."""
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
    )


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


def _open_streets(config: DataConfig, split: str) -> SyntheticStreets:
    # One seed per split: no training frame is ever scored.
    sizes = {
        config.train_split: (config.train_images, 0),
        config.val_split: (config.val_images, 1),
    }
    if split not in sizes:
        raise DataError(f"split {split!r} does not exist; the synthetic ones are {list(sizes)}")
    images, seed = sizes[split]
    return SyntheticStreets(images=images, height=config.height, width=config.width, seed=seed)
