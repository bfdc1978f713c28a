"""From a configuration to the frames of one split."""

from bisenet_jax.config import DataConfig
from bisenet_jax.data.classes import CITYSCAPES, find_class_set
from bisenet_jax.data.example import Source
from bisenet_jax.data.folder import FolderSource
from bisenet_jax.data.synthetic import SyntheticStreets
from bisenet_jax.errors import ConfigError, DataError


def open_source(config: DataConfig, split: str) -> Source:
    """The examples of a split; a ConfigError or DataError says what is missing."""
    class_set = find_class_set(config.classes)
    if config.source == "folder":
        return FolderSource(config.root, split, class_set)
    if config.source != "synthetic":
        raise ConfigError(f"data source {config.source!r} is not known: synthetic or folder")
    if class_set != CITYSCAPES:
        raise ConfigError(
            f"config.data.classes {config.classes!r} does not fit the synthetic streets, which "
            "show the classes of 'cityscapes'"
        )
    # One seed per split: no training frame is ever scored.
    sizes = {
        config.train_split: (config.train_images, 0),
        config.val_split: (config.val_images, 1),
    }
    if split not in sizes:
        raise DataError(f"split {split!r} does not exist; the synthetic ones are {list(sizes)}")
    images, seed = sizes[split]
    return SyntheticStreets(images=images, height=config.height, width=config.width, seed=seed)
