"""The network in inference, told once for every way to compute it: one function for each box.

Boxes are named as in `bisenet_jax.model`. Batch norm is folded into the convolutions; boosters,
dropout and switches that only training reads have no place here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from bisenet_jax.fast.folding import Folded
from bisenet_jax.fast.operators import Operators, T
from bisenet_jax.model.backbones.branch import BACKBONES
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.detail import DetailBranch


def is_described(model: BiSeNetV2) -> bool:
    """Whether `compute_logits` tells this network; those with a backbone it does not."""
    return model.semantic_branch not in BACKBONES


def compute_logits(operators: Operators[T], model: BiSeNetV2, folded: Folded, images: T) -> T:
    """Normalised images, height and width divisible by 32 -> logits at 1/8 of their size.

    The network must be one that `is_described`.

    Raises:
        ValueError: for a convolution of the network that no box uses.
    """
    used: set[str] = set()

    def conv(x: T, name: str, *, use_relu: bool = True, stride: int = 1) -> T:
        used.add(name)
        layer = folded.convolutions[name]
        return operators.conv(x, name, layer, stride=stride, relu=use_relu)

    def grow(x: T, name: str) -> T:
        return operators.upsample(x, name, 4, model.bga_upsampling)

    if model.fusion == "detail":
        aggregate_8 = _detail_branch(conv, images)
    else:
        context_32 = _semantic_branch(operators, conv, model, folded, images)
        if model.fusion == "semantic":
            aggregate_8 = grow(context_32, "semantic_branch/grow")
        elif model.fusion == "bga":
            detail_8 = _detail_branch(conv, images)
            aggregate_8 = _aggregation(operators, conv, grow, model, detail_8, context_32)
        else:
            semantic_8 = grow(context_32, "aggregation/grow")
            aggregate_8 = _plain_fusion(
                operators, conv, model, _detail_branch(conv, images), semantic_8
            )
    logits_8 = conv(conv(aggregate_8, "head/conv"), "head/classifier", use_relu=False)
    if unused := sorted(folded.convolutions.keys() - used):
        raise ValueError(f"no box of the description uses the network's {unused[0]}")
    return logits_8


_Conv = Callable[..., Any]
_Grow = Callable[[Any, str], Any]


def _detail_branch(conv: _Conv, x: T) -> T:
    for stage, repeats in enumerate(DetailBranch.repeats, start=1):
        for layer in range(1, repeats + 1):
            x = conv(x, f"detail_branch/s{stage}_{layer}", stride=2 if layer == 1 else 1)
    return x


def _semantic_branch(
    operators: Operators[T], conv: _Conv, model: BiSeNetV2, folded: Folded, images: T
) -> T:
    x = _stem(operators, conv, images)
    layer_of = partial(_gather_expansion, operators, conv, model)
    for stage, repeats in zip((3, 4, 5), model.semantic_repeats, strict=True):
        for layer in range(1, repeats * model.depth + 1):
            x = layer_of(x, f"semantic_branch/s{stage}_{layer}", is_down=layer == 1)
    if not model.use_context_embedding:
        return x
    return _context_embedding(operators, conv, model, folded, x)


def _stem(operators: Operators[T], conv: _Conv, x: T) -> T:
    box = "semantic_branch/stem"
    x = conv(x, f"{box}/entry", stride=2)
    left = conv(conv(x, f"{box}/left_reduce"), f"{box}/left_down", stride=2)
    right = operators.max_pool(x, f"{box}/max_pool")
    return conv(operators.concatenate(left, right, f"{box}/concatenate"), f"{box}/fuse")


def _gather_expansion(
    operators: Operators[T], conv: _Conv, model: BiSeNetV2, x: T, box: str, *, is_down: bool
) -> T:
    # Where the channels are expanded, and what is gathered, shows in the kernels alone.
    y = conv(x, f"{box}/gather")
    shortcut = x
    is_double = is_down and model.use_second_depthwise
    if is_down:
        use_relu = model.use_depthwise_relu and not is_double
        y = conv(y, f"{box}/depthwise_down", stride=2, use_relu=use_relu)
        shortcut = conv(x, f"{box}/shortcut_depthwise", stride=2, use_relu=False)
        shortcut = conv(shortcut, f"{box}/shortcut_project", use_relu=False)
    if is_double or not is_down:
        y = conv(y, f"{box}/depthwise", use_relu=model.use_depthwise_relu)
    y = conv(y, f"{box}/project", use_relu=False)
    return operators.relu(operators.add(shortcut, y, f"{box}/add"), f"{box}/relu")


def _context_embedding(
    operators: Operators[T], conv: _Conv, model: BiSeNetV2, folded: Folded, x: T
) -> T:
    box = "semantic_branch/context_embedding"
    context = operators.mean(x, f"{box}/mean")
    context = operators.scale_shift(context, f"{box}/bn", folded.scale_shifts[f"{box}/bn"])
    context = conv(context, f"{box}/gap")
    x = operators.add(x, context, f"{box}/add")
    return conv(x, f"{box}/last", use_relu=model.context_last_form == "conv_bn_relu")


def _aggregation(
    operators: Operators[T],
    conv: _Conv,
    grow: _Grow,
    model: BiSeNetV2,
    detail_8: T,
    semantic_32: T,
) -> T:
    box = "aggregation"
    plain = partial(conv, use_relu=False)

    detail_keep_8 = plain(detail_8, f"{box}/detail_keep_depthwise")
    detail_keep_8 = plain(detail_keep_8, f"{box}/detail_keep_pointwise")
    detail_down_32 = operators.average_pool(
        plain(detail_8, f"{box}/detail_down", stride=2),
        f"{box}/average_pool",
        counts_padding=model.bga_pool_counts_padding,
    )
    gate_8 = grow(plain(semantic_32, f"{box}/semantic_up"), f"{box}/grow_gate")
    gate_8 = operators.sigmoid(gate_8, f"{box}/detail_gate")
    semantic_keep_32 = plain(semantic_32, f"{box}/semantic_keep_depthwise")
    semantic_keep_32 = plain(semantic_keep_32, f"{box}/semantic_keep_pointwise")
    gate_32 = operators.sigmoid(semantic_keep_32, f"{box}/semantic_gate")

    guided_8 = operators.multiply(detail_keep_8, gate_8, f"{box}/guided_8")
    guided_32 = operators.multiply(detail_down_32, gate_32, f"{box}/guided_32")
    guided_32_grown = grow(guided_32, f"{box}/grow_guided")
    guided = operators.add(guided_8, guided_32_grown, f"{box}/guided")
    return conv(guided, f"{box}/out", use_relu=model.bga_relu)


def _plain_fusion(
    operators: Operators[T], conv: _Conv, model: BiSeNetV2, detail_8: T, semantic_8: T
) -> T:
    box = "aggregation"
    fuse = {"sum": operators.add, "concat": operators.concatenate}[model.fusion]
    fused = fuse(detail_8, semantic_8, f"{box}/{model.fusion}")
    return conv(fused, f"{box}/out", use_relu=model.bga_relu)
