"""Every field of the network: what it changes, and what it leaves."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from narrow_network import (
    IMAGES,
    NARROW_MODEL,
    abstract_variables,
    jit,
    random_images,
    random_variables,
)

from bisenet_jax.model import heads
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.layers import LayerOptions


@pytest.fixture(scope="module")
def narrow_variables():
    return random_variables(NARROW_MODEL, IMAGES)


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
