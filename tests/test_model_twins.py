"""Each box of the figures beside a twin in numpy that shares no code with it."""

import jax
import numpy as np
import pytest
from narrow_network import random_images, random_variables

from bisenet_jax.model import aggregation, heads, semantic


def twin_conv(x, layer, stride=1, groups=1):
    edge = layer["kernel"].shape[0] // 2
    y = jax.lax.conv_general_dilated(
        x,
        layer["kernel"],
        (stride, stride),
        [(edge, edge)] * 2,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return np.asarray(y) + np.asarray(layer.get("bias", np.zeros(1)))


class Twin:
    """Layers by name, from the variables of a module, in inference mode."""

    def __init__(self, variables):
        self.params, self.stats = jax.device_get(
            (variables["params"], variables["batch_stats"])
        )

    def norm(self, x, *path):
        params, stats = self.params, self.stats
        for name in path:
            params, stats = params[name], stats[name]
        unit = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        return unit * params["scale"] + params["bias"]

    def layer(self, name, x, stride=1, *, is_depthwise=False, relu=False):
        groups = x.shape[-1] if is_depthwise else 1
        y = self.norm(twin_conv(x, self.params[name]["conv"], stride, groups), name, "bn")
        return np.maximum(y, 0) if relu else y


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def assert_twin(module, expected, variables, *inputs):
    result = module.apply(variables, *inputs, is_training=False)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("expansion_place", ["conv", "depthwise"])
@pytest.mark.parametrize("use_depthwise_relu", [False, True])
def test_gather_expansion_twin(expansion_place, use_depthwise_relu):
    x = random_images(2, 5, 6, 4)
    layer = semantic.GatherExpansion(
        expansion=3, expansion_place=expansion_place, use_depthwise_relu=use_depthwise_relu
    )
    variables = random_variables(layer, x)
    twin = Twin(variables)
    y = twin.layer("gather", x, relu=True)
    assert y.shape[-1] == (12 if expansion_place == "conv" else 4)
    y = twin.layer("depthwise", y, is_depthwise=True, relu=use_depthwise_relu)
    assert y.shape[-1] == 12
    assert_twin(layer, np.maximum(x + twin.layer("project", y), 0), variables, x)


@pytest.mark.parametrize("expansion_place", ["conv", "depthwise"])
@pytest.mark.parametrize("use_depthwise_relu", [False, True])
def test_gather_expansion_down_twin(expansion_place, use_depthwise_relu):
    x = random_images(2, 6, 8, 4)
    layer = semantic.GatherExpansionDown(
        7, expansion=3, expansion_place=expansion_place, use_depthwise_relu=use_depthwise_relu
    )
    variables = random_variables(layer, x)
    twin = Twin(variables)
    y = twin.layer("gather", x, relu=True)
    y = twin.layer("depthwise_down", y, 2, is_depthwise=True)
    assert y.shape == (2, 3, 4, 12)
    y = twin.layer("depthwise", y, is_depthwise=True, relu=use_depthwise_relu)
    y = twin.layer("project", y)
    shortcut = twin.layer("shortcut_depthwise", x, 2, is_depthwise=True)
    shortcut = twin.layer("shortcut_project", shortcut)
    assert_twin(layer, np.maximum(y + shortcut, 0), variables, x)


@pytest.mark.parametrize("fuse_kernel_size", [1, 3])
def test_stem_twin(fuse_kernel_size):
    x = random_images(2, 8, 12, 3)
    stem = semantic.StemBlock(6, fuse_kernel_size)
    variables = random_variables(stem, x)
    twin = Twin(variables)
    entry = twin.layer("entry", x, 2, relu=True)
    left = twin.layer("left_reduce", entry, relu=True)
    left = twin.layer("left_down", left, 2, relu=True)
    padded = np.pad(entry, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    shifts = [padded[:, i : i + 4 : 2, j : j + 6 : 2] for i in range(3) for j in range(3)]
    both = np.concatenate([left, np.max(shifts, axis=0)], axis=-1)
    assert both.shape == (2, 2, 3, 12)
    assert_twin(stem, twin.layer("fuse", both, relu=True), variables, x)


@pytest.mark.parametrize("last_form", semantic.CONTEXT_LAST_FORMS)
def test_context_embedding_twin(last_form):
    x = random_images(2, 3, 4, 5)
    block = semantic.ContextEmbedding(last_form)
    variables = random_variables(block, x)
    twin = Twin(variables)
    context = twin.norm(np.asarray(x).mean(axis=(1, 2), keepdims=True), "bn")
    y = x + twin.layer("gap", context, relu=True)
    if last_form == "conv":
        y = twin_conv(y, twin.params["last"])
    else:
        y = twin.layer("last", y, relu=True)
    assert_twin(block, y, variables, x)


def twin_enlarge(x, method):
    """By four, from the definition at each output pixel."""
    if method == "nearest":
        return np.kron(x, np.ones((1, 4, 4, 1)))
    for axis in (1, 2):
        size = x.shape[axis]
        if method == "bilinear":
            place = (np.arange(4 * size) + 0.5) / 4 - 0.5
        else:
            place = np.linspace(0, size - 1, 4 * size)
        # np.interp repeats the edges outside the range.
        line = lambda v, place=place, size=size: np.interp(place, np.arange(size), v)  # noqa: E731
        x = np.apply_along_axis(line, axis, x)
    return x


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"upsampling": "nearest", "use_relu": True},
        {"upsampling": "align_corners", "pool_counts_padding": False},
        {"pointwise_bias": True},
    ],
)
def test_aggregation_twin(fields):
    detail_8, semantic_32 = random_images(2, 8, 12, 6), random_images(2, 2, 3, 6)
    bga = aggregation.BilateralGuidedAggregation(**fields)
    variables = random_variables(bga, detail_8, semantic_32)
    twin = Twin(variables)
    method = fields.get("upsampling", "bilinear")

    def keep(name, x):
        y = twin.layer(f"{name}_keep_depthwise", x, is_depthwise=True)
        return twin_conv(y, twin.params[f"{name}_keep_pointwise"])

    down = twin.layer("detail_down", detail_8, 2)
    is_excluded = not fields.get("pool_counts_padding", True)
    border = np.nan if is_excluded else 0.0
    padded = np.pad(down, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=border)
    shifts = [padded[:, i : i + 4 : 2, j : j + 6 : 2] for i in range(3) for j in range(3)]
    down = np.nanmean(shifts, axis=0)

    guided_8 = keep("detail", detail_8) * sigmoid(
        twin_enlarge(twin.layer("semantic_up", semantic_32), method)
    )
    guided_32 = down * sigmoid(keep("semantic", semantic_32))
    total = guided_8 + twin_enlarge(guided_32, method)
    y = twin.layer("out", total.astype(np.float32), relu=fields.get("use_relu", False))
    assert_twin(bga, y, variables, detail_8, semantic_32)


@pytest.mark.parametrize(
    "form, growth", [("segmentation_head", 1), ("double_conv", 1), ("upsampling", 2)]
)
def test_head_twin(form, growth):
    x = random_images(2, 4, 4, 6)
    head = heads.BOOSTER_FORMS[form](5, 8)
    variables = random_variables(head, x)
    twin = Twin(variables)
    layers = {"segmentation_head": ["conv"]}.get(form, ["conv_1", "conv_2"])
    y = twin.layer(layers[0], x, relu=True)
    y = np.kron(y, np.ones((1, growth, growth, 1), np.float32))
    for name in layers[1:]:
        y = twin.layer(name, y, relu=True)
    assert_twin(head, twin_conv(y, twin.params["classifier"]), variables, x)
