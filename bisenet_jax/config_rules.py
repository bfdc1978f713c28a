"""What must hold between the fields of a configuration, and within each."""

import math

from bisenet_jax.config import OPTIMIZERS, SOURCES, STRIDE, Config
from bisenet_jax.config_checks import check_choice, check_numbers, check_range, check_types
from bisenet_jax.errors import ConfigError

# At SGD's default, 0.05, a step of Muon's moves a kernel's numbers by a hundredth each, about a
# sixth of what they are when drawn.
MUON_LARGEST_RATE = 0.03
LEAST_STD = 1e-6  # of pixels, in units of full brightness


def validate(config: Config) -> Config:
    """The same config, or a ConfigError that names the value, the rule and the cure."""
    check_types(config, "config")
    _check_choices(config)
    _check_init(config)
    _check_model_suits_init_and_loss(config)
    _check_optimizer_shares(config)
    _check_batch(config)
    _check_muon_rate(config)
    _check_something_is_learnt(config)
    _check_data(config)
    _check_augment(config)
    _check_loss_weights(config)
    _check_ranges(config)
    check_numbers(config, "config")
    return config


def refuse_idle_fields(config: Config) -> None:
    """Raise a ConfigError for a field that another one takes the effect from.

    Of a run that is to begin: what lies in a workdir can be left out no more.
    """
    data, augment, loss, optimizer = config.data, config.augment, config.loss, config.optimizer
    of_synthetic = ("data.height", "data.width", "data.train_images", "data.val_images")
    idle = {
        f"config.augment.scale_range {augment.scale_range}": (
            ("augment.scales",) if augment.scale_range else ()
        ),
        "config.loss.ohem False": (
            ("loss.ohem_threshold", "loss.ohem_min_share") if not loss.ohem else ()
        ),
        "config.optimizer.warmup_steps 0": (
            ("optimizer.warmup_start",) if not optimizer.warmup_steps else ()
        ),
        "config.model.frozen_batch_norm": (
            ("model.batch_norm_momentum",) if config.model.frozen_batch_norm else ()
        ),
        f"config.data.source {data.source!r}": (
            of_synthetic if data.source != "synthetic" else ()
        ),
    }
    usual = Config()
    for cause, names in idle.items():
        for section, name in (name.split(".") for name in names):
            value = getattr(getattr(config, section), name)
            default = getattr(getattr(usual, section), name)
            if value != default:
                raise ConfigError(
                    f"config.{section}.{name} {value} has no effect with {cause}; set it to "
                    f"{default} or leave it out"
                )


def _check_choices(config: Config) -> None:
    check_choice(
        {
            "config.data.source": (config.data.source, SOURCES),
            "config.init.part": (config.init.part, ("network", "backbone")),
            "config.data.cache": (config.data.cache, ("none", "jpeg", "array")),
            "config.data.sampling": (config.data.sampling, ("uniform", "balanced")),
            "config.model.dtype": (config.model.dtype, ("float32", "bfloat16", "float16")),
            "config.optimizer.method": (config.optimizer.method, OPTIMIZERS),
        }
    )


def _check_init(config: Config) -> None:
    init = config.init
    if init.allow_partial and not init.weights:
        raise ConfigError(
            "config.init.allow_partial needs config.init.weights, the file to start from"
        )
    if init.part == "backbone" and (not init.weights or init.allow_partial):
        raise ConfigError(
            "config.init.part backbone needs config.init.weights, a file of torchvision's, and "
            "takes it whole or not at all: leave config.init.allow_partial out"
        )


def _check_model_suits_init_and_loss(config: Config) -> None:
    model, init = config.model, config.init
    if model.frozen_batch_norm and (not init.weights or init.part == "backbone"):
        raise ConfigError(
            "config.model.frozen_batch_norm needs config.init.weights, of the whole network: "
            "without them there are no statistics to normalise by"
        )
    if model.fusion == "detail" and any(config.loss.booster_weights):
        raise ConfigError(
            "config.model.fusion detail has no Semantic Branch for boosters to learn from: set "
            "config.loss.booster_weights to (0.0, 0.0, 0.0, 0.0)"
        )


def _check_optimizer_shares(config: Config) -> None:
    for name, share, usual in (
        ("ema_decay", config.optimizer.ema_decay, "0.999; 0 is off"),
        ("momentum", config.optimizer.momentum, "0.9"),
    ):
        if not 0 <= share < 1:
            raise ConfigError(
                f"config.optimizer.{name} {share} must be at least 0 and below 1, such as "
                f"{usual}"
            )


def _check_batch(config: Config) -> None:
    train, model = config.train, config.model
    if train.micro_batches < 1 or train.batch_size % train.micro_batches:
        raise ConfigError(
            f"config.train.micro_batches {train.micro_batches} must divide "
            f"config.train.batch_size {train.batch_size}, such as "
            f"{math.gcd(train.batch_size, max(train.micro_batches, 1))}"
        )
    has_context = model.use_context_embedding is not False and model.fusion != "detail"
    if train.batch_size == train.micro_batches and has_context and not model.frozen_batch_norm:
        raise ConfigError(
            f"config.train.batch_size {train.batch_size} in {train.micro_batches} "
            "micro-batches leaves one image to each: the Context Embedding Block normalises "
            "one number per image, and of a single one the variance is zero, by which "
            "inference would divide; raise config.train.batch_size, lower "
            "config.train.micro_batches, or fine-tune with config.model.frozen_batch_norm"
        )


def _check_muon_rate(config: Config) -> None:
    optimizer = config.optimizer
    if optimizer.method == "muon" and optimizer.learning_rate > MUON_LARGEST_RATE:
        raise ConfigError(
            f"config.optimizer.learning_rate {optimizer.learning_rate} is a rate for sgd and "
            f"must be at most {MUON_LARGEST_RATE} for muon, whose steps have a size of their "
            "own whatever the gradient's: set 0.005 to 0.01"
        )


def _check_something_is_learnt(config: Config) -> None:
    if not (config.loss.main_weight or any(config.loss.booster_weights)):
        raise ConfigError(
            "config.loss.main_weight and all of config.loss.booster_weights are 0, so that "
            "nothing would be learnt; set config.loss.main_weight to 1.0"
        )


def _check_data(config: Config) -> None:
    data = config.data
    if data.statistics and data.sampling != "balanced":
        raise ConfigError(
            f"config.data.statistics {data.statistics!r} has no effect with "
            f"config.data.sampling {data.sampling}; set that to balanced, or leave it out"
        )
    if data.source != "synthetic" and not data.root:
        raise ConfigError(
            "config.data.root is empty; set it to the folder that holds the data set"
        )
    if data.sampling == "balanced" and not data.statistics:
        raise ConfigError(
            "config.data.sampling balanced needs config.data.statistics; write the file by "
            "python -m bisenet_jax.data.check --config ... --statistics FILE"
        )
    if bool(data.canvas_height) != bool(data.canvas_width):
        raise ConfigError(
            f"config.data.canvas_height {data.canvas_height} and config.data.canvas_width "
            f"{data.canvas_width} must both be set, or both be 0"
        )


def _check_augment(config: Config) -> None:
    augment = config.augment
    check_range({"config.augment.shrink": (augment.shrink, 1, 2)})
    check_range({"config.augment.enlarge": (augment.enlarge, 1, 2)})
    for name, size in (("height", augment.crop_height), ("width", augment.crop_width)):
        unit = int(STRIDE / augment.input_scale)
        if size < unit or size % unit:
            raise ConfigError(
                f"config.augment.crop_{name} {size} must be a positive multiple of {unit} "
                f"({STRIDE} pixels as the network sees them), such as "
                f"{max(unit, (size + unit // 2) // unit * unit)}"
            )
    if augment.shrink > 1 and augment.enlarge > 1:
        raise ConfigError(
            f"config.augment.shrink {augment.shrink} and config.augment.enlarge "
            f"{augment.enlarge} undo each other; leave one of them at 1"
        )
    if not augment.scales or min(augment.scales) <= 0:
        raise ConfigError(
            f"config.augment.scales {augment.scales} must hold positive factors, such as (1.0,)"
        )
    if augment.scale_range and not 0 < augment.scale_range[0] <= augment.scale_range[1]:
        raise ConfigError(
            f"config.augment.scale_range {augment.scale_range} must be two positive factors, "
            "the smaller first, such as (0.5, 2.0)"
        )


def _check_loss_weights(config: Config) -> None:
    loss = config.loss
    if loss.class_weights and (min(loss.class_weights) < 0 or not any(loss.class_weights)):
        raise ConfigError(
            f"config.loss.class_weights {loss.class_weights} must not be negative and not all "
            "0; data.check suggests some"
        )
    if len(loss.booster_weights) != 4:
        raise ConfigError(
            f"config.loss.booster_weights {loss.booster_weights} must hold four weights, "
            "for Stem, S3, S4 and S5; 0 leaves a booster out"
        )


def _check_ranges(config: Config) -> None:
    data, augment, loss = config.data, config.augment, config.loss
    optimizer, train = config.optimizer, config.train
    check_range(
        {
            "config.augment.flip_probability": (augment.flip_probability, 0, 1),
            "config.augment.class_share_limit": (augment.class_share_limit, 0.01, 1),
            "config.augment.brightness": (augment.brightness, 0, 1),
            "config.augment.contrast": (augment.contrast, 0, 1),
            "config.augment.saturation": (augment.saturation, 0, 1),
            "config.loss.main_weight": (loss.main_weight, 0, math.inf),
            "config.loss.booster_weights": (min(loss.booster_weights), 0, math.inf),
            "config.loss.ohem_threshold": (loss.ohem_threshold, 0, 1),
            "config.loss.ohem_min_share": (loss.ohem_min_share, 0, 1),
            "config.optimizer.learning_rate": (optimizer.learning_rate, 0, math.inf),
            "config.optimizer.weight_decay": (optimizer.weight_decay, 0, math.inf),
            "config.optimizer.poly_power": (optimizer.poly_power, 0, math.inf),
            "config.optimizer.warmup_steps": (optimizer.warmup_steps, 0, math.inf),
            "config.optimizer.warmup_start": (optimizer.warmup_start, 0, 1),
            "config.optimizer.clip_norm": (optimizer.clip_norm, 0, math.inf),
            # In units of full brightness: 123.675 of 255 is 0.485.
            "config.data.mean": (max(data.mean, key=lambda value: abs(value - 0.5)), 0, 1),
            "config.data.std": (min(data.std), LEAST_STD, 1),
            "the largest of config.data.std": (max(data.std), LEAST_STD, 1),
            "config.data.train_images": (data.train_images, 1, math.inf),
            "config.data.val_images": (data.val_images, 1, math.inf),
            "config.data.workers": (data.workers, 0, math.inf),
            "config.data.threads": (data.threads, 1, math.inf),
            "config.data.canvas_height": (data.canvas_height, 0, math.inf),
            "config.data.canvas_width": (data.canvas_width, 0, math.inf),
            "config.data.prefetch_megabytes": (data.prefetch_megabytes, 1, math.inf),
            "config.train.steps": (train.steps, 1, math.inf),
            "config.train.batch_size": (train.batch_size, 1, math.inf),
            "config.train.log_every": (train.log_every, 1, math.inf),
            "config.train.evaluate_every": (train.evaluate_every, 1, math.inf),
            "config.train.checkpoint_every": (train.checkpoint_every, 1, math.inf),
            "config.train.keep_checkpoints": (train.keep_checkpoints, 1, math.inf),
            "config.train.evaluate_batch_size": (train.evaluate_batch_size, 1, math.inf),
            "config.train.max_skipped_steps": (train.max_skipped_steps, 0, math.inf),
            "config.train.seed": (train.seed, 0, 2**31 - 1),
        }
    )
