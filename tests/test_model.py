"""The network: exact counts, shapes, gradients, every switch, twins made by hand."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bisenet_jax.errors import ConfigError
from bisenet_jax.model import aggregation, detail, heads, semantic
from bisenet_jax.model.bisenetv2 import BOOSTER_NAMES, BiSeNetV2, Outputs
from bisenet_jax.model.layers import LayerOptions
from bisenet_jax.model.presets import build_model

# Small where the property does not depend on width.
NARROW = {
    "num_classes": 5,
    "detail_channels": (8, 8, 16),
    "semantic_ratio": 0.5,
    "semantic_late_channels": (8, 16),
    "semantic_repeats": (2, 1, 1),
    "expansion": 2,
    "head_channels": 8,
    "booster_channels": (4, 4, 4, 4),
}
# Compiling is most of what these tests cost; the program runs once.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def abstract_variables(module, *inputs, is_training=True):
    """Shapes and dtypes of the variables; computes nothing."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    init = partial(module.init, is_training=is_training)
    return jax.eval_shape(init, keys, *inputs)


def random_variables(module, *inputs, seed=0, is_training=True):
    """Variables without a zero among them, statistics included."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:3])
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values, leaf.dtype)

    variables = abstract_variables(module, *inputs, is_training=is_training)
    return jax.tree_util.tree_map_with_path(draw, variables)


def random_images(*shape):
    return jnp.asarray(np.random.default_rng(7).normal(size=shape), jnp.float32)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


IMAGES = random_images(2, 64, 64, 3)
NARROW_MODEL = BiSeNetV2(**NARROW)


@pytest.fixture(scope="module")
def narrow_variables():
    return random_variables(NARROW_MODEL, IMAGES)


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


# Switches


SIZES = {
    "num_classes": 6,
    "detail_channels": (8, 16, 16),
    "semantic_ratio": 0.25,
    "semantic_late_channels": (16, 16),
    "semantic_repeats": (1, 1, 1),
    "expansion": 3,
    "width": 2.0,
    "depth": 2,
    "head_channels": 16,
    "booster_channels": (4, 4, 4, 8),
    "fusion": "concat",
    "gather_kernel_size": 1,
    "use_second_depthwise": False,
    "use_context_embedding": False,
    "expansion_place": "depthwise",
    "stem_fuse_kernel_size": 3,
    "context_last_form": "conv_bn_relu",
    "bga_pointwise_bias": True,
    "booster_form": "double_conv",
    "conv_bias": True,
}
# The value, and what the others must be for it to matter.
FORWARD = {
    "use_depthwise_relu": True,
    "bga_upsampling": "nearest",
    "bga_relu": True,
    "bga_pool_counts_padding": False,
    "batch_norm_epsilon": 0.1,
    "dtype": "bfloat16",
}
AT_INITIALIZATION = {"is_zero_initialized": True, "initialization": "fan_out"}
IN_TRAINING = {
    "dropout_rate": 0.5,
    "drops_whole_channels": True,
    "batch_norm_momentum": 0.5,
}
WITHOUT_EFFECT = {"depthwise_lowering": "conv"}
IN_OTHER_FILES = {"semantic_branch": "test_backbones", "frozen_batch_norm": "test_gradients"}


def test_every_field_has_its_test():
    fields = set(BiSeNetV2.__dataclass_fields__) - {"parent", "name"}
    tables = [SIZES, FORWARD, AT_INITIALIZATION, IN_TRAINING, WITHOUT_EFFECT, IN_OTHER_FILES]
    assert fields == set().union(*tables) and len(fields) == sum(map(len, tables))


@pytest.mark.parametrize("name", SIZES)
def test_field_changes_the_parameters(name, narrow_variables):
    assert SIZES[name] != getattr(NARROW_MODEL, name)
    changed = abstract_variables(NARROW_MODEL.clone(**{name: SIZES[name]}), IMAGES)["params"]
    shapes = jax.tree.map(jnp.shape, narrow_variables["params"])
    assert jax.tree.map(jnp.shape, changed) != shapes


def infer(variables, **fields):
    apply = partial(NARROW_MODEL.clone(**fields).apply, is_training=False)
    return jit(apply)(variables, IMAGES).logits


@pytest.fixture(scope="module")
def narrow_logits(narrow_variables):
    return infer(narrow_variables)


@pytest.mark.parametrize("name", FORWARD)
def test_field_changes_the_output(name, narrow_variables, narrow_logits):
    assert FORWARD[name] != getattr(NARROW_MODEL, name)
    model = NARROW_MODEL.clone(**{name: FORWARD[name]})
    shapes = jax.tree.map(jnp.shape, narrow_variables)
    assert jax.tree.map(jnp.shape, abstract_variables(model, IMAGES)) == shapes
    logits = infer(narrow_variables, **{name: FORWARD[name]})
    # Well above float32's noise, 1e-5 here.
    assert np.abs(logits - narrow_logits).max() > 1e-3


def test_depthwise_lowering_keeps_the_output(narrow_variables, narrow_logits):
    logits = infer(narrow_variables, **WITHOUT_EFFECT)
    # 1e-5 of logits whose size is ten.
    np.testing.assert_allclose(logits, narrow_logits, rtol=1e-5, atol=1e-4)


def test_zero_initialization_makes_a_layer_its_shortcut(monkeypatch):
    # Drawing kernels that nobody reads is most of what an initialisation costs.
    ones = property(lambda options: jax.nn.initializers.ones)
    monkeypatch.setattr(LayerOptions, "kernel_init", ones)

    def zero_scales(model):
        init = partial(model.init, jax.random.key(0), is_training=True)
        params = flatten_dict(jit(lambda: init(IMAGES)["params"])(), sep="/")
        return {path for path in params if path.endswith("scale") and not params[path].any()}

    layers = ("s3_1", "s3_2", "s4_1", "s5_1")
    assert zero_scales(NARROW_MODEL) == set()
    assert zero_scales(NARROW_MODEL.clone(is_zero_initialized=True)) == {
        f"semantic_branch/{layer}/project/bn/scale" for layer in layers
    }


def test_initialization_reaches_the_network():
    def kernel(initialization):
        model = NARROW_MODEL.clone(initialization=initialization)
        init = partial(model.init, jax.random.key(0), is_training=False)
        # 8 channels in, 16 out; the rest of the program is dead code to XLA.
        entry = jit(lambda: init(IMAGES)["params"]["detail_branch"]["s3_1"])()
        return entry["conv"]["kernel"]

    np.testing.assert_allclose(kernel("fan_in"), kernel("fan_out") * np.sqrt(2), rtol=1e-5)


@cache
def training_program(**fields):
    def apply(variables):
        outputs, updates = NARROW_MODEL.clone(**fields).apply(
            variables,
            IMAGES,
            is_training=True,
            rngs={"dropout": jax.random.key(3)},
            mutable=["batch_stats"],
        )
        return outputs, updates["batch_stats"]

    return jit(apply)


@pytest.fixture(scope="module")
def trained(narrow_variables):
    return training_program()(narrow_variables)


def test_momentum_decides_how_far_the_statistics_move(narrow_variables, trained):
    _, faster = training_program(batch_norm_momentum=0.5)(narrow_variables)
    # 1 - 0.5 is five times 1 - 0.9; the step itself is a difference of numbers of size one.
    jax.tree.map(
        lambda old, new, new_faster: np.testing.assert_allclose(
            new_faster - old, 5 * (new - old), rtol=1e-4, atol=1e-5
        ),
        narrow_variables["batch_stats"],
        trained[1],
        faster,
    )
    moved = jax.tree.map(
        lambda old, new: np.all(old != new), narrow_variables["batch_stats"], trained[1]
    )
    assert all(jax.tree.leaves(moved))


def test_dropout_acts_before_every_classifier_and_nowhere_else(narrow_variables, trained):
    pixels, _ = training_program(dropout_rate=0.5)(narrow_variables)
    channels, _ = training_program(dropout_rate=0.5, drops_whole_channels=True)(
        narrow_variables
    )
    for plain, by_pixel, by_channel in zip(
        *map(jax.tree.leaves, (trained[0], pixels, channels)), strict=True
    ):
        assert np.abs(plain - by_pixel).max() > 1e-2
        assert np.abs(by_pixel - by_channel).max() > 1e-2


def test_inference_drops_nothing(narrow_variables, narrow_logits):
    np.testing.assert_array_equal(infer(narrow_variables, dropout_rate=0.5), narrow_logits)


@pytest.mark.parametrize("form", heads.BOOSTER_FORMS)
@pytest.mark.parametrize("drops_whole_channels", [True, False])
def test_dropout_mask_of_a_head(form, drops_whole_channels):
    x = random_images(2, 4, 4, 8)
    head = heads.BOOSTER_FORMS[form](
        5, 16, dropout_rate=0.5, drops_whole_channels=drops_whole_channels
    )
    _, state = head.apply(
        random_variables(head, x),
        x,
        is_training=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: (
            module.name in ("dropout", "conv", "conv_1", "conv_2")
        ),
    )
    before = next(
        state["intermediates"][name]["__call__"][0]
        for name in {"double_conv": ["conv_2"]}.get(form, ["conv", "conv_1"])
        if name in state["intermediates"]
    )
    after = state["intermediates"]["dropout"]["__call__"][0]
    lit = before > 0
    is_kept = np.where(lit, after / np.where(lit, before, 1) > 0, False)
    np.testing.assert_allclose(after, np.where(is_kept, 2 * before, 0), rtol=1e-6)
    kept_share = is_kept.sum(axis=(1, 2)) / np.maximum(lit.sum(axis=(1, 2)), 1)
    partly = (kept_share > 0) & (kept_share < 1)
    assert partly.any() != drops_whole_channels


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


# Twins made by hand from the figures: they share no code with the modules.


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


def test_boosters_read_the_stages_before_context_embedding(narrow_variables, trained):
    # Whatever the Context Embedding does, no booster sees it.
    params = narrow_variables["params"]
    branch = params["semantic_branch"]
    context = jax.tree.map(lambda leaf: leaf * 2 + 1, branch["context_embedding"])
    params = {**params, "semantic_branch": {**branch, "context_embedding": context}}
    outputs, _ = training_program()({**narrow_variables, "params": params})
    assert np.abs(outputs.logits - trained[0].logits).max() > 1e-2
    for changed, booster in zip(outputs.boosters, trained[0].boosters, strict=True):
        np.testing.assert_array_equal(changed, booster)
