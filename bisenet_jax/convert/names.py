"""The names that two public PyTorch repositories give to the parts of BiSeNet V2.

Each table maps a module of ours to theirs. `{conv,bn}` ends the name of a pair: ours are always
called `conv` and `bn`, theirs by what stands in the braces.
"""

from collections.abc import Iterable, Mapping

from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES

LAYOUTS = ("coincheung", "mmseg")

_STEM = {
    "coincheung": {
        "entry": "conv.{conv,bn}",
        "left_reduce": "left.0.{conv,bn}",
        "left_down": "left.1.{conv,bn}",
        "fuse": "fuse.{conv,bn}",
    },
    "mmseg": {
        "entry": "conv_first.{conv,bn}",
        "left_reduce": "convs.0.{conv,bn}",
        "left_down": "convs.1.{conv,bn}",
        "fuse": "fuse_last.{conv,bn}",
    },
}
# mmseg's `dwconv.{0,1}` are two layers here, and CoinCheung's in the next table one.
_GATHER_EXPANSION_DOWN = {
    "coincheung": {
        "gather": "conv1.{conv,bn}",
        "depthwise_down": "dwconv1.{0,1}",
        "depthwise": "dwconv2.{0,1}",
        "project": "conv2.{0,1}",
        "shortcut_depthwise": "shortcut.{0,1}",
        "shortcut_project": "shortcut.{2,3}",
    },
    "mmseg": {
        "gather": "conv1.{conv,bn}",
        "depthwise_down": "dwconv.0.{conv,bn}",
        "depthwise": "dwconv.1.{conv,bn}",
        "project": "conv2.0.{conv,bn}",
        "shortcut_depthwise": "shortcut.0.depthwise_conv.{conv,bn}",
        "shortcut_project": "shortcut.0.pointwise_conv.{conv,bn}",
    },
}
_GATHER_EXPANSION = {
    "coincheung": {
        "gather": "conv1.{conv,bn}",
        "depthwise": "dwconv.{0,1}",
        "project": "conv2.{0,1}",
    },
    "mmseg": {
        "gather": "conv1.{conv,bn}",
        "depthwise": "dwconv.0.{conv,bn}",
        "project": "conv2.0.{conv,bn}",
    },
}
_CONTEXT_EMBEDDING = {
    "coincheung": {
        "bn": "bn",
        "gap": "conv_gap.{conv,bn}",
        "last": "conv_last.{conv,bn}",
    },
    "mmseg": {
        "bn": "gap.1",
        "gap": "conv_gap.{conv,bn}",
        "last": "conv_last.{conv,bn}",
    },
}
_AGGREGATION = {
    "coincheung": {
        "detail_keep_depthwise": "left1.{0,1}",
        "detail_keep_pointwise": "left1.2",
        "detail_down": "left2.{0,1}",
        "semantic_up": "right1.{0,1}",
        "semantic_keep_depthwise": "right2.{0,1}",
        "semantic_keep_pointwise": "right2.2",
        "out": "conv.{0,1}",
    },
    "mmseg": {
        "detail_keep_depthwise": "detail_dwconv.0.depthwise_conv.{conv,bn}",
        "detail_keep_pointwise": "detail_dwconv.0.pointwise_conv.conv",
        "detail_down": "detail_down.0.{conv,bn}",
        "semantic_up": "semantic_conv.0.{conv,bn}",
        "semantic_keep_depthwise": "semantic_dwconv.0.depthwise_conv.{conv,bn}",
        "semantic_keep_pointwise": "semantic_dwconv.0.pointwise_conv.conv",
        "out": "conv.{conv,bn}",
    },
}
_HEAD = {
    "coincheung": {"conv": "conv.{conv,bn}", "classifier": "conv_out.1"},
    "mmseg": {"conv": "convs.0.{conv,bn}", "classifier": "conv_seg"},
}
_BOOSTER = {
    "coincheung": {
        "conv_1": "conv.{conv,bn}",
        "conv_2": "conv_out.0.1.{conv,bn}",
        "classifier": "conv_out.1",
    },
    "mmseg": {
        "conv_1": "convs.0.{conv,bn}",
        "conv_2": "convs.1.{conv,bn}",
        "classifier": "conv_seg",
    },
}
# Where the tables hang: stages by their number in the paper, boosters in our order.
_DETAIL = {
    "coincheung": "detail.S{stage}.{layer}",
    "mmseg": "backbone.detail.detail_branch.{index}.{layer}",
}
_PLACES = {
    "coincheung": {
        "stem": "segment.S1S2",
        "s3": "segment.S3",
        "s4": "segment.S4",
        "s5": "segment.S5_4",
        "context_embedding": "segment.S5_5",
        "aggregation": "bga",
        "head": "head",
    },
    "mmseg": {
        "stem": "backbone.semantic.stage1",
        "s3": "backbone.semantic.stage2",
        "s4": "backbone.semantic.stage3",
        "s5": "backbone.semantic.stage4",
        "context_embedding": "backbone.semantic.stage4_CEBlock",
        "aggregation": "backbone.bga",
        "head": "decode_head",
    },
}
_BOOSTERS = {
    "coincheung": ("aux2", "aux3", "aux4", "aux5_4"),
    "mmseg": tuple(f"auxiliary_head.{index}" for index in range(4)),
}
_DETAIL_LAYERS = (2, 3, 3)
_SEMANTIC_LAYERS = {"s3": 2, "s4": 2, "s5": 4}

# A leaf of ours, by collection and name, is one of theirs.
_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}


def public_names(layout: str, names: Iterable[str]) -> dict[str, str]:
    """Their name for each of our tensors, such as `params/head/classifier/kernel`.

    Raises:
        KeyError: for a tensor that the public network does not have.
    """
    return leaf_names(module_names(layout), names)


def leaf_names(modules: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The same by a table of modules, such as `{"head/classifier": "head.conv_out.1"}`."""
    found = {}
    for name in names:
        collection, _, rest = name.partition("/")
        module, _, leaf = rest.rpartition("/")
        found[name] = f"{modules[module]}.{_LEAVES[collection, leaf]}"
    return found


def module_names(layout: str) -> dict[str, str]:
    """Our path of every convolution, classifier and batch norm, and their name for it."""
    places = _PLACES[layout]
    names = {}
    for index, layers in enumerate(_DETAIL_LAYERS):
        for layer in range(layers):
            theirs = _DETAIL[layout].format(stage=index + 1, index=index, layer=layer)
            ours = f"detail_branch/s{index + 1}_{layer + 1}"
            names |= expand(ours, theirs + ".{conv,bn}")
    boxes = [
        ("semantic_branch/stem", places["stem"], _STEM),
        ("semantic_branch/context_embedding", places["context_embedding"], _CONTEXT_EMBEDDING),
        ("aggregation", places["aggregation"], _AGGREGATION),
        ("head", places["head"], _HEAD),
    ]
    for stage, layers in _SEMANTIC_LAYERS.items():
        for layer in range(layers):
            table = _GATHER_EXPANSION if layer else _GATHER_EXPANSION_DOWN
            ours = f"semantic_branch/{stage}_{layer + 1}"
            boxes.append((ours, f"{places[stage]}.{layer}", table))
    for ours, theirs in zip(BOOSTER_NAMES, _BOOSTERS[layout], strict=True):
        boxes.append((ours, theirs, _BOOSTER))
    for ours, theirs, table in boxes:
        for child, template in table[layout].items():
            names |= expand(f"{ours}/{child}", f"{theirs}.{template}")
    return names


def head_prefix(layout: str) -> str:
    """How the names of their main head begin."""
    return f"{_PLACES[layout]['head']}."


def booster_prefixes(layout: str) -> tuple[str, ...]:
    """How the names of their booster heads begin."""
    return tuple(f"{place}." for place in _BOOSTERS[layout])


def classifier_name(layout: str) -> str:
    """Their name of the main head's last kernel, whose first size is the number of classes."""
    return f"{head_prefix(layout)}{_HEAD[layout]['classifier']}.weight"


def expand(ours: str, template: str) -> dict[str, str]:
    """A layer of ours and the template of theirs as the modules that hold tensors."""
    stem, braces, pair = template.partition("{")
    if not braces:
        return {ours: template}
    conv, norm = pair.removesuffix("}").split(",")
    return {f"{ours}/conv": stem + conv, f"{ours}/bn": stem + norm}
