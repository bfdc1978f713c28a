"""The network's boxes as nodes of a graph, one function each, named as in `bisenet_jax.model`.

Boosters and dropout are for training and have no node; a switch that only training reads has
none either.
"""

from collections.abc import Callable
from functools import partial

from bisenet_jax.errors import ExportError
from bisenet_jax.export.graph import Graph, Tensor
from bisenet_jax.folding import Folded
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.detail import DetailBranch


def add_network(graph: Graph, model: BiSeNetV2, folded: Folded, images: Tensor) -> Tensor:
    """`[B, 3, H, W]` normalised, H and W divisible by 32 -> logits `[B, classes, H/8, W/8]`.

    Raises:
        ExportError: for numbers of the network that no node uses.
    """
    used: set[str] = set()

    def conv(x: Tensor, name: str, *, use_relu: bool = True, stride: int = 1) -> Tensor:
        used.add(name)
        return graph.conv(x, name, folded.convolutions[name], stride=stride, relu=use_relu)

    detail_8 = _detail_branch(conv, images)
    s5_32 = _semantic_stages(graph, conv, model, images)
    context_32 = _context_embedding(graph, conv, model, folded, s5_32)
    aggregate_8 = _aggregation(graph, conv, model, detail_8, context_32)
    logits_8 = conv(conv(aggregate_8, "head/conv"), "head/classifier", use_relu=False)
    if unused := sorted(folded.convolutions.keys() - used):
        raise ExportError(
            f"no node of the graph stands for {unused[0]}; export to safetensors or stablehlo"
        )
    return logits_8


_Conv = Callable[..., Tensor]


def _detail_branch(conv: _Conv, x: Tensor) -> Tensor:
    for stage, repeats in enumerate(DetailBranch.repeats, start=1):
        for layer in range(1, repeats + 1):
            x = conv(x, f"detail_branch/s{stage}_{layer}", stride=2 if layer == 1 else 1)
    return x


def _semantic_stages(graph: Graph, conv: _Conv, model: BiSeNetV2, images: Tensor) -> Tensor:
    x = _stem(graph, conv, images)
    layer_of = partial(_gather_expansion, graph, conv, model)
    for stage, repeats in zip((3, 4, 5), model.semantic_repeats, strict=True):
        for layer in range(1, repeats * model.depth + 1):
            x = layer_of(x, f"semantic_branch/s{stage}_{layer}", is_down=layer == 1)
    return x


def _stem(graph: Graph, conv: _Conv, x: Tensor) -> Tensor:
    box = "semantic_branch/stem"
    x = conv(x, f"{box}/entry", stride=2)
    left = conv(conv(x, f"{box}/left_reduce"), f"{box}/left_down", stride=2)
    right = graph.max_pool(x, f"{box}/max_pool")
    return conv(graph.concatenate(left, right, f"{box}/concatenate"), f"{box}/fuse")


def _gather_expansion(
    graph: Graph, conv: _Conv, model: BiSeNetV2, x: Tensor, box: str, *, is_down: bool
) -> Tensor:
    # Where the channels are expanded shows in the kernels alone.
    y = conv(x, f"{box}/gather")
    shortcut = x
    if is_down:
        y = conv(y, f"{box}/depthwise_down", stride=2, use_relu=False)
        shortcut = conv(x, f"{box}/shortcut_depthwise", stride=2, use_relu=False)
        shortcut = conv(shortcut, f"{box}/shortcut_project", use_relu=False)
    y = conv(y, f"{box}/depthwise", use_relu=model.use_depthwise_relu)
    y = conv(y, f"{box}/project", use_relu=False)
    return graph.relu(graph.add(shortcut, y, f"{box}/add"), f"{box}/relu")


def _context_embedding(
    graph: Graph, conv: _Conv, model: BiSeNetV2, folded: Folded, x: Tensor
) -> Tensor:
    box = "semantic_branch/context_embedding"
    context = graph.mean(x, f"{box}/mean")
    context = graph.scale_shift(context, f"{box}/bn", folded.scale_shifts[f"{box}/bn"])
    context = conv(context, f"{box}/gap")
    x = graph.add(x, context, f"{box}/add")
    return conv(x, f"{box}/last", use_relu=model.context_last_form == "conv_bn_relu")


def _aggregation(
    graph: Graph, conv: _Conv, model: BiSeNetV2, detail_8: Tensor, semantic_32: Tensor
) -> Tensor:
    box = "aggregation"
    height, width = detail_8.shape[2:]
    plain = partial(conv, use_relu=False)

    def grow(x: Tensor, name: str) -> Tensor:
        return graph.resize(x, f"{box}/{name}", height, width, model.bga_upsampling)

    detail_keep_8 = plain(detail_8, f"{box}/detail_keep_depthwise")
    detail_keep_8 = plain(detail_keep_8, f"{box}/detail_keep_pointwise")
    detail_down_32 = graph.average_pool(
        plain(detail_8, f"{box}/detail_down", stride=2),
        f"{box}/average_pool",
        counts_padding=model.bga_pool_counts_padding,
    )
    gate_8 = grow(plain(semantic_32, f"{box}/semantic_up"), "grow_gate")
    gate_8 = graph.sigmoid(gate_8, f"{box}/detail_gate")
    semantic_keep_32 = plain(semantic_32, f"{box}/semantic_keep_depthwise")
    semantic_keep_32 = plain(semantic_keep_32, f"{box}/semantic_keep_pointwise")
    gate_32 = graph.sigmoid(semantic_keep_32, f"{box}/semantic_gate")

    guided_8 = graph.multiply(detail_keep_8, gate_8, f"{box}/guided_8")
    guided_32 = graph.multiply(detail_down_32, gate_32, f"{box}/guided_32")
    guided = graph.add(guided_8, grow(guided_32, "grow_guided"), f"{box}/guided")
    return conv(guided, f"{box}/out", use_relu=model.bga_relu)
