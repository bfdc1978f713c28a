"""Named bundles of switches: the paper's network and three public readings of it.

Weights carry over only between networks of one preset: equal names and shapes do not make
equal functions. Sources: CoinCheung/BiSeNet `lib/models/bisenetv2.py` @6b4b67a;
mmsegmentation `mmseg/models/backbones/bisenetv2.py` @088894b; PaddleSeg
`paddleseg/models/bisenet.py` @d7975e7.
"""

import dataclasses
from typing import Any

from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.idle_fields import find_idle_fields

_PUBLIC_READING = {
    "expansion_place": "depthwise",
    "stem_fuse_kernel_size": 3,
    "dropout_rate": 0.1,
}

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults of BiSeNetV2 are the paper's, so there is nothing to change.
    "paper": {},
    "coincheung": _PUBLIC_READING
    | {
        "initialization": "fan_out",
        "use_depthwise_relu": True,
        "is_zero_initialized": True,
        "context_last_form": "conv_bn_relu",
        "bga_upsampling": "nearest",
        "bga_relu": True,
        "head_channels": 1024,
        "booster_form": "upsampling",
        "booster_channels": (16, 64, 256, 1024),
    },
    "mmseg": _PUBLIC_READING
    | {
        "initialization": "fan_out",
        "use_depthwise_relu": True,
        "context_last_form": "conv_bn_relu",
        "bga_pointwise_bias": True,
        "bga_relu": True,
        "head_channels": 1024,
        "booster_form": "double_conv",
        "booster_channels": (16, 64, 256, 1024),
        "drops_whole_channels": True,
    },
    # Paddle pads its stride-2 layers 'same', that is (0, 1) on even sizes; ours pad (1, 1).
    "paddleseg": _PUBLIC_READING
    | {
        "bga_pointwise_bias": True,
        "bga_pool_counts_padding": False,
        "conv_bias": True,
        "head_channels": 128,
        "booster_channels": (16, 32, 64, 128),
    },
}


def build_model(preset: str = "paper", *, num_classes: int = 19, **fields: Any) -> BiSeNetV2:
    """The network of a preset; a field that is None keeps the preset's value.

    What a preset sets and the other fields leave without effect falls back to its default.

    Raises:
        ConfigError: for an unknown preset, with the known ones, and for a field that cannot be,
            or that was set to no effect.
    """
    if preset not in PRESETS:
        raise ConfigError(f"model preset {preset!r} is not known; choose from {list(PRESETS)}")
    chosen = {name: value for name, value in fields.items() if value is not None}
    model = BiSeNetV2(num_classes=num_classes, **(PRESETS[preset] | chosen))
    idle = find_idle_fields(model).keys() - chosen.keys()
    left = {name: value for name, value in PRESETS[preset].items() if name not in idle}
    model = BiSeNetV2(num_classes=num_classes, **(left | chosen))
    model.check_fields()
    return model


# Fields that change neither the shapes of a network nor what the same weights compute in use.
_NOT_OF_THE_GRAPH = {
    *("num_classes", "dropout_rate", "drops_whole_channels", "is_zero_initialized"),
    *("initialization", "batch_norm_momentum", "frozen_batch_norm"),
    *("depthwise_lowering", "dtype"),
    *("parent", "name"),
}
_OF_BOOSTERS = {"booster_form", "booster_channels"}


def graph_differences(
    first: BiSeNetV2, second: BiSeNetV2, *, with_boosters: bool
) -> dict[str, tuple[Any, Any]]:
    """The fields by which two networks, given the same weights, are other functions.

    Args:
        first: a network.
        second: another one, with any number of classes.
        with_boosters: whether the heads that only training uses count.
    """
    free = _NOT_OF_THE_GRAPH if with_boosters else _NOT_OF_THE_GRAPH | _OF_BOOSTERS
    names = [field.name for field in dataclasses.fields(BiSeNetV2) if field.name not in free]
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
