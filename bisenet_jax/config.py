"""Every option of a run, typed, with its default: the paper's recipe unless a comment objects.

A file in `configs/` returns a `Config`; the command line overrides single fields, such as
`--config.train.steps=100`. By convention nothing writes to a config after `validate`.
"""

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json

CONFIG_FILE = "config.json"
STRIDE = 32


@dataclass
class ModelConfig:
    """The network. None keeps the preset's value; every field is explained in `BiSeNetV2`."""

    preset: str = "paper"  # paper, coincheung, mmseg or paddleseg
    detail_channels: tuple[int, ...] | None = None
    semantic_ratio: float | None = None  # lambda
    semantic_late_channels: tuple[int, ...] | None = None
    semantic_repeats: tuple[int, ...] | None = None
    expansion: int | None = None  # e
    width: float | None = None  # alpha
    depth: int | None = None  # d
    head_channels: int | None = None
    booster_channels: tuple[int, ...] | None = None
    expansion_place: str | None = None
    use_depthwise_relu: bool | None = None
    is_zero_initialized: bool | None = None
    stem_fuse_kernel_size: int | None = None
    context_last_form: str | None = None
    bga_upsampling: str | None = None
    bga_pointwise_bias: bool | None = None
    bga_relu: bool | None = None
    bga_pool_counts_padding: bool | None = None
    booster_form: str | None = None
    dropout_rate: float | None = None
    drops_whole_channels: bool | None = None
    conv_bias: bool | None = None
    initialization: str | None = None
    batch_norm_momentum: float | None = None
    batch_norm_epsilon: float | None = None
    depthwise_lowering: str | None = None
    dtype: str = "float32"  # of activations: float32, bfloat16 or float16


@dataclass
class DataConfig:
    """Where the frames come from."""

    source: str = "synthetic"  # synthetic, or folder: {root}/{split}/{images,labels}
    root: str = ""  # of the folder source
    classes: str = "cityscapes"  # a name of bisenet_jax.data.classes.CLASS_SETS
    train_split: str = "train"
    val_split: str = "val"
    height: int = 256  # of a synthetic frame
    width: int = 512
    train_images: int = 2000  # how many different frames the synthetic source draws
    val_images: int = 50
    # Red, green and blue in units of full brightness. ImageNet's, as in the authors' V1 code;
    # the paper names none.
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    workers: int = 0  # loader processes; 0 decodes in threads of this process
    threads: int = 2  # decoding threads of each loader process


@dataclass
class AugmentConfig:
    """Random changes of a training frame, made on the device inside the step."""

    crop_height: int = 512
    crop_width: int = 1024
    scales: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)  # one is drawn per frame
    flip_probability: float = 0.5
    # Colour jitter; the paper mentions none. 0.4 draws a factor from [0.6, 1.4].
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


@dataclass
class LossConfig:
    """Cross-entropy on the main and the booster logits, averaged over the pixels that count."""

    main_weight: float = 1.0
    booster_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)  # Stem, S3, S4, S5
    # Online hard example mining. The paper adds it as an option and states no constants; these
    # are the public repositories'.
    ohem: bool = False
    ohem_threshold: float = 0.7  # a pixel is hard while its class has less probability
    ohem_min_share: float = 1 / 16  # of each image's labelled pixels count at least


@dataclass
class OptimizerConfig:
    """Stochastic gradient descent with momentum and a polynomial schedule."""

    learning_rate: float = 5e-2
    momentum: float = 0.9
    poly_power: float = 0.9
    weight_decay: float = 5e-4  # on convolution kernels only
    warmup_steps: int = 0  # linear from warmup_start * learning_rate; the paper knows none
    warmup_start: float = 0.1


@dataclass
class TrainConfig:
    steps: int = 150_000
    batch_size: int = 16
    log_every: int = 10  # steps between two lines of the log
    evaluate_every: int = 1000  # steps; the last step is always evaluated and saved
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2  # the latest ones; the best one by mIoU is kept as well
    evaluate_batch_size: int = 4
    seed: int = 0


@dataclass
class Config:
    """One run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def validate(config: Config) -> Config:
    """The same config, or a ConfigError that names the value, the rule and the cure."""
    _check_types(config, "config")
    data, augment, loss = config.data, config.augment, config.loss
    optimizer, train = config.optimizer, config.train
    if data.source not in ("synthetic", "folder"):
        raise ConfigError(
            f"config.data.source {data.source!r} is not known; choose synthetic or folder"
        )
    if data.source == "folder" and not data.root:
        raise ConfigError(
            "config.data.root is empty; set it to the folder that holds the splits"
        )
    if config.model.dtype not in ("float32", "bfloat16", "float16"):
        raise ConfigError(
            f"config.model.dtype {config.model.dtype!r} is not known; "
            "choose float32, bfloat16 or float16"
        )
    for name, size in (("height", augment.crop_height), ("width", augment.crop_width)):
        if size < STRIDE or size % STRIDE:
            raise ConfigError(
                f"config.augment.crop_{name} {size} must be a positive multiple of {STRIDE}, "
                f"such as {max(STRIDE, round(size / STRIDE) * STRIDE)}"
            )
    if not augment.scales or min(augment.scales) <= 0:
        raise ConfigError(
            f"config.augment.scales {augment.scales} must hold positive factors, such as (1.0,)"
        )
    if len(loss.booster_weights) != 4:
        raise ConfigError(
            f"config.loss.booster_weights {loss.booster_weights} must hold four weights, "
            "for Stem, S3, S4 and S5; 0 leaves a booster out"
        )
    _check_range(
        {
            "config.augment.flip_probability": (augment.flip_probability, 0, 1),
            "config.augment.brightness": (augment.brightness, 0, 1),
            "config.augment.contrast": (augment.contrast, 0, 1),
            "config.augment.saturation": (augment.saturation, 0, 1),
            "config.loss.main_weight": (loss.main_weight, 0, math.inf),
            "config.loss.booster_weights": (min(loss.booster_weights), 0, math.inf),
            "config.loss.ohem_threshold": (loss.ohem_threshold, 0, 1),
            "config.loss.ohem_min_share": (loss.ohem_min_share, 0, 1),
            "config.optimizer.learning_rate": (optimizer.learning_rate, 0, math.inf),
            "config.optimizer.momentum": (optimizer.momentum, 0, 1),
            "config.optimizer.weight_decay": (optimizer.weight_decay, 0, math.inf),
            "config.optimizer.poly_power": (optimizer.poly_power, 0, math.inf),
            "config.optimizer.warmup_steps": (optimizer.warmup_steps, 0, math.inf),
            "config.optimizer.warmup_start": (optimizer.warmup_start, 0, 1),
            "config.data.std": (min(data.std), 1e-6, math.inf),
            "config.data.train_images": (data.train_images, 1, math.inf),
            "config.data.val_images": (data.val_images, 1, math.inf),
            "config.data.workers": (data.workers, 0, math.inf),
            "config.data.threads": (data.threads, 1, math.inf),
            "config.train.steps": (train.steps, 1, math.inf),
            "config.train.batch_size": (train.batch_size, 1, math.inf),
            "config.train.log_every": (train.log_every, 1, math.inf),
            "config.train.evaluate_every": (train.evaluate_every, 1, math.inf),
            "config.train.checkpoint_every": (train.checkpoint_every, 1, math.inf),
            "config.train.keep_checkpoints": (train.keep_checkpoints, 1, math.inf),
            "config.train.evaluate_batch_size": (train.evaluate_batch_size, 1, math.inf),
            "config.train.seed": (train.seed, 0, 2**31 - 1),
        }
    )
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested dicts of JSON values; tuples become lists."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; an unknown key is a ConfigError that lists the legal ones."""
    return validate(_build(Config, values, "config"))


def save(config: Config, workdir: Path) -> None:
    """Write the resolved config to `{workdir}/config.json`."""
    write_json(workdir / CONFIG_FILE, to_dict(config))


def load(workdir: Path) -> Config:
    """Read what `save` wrote.

    Raises:
        ConfigError: when the folder holds no config, or one that this version cannot read.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: give the --workdir of a train.py run, or a --config"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON ({error}); train.py writes it anew") from error
    return from_dict(values)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The dotted keys whose values differ, each with its old and its new value."""
    found = {}
    for key in legal_keys():
        before, after = old, new
        for name in key.split(".")[1:]:
            before, after = getattr(before, name), getattr(after, name)
        if before != after:
            found[key] = (before, after)
    return found


def legal_keys(section: type = Config, prefix: str = "config") -> list[str]:
    """Every key of a config in dotted form, such as `config.train.steps`."""
    keys = []
    for name, hint in typing.get_type_hints(section).items():
        dotted = f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint):
            keys.extend(legal_keys(typing.cast(type, hint), dotted))
        else:
            keys.append(dotted)
    return keys


def _build(section: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{prefix} {values!r} must be a table of fields")
    hints = typing.get_type_hints(section)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"{prefix} has no field {unknown[0]!r}; the legal ones are "
            f"{', '.join(sorted(hints))}"
        )
    return section(
        **{
            name: _build(hints[name], value, f"{prefix}.{name}")
            if dataclasses.is_dataclass(hints[name])
            else tuple(value)
            if isinstance(value, list)
            else value
            for name, value in values.items()
        }
    )


def _check_types(section: Any, prefix: str) -> None:
    for name, hint in typing.get_type_hints(type(section)).items():
        value, dotted = getattr(section, name), f"{prefix}.{name}"
        if dataclasses.is_dataclass(hint):
            _check_types(value, dotted)
        elif not _fits(value, hint):
            readable = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint)
            raise ConfigError(f"{dotted} {value!r} must be of type {readable}")


def _fits(value: Any, hint: Any) -> bool:
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        items = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if items[-1] is Ellipsis:
            return all(_fits(item, items[0]) for item in value)
        return len(value) == len(items) and all(map(_fits, value, items))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _check_range(fields: dict[str, tuple[float, float, float]]) -> None:
    for name, (value, low, high) in fields.items():
        if not low <= value <= high:
            bound = f"at least {low}" if high == math.inf else f"between {low} and {high}"
            raise ConfigError(f"{name} {value} must be {bound}")
