"""The network: exact counts, shapes, dtypes, gradients, and what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from narrow_network import (
    IMAGES,
    NARROW,
    NARROW_MODEL,
    abstract_variables,
    count,
    jit,
    random_images,
    random_variables,
)

from bisenet_jax.errors import ConfigError
from bisenet_jax.model import aggregation, detail, heads, semantic
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, BiSeNetV2, Outputs
from bisenet_jax.model.layers import LayerOptions
from bisenet_jax.model.presets import build_model

# Counts: golden numbers, computed from the layer shapes and printed by the public
# repositories. They may change only with the architecture itself.


@pytest.mark.parametrize(
    "preset, num_classes, inference, training",
    [
        ("coincheung", 19, 3_358_627, 5_231_487),
        ("coincheung", 11, 3_350_427, None),
        ("coincheung", 171, 3_514_427, None),
        # 256 more for inference: the biases of two point-wise convolutions.
        ("mmseg", 19, 3_358_883, 14_804_255),
    ],
)
def test_parameter_count_of_network(preset, num_classes, inference, training):
    model = build_model(preset, num_classes=num_classes)
    assert count(abstract_variables(model, IMAGES, is_training=False)["params"]) == inference
    if training is not None:
        assert count(abstract_variables(model, IMAGES)["params"]) == training


def test_parameter_count_of_paper_preset():
    # Branches as below, less the eight 3x3 taps of the Stem's fusing layer (a 1x1 here) and the
    # scale and offset of the Context Embedding's last batch norm.
    semantic_count = 3_849_584 - 8 * 32 * 16 - 2 * 128
    head_count = 9 * 128 * 256 + 2 * 256 + 256 * 19 + 19
    params = abstract_variables(build_model("paper"), IMAGES, is_training=False)["params"]
    assert count(params["semantic_branch"]) == semantic_count
    assert count(params["head"]) == head_count
    assert count(params) == 519_232 + semantic_count + 478_720 + head_count


@pytest.mark.parametrize(
    "fields, expected",
    [
        (dict(expansion_place="depthwise"), 1_159_504),
        (dict(expansion_place="conv"), 3_849_584),
    ],
)
def test_parameter_count_of_semantic_branch(fields, expected):
    branch = semantic.SemanticBranch(
        stem_fuse_kernel_size=3, context_last_form="conv_bn_relu", **fields
    )
    assert count(abstract_variables(branch, IMAGES)["params"]) == expected


def test_parameter_count_of_detail_branch_and_aggregation():
    assert count(abstract_variables(detail.DetailBranch(), IMAGES)["params"]) == 519_232
    arms = jnp.zeros((1, 8, 8, 128)), jnp.zeros((1, 2, 2, 128))
    bga = aggregation.BilateralGuidedAggregation()
    assert count(abstract_variables(bga, *arms)["params"]) == 478_720


def test_large_network_widens_both_branches_and_deepens_one():
    model = build_model("paper", width=2.0, depth=3)
    params = abstract_variables(model, IMAGES, is_training=False)["params"]
    layers = {
        stage: sum(name.startswith(f"s{stage}_") for name in params["semantic_branch"])
        for stage in (3, 4, 5)
    }
    assert layers == {3: 6, 4: 6, 5: 12}
    assert len(params["detail_branch"]) == 8
    assert params["detail_branch"]["s3_3"]["conv"]["kernel"].shape == (3, 3, 256, 256)
    assert params["semantic_branch"]["stem"]["entry"]["conv"]["kernel"].shape[-1] == 32
    assert params["head"]["conv"]["conv"]["kernel"].shape == (3, 3, 256, 256)


# Shapes and dtypes


STAGE_MODULES = (
    detail.DetailBranch,
    semantic.SemanticBranch,
    aggregation.BilateralGuidedAggregation,
)


@pytest.mark.parametrize("preset, growth", [("paper", 1), ("mmseg", 1), ("coincheung", 2)])
def test_output_shape_of_every_stage(preset, growth):
    images = jax.ShapeDtypeStruct((2, 96, 160, 3), jnp.float32)
    model = build_model(preset)
    variables = abstract_variables(model, images)

    def apply(variables, images, is_training):
        return model.apply(
            variables,
            images,
            is_training=is_training,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, STAGE_MODULES),
        )

    outputs, state = jax.eval_shape(partial(apply, is_training=True), variables, images)
    captured = {name: value["__call__"][0] for name, value in state["intermediates"].items()}
    stages = captured["semantic_branch"]
    shapes = {
        "detail_8": captured["detail_branch"].shape,
        "aggregate_8": captured["aggregation"].shape,
        **{name: stage.shape for name, stage in stages._asdict().items()},
    }
    assert shapes == {
        "detail_8": (2, 12, 20, 128),
        "stem_4": (2, 24, 40, 16),
        "s3_8": (2, 12, 20, 32),
        "s4_16": (2, 6, 10, 64),
        "s5_32": (2, 3, 5, 128),
        "context_32": (2, 3, 5, 128),
        "aggregate_8": (2, 12, 20, 128),
    }
    assert type(outputs) is Outputs
    assert outputs.logits.shape == (2, 12, 20, 19)
    assert [booster.shape for booster in outputs.boosters] == [
        (2, 96 * growth // stride, 160 * growth // stride, 19) for stride in (4, 8, 16, 32)
    ]

    outputs, _ = jax.eval_shape(partial(apply, is_training=False), variables, images)
    assert type(outputs) is Outputs
    assert outputs.logits.shape == (2, 12, 20, 19)
    assert outputs.boosters == ()


def test_dtypes_under_bfloat16():
    model = BiSeNetV2(**NARROW, dtype="bfloat16", conv_bias=True)
    variables = abstract_variables(model, IMAGES)

    def apply(variables):
        return model.apply(
            variables,
            IMAGES,
            is_training=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=True,
        )

    outputs, state = jax.eval_shape(apply, variables)
    dtypes = {
        "params": {leaf.dtype.name for leaf in jax.tree.leaves(variables["params"])},
        "batch_stats": {leaf.dtype.name for leaf in jax.tree.leaves(state["batch_stats"])},
        "outputs": {leaf.dtype.name for leaf in jax.tree.leaves(outputs)},
        "branches": {
            leaf.dtype.name
            for name in ("detail_branch", "semantic_branch", "aggregation")
            for leaf in jax.tree.leaves(state["intermediates"][name])
        },
    }
    assert dtypes == {
        "params": {"float32"},
        "batch_stats": {"float32"},
        "outputs": {"float32"},
        "branches": {"bfloat16"},
    }


def test_bfloat16_logits_are_not_rounded_to_bfloat16():
    x = random_images(1, 4, 4, 8)
    head = heads.SegmentationHead(5, 8, options=LayerOptions(dtype=jnp.bfloat16))
    logits = head.apply(random_variables(head, x), x, is_training=False)
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9


def test_parameter_paths_are_an_interface():
    model = build_model("coincheung", semantic_repeats=(2, 1, 1))
    params = abstract_variables(model, IMAGES)["params"]
    paths = {"/".join(path[:-1]) for path in flatten_dict(params)}
    modules = {path.removesuffix("/conv").removesuffix("/bn") for path in paths}
    down = "gather depthwise_down depthwise project shortcut_depthwise shortcut_project"
    expected = {
        **{f"detail_branch/s{stage}": [f"_{n}" for n in range(1, 4)] for stage in (2, 3)},
        "detail_branch/s1": ["_1", "_2"],
        "semantic_branch/stem/": "entry left_reduce left_down fuse".split(),
        **{f"semantic_branch/s{stage}_1/": down.split() for stage in (3, 4, 5)},
        "semantic_branch/s3_2/": "gather depthwise project".split(),
        # The block's own batch norm has no convolution beside it.
        "semantic_branch/context_embedding": ["", "/gap", "/last"],
        "aggregation/": (
            "detail_keep_depthwise detail_keep_pointwise detail_down semantic_up "
            "semantic_keep_depthwise semantic_keep_pointwise out"
        ).split(),
        # `head/conv` is the whole layer, its parts stripped.
        "head": ["/conv", "/classifier"],
        **{f"{name}/": "conv_1 conv_2 classifier".split() for name in BOOSTER_NAMES},
    }
    assert modules == {prefix + name for prefix, names in expected.items() for name in names}


# Gradients


@pytest.mark.parametrize("preset", ["paper", "coincheung"])
def test_gradient_reaches_every_parameter(preset):
    # A batch of four: the 1x1 map of Context Embedding's batch norm has no other samples.
    images = random_images(4, 32, 32, 3)
    model = build_model(preset, **NARROW, dropout_rate=0.0)
    variables = random_variables(model, images)

    def loss(params):
        outputs, _ = model.apply(
            {**variables, "params": params}, images, is_training=True, mutable=["batch_stats"]
        )
        # Random weights: many a sum is blind to the batch norms before it.
        return sum(
            (logits * random_images(*logits.shape)).sum() for logits in jax.tree.leaves(outputs)
        )

    gradients = flatten_dict(jit(jax.grad(loss))(variables["params"]), sep="/")
    broken = [name for name, gradient in gradients.items() if not np.isfinite(gradient).all()]
    unreached = [name for name, gradient in gradients.items() if not np.any(gradient)]
    assert not broken
    assert not unreached


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"booster_form": "cubic"}, "booster_form 'cubic' is not known; choose from"),
        ({"expansion_place": "head"}, "expansion_place 'head' is not known; choose from"),
        ({"context_last_form": "bn"}, "context_last_form 'bn' is not known; choose from"),
        ({"bga_upsampling": "cubic"}, "bga_upsampling 'cubic' is not known; choose from"),
        ({"stem_fuse_kernel_size": 2}, "stem_fuse_kernel_size 2 is not known; choose from"),
        ({"detail_channels": (8, 8)}, r"detail_channels \(8, 8\) must hold 3 whole numbers"),
        ({"booster_channels": (8, 8, 0, 8)}, r"booster_channels .* must hold 4 .* above 0"),
        ({"expansion": 0}, "expansion 0 must be at least 1"),
        ({"semantic_ratio": 0.01}, "semantic_ratio 0.01 and width 1.0 leave .* raise one"),
        ({"fusion": "add"}, "fusion 'add' is not known; choose from"),
        ({"semantic_branch": "vgg"}, "semantic_branch 'vgg' is not known; choose from"),
        ({"gather_kernel_size": 5}, "gather_kernel_size 5 is not known; choose from"),
        (
            {"fusion": "sum", "detail_channels": (64, 64, 64)},
            "fusion 'sum' needs branches of equal width, not 64 and 128",
        ),
        (
            {"fusion": "sum", "bga_pointwise_bias": True},
            "bga_pointwise_bias True has no effect with fusion 'sum'; set it to False or leave",
        ),
        (
            {"fusion": "detail", "expansion": 2},
            "expansion 2 has no effect with fusion 'detail'; set it to 6",
        ),
        (
            {"fusion": "semantic", "bga_relu": True},
            "bga_relu True has no effect with fusion 'semantic'",
        ),
        (
            {"semantic_branch": "resnet18", "depth": 3},
            "depth 3 has no effect with semantic_branch 'resnet18'; set it to 1",
        ),
        (
            {"use_context_embedding": False, "context_last_form": "conv_bn_relu"},
            "context_last_form 'conv_bn_relu' has no effect with use_context_embedding False",
        ),
        ({"dropout_rate": 1.0}, "dropout_rate 1.0 must be at least 0 and below 1"),
    ],
)
def test_impossible_field(fields, message):
    with pytest.raises(ConfigError, match=message):
        abstract_variables(BiSeNetV2(**fields), IMAGES)


@pytest.mark.parametrize(
    "images, message",
    [
        (jnp.zeros((1, 64, 72, 3)), "image size 64x72 must be divisible by 32: pad it"),
        (
            jnp.zeros((64, 64, 3)),
            r"images must be \[B, H, W, 3\] normalised floats, not float32",
        ),
        (jnp.zeros((1, 64, 64, 3), jnp.uint8), "normalised floats, not uint8"),
    ],
)
def test_impossible_images(images, message):
    with pytest.raises(ValueError, match=message):
        abstract_variables(NARROW_MODEL, images)
