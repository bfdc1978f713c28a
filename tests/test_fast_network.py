"""The fast network gives the answers of the plain one, by every lowering."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax import parallel
from bisenet_jax.config import DataConfig
from bisenet_jax.data.sources import open_source
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.evaluation.metrics import scores
from bisenet_jax.fast.network import FastNetwork, Lowerings, fasten
from bisenet_jax.fast.winograd import WinogradKernel, transform_kernel, winograd_conv
from bisenet_jax.inference import predict_labels, scaled_logits
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.presets import PRESETS
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import read_weights

NORMALIZATION = Normalization()
# Compiling is most of what these tests cost.
QUICK = {"xla_backend_optimization_level": 0}
# Wide enough for Winograd's form.
WIDE = {"detail_channels": (8, 8, 128), "head_channels": 128}
FLIPPED = {
    "depthwise": "conv",
    "pointwise": "dot",
    "pool": "shifts",
    "uses_winograd": True,
}


def street(height=64, width=96):
    return jnp.asarray(draw_street(0, 0, height, width)[0][None])


def logits_of(network, variables, images):
    inputs = NORMALIZATION.normalize(images)
    run = jax.jit(lambda v, x: scaled_logits(network, v, x), compiler_options=QUICK)
    return np.asarray(run(variables, inputs))


def program_of(network, parameters):
    return jax.jit(network.apply).lower(parameters, jnp.zeros((1, 64, 64, 3))).as_text()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_all_switches_of_the_model(preset, random_weights):
    weights = random_weights(preset, conv_bias=True, **WIDE)
    expected = logits_of(weights.model, without_boosters(weights.variables), street())
    assert np.std(expected) > 0.5
    for lowerings in (Lowerings(), Lowerings(**FLIPPED)):
        fast = logits_of(*fasten(weights.model, weights.variables, lowerings), street())
        np.testing.assert_allclose(fast, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_wide_gathers(kernel_size, random_weights):
    # S5 has 128 channels in the paper: Winograd's form takes 3x3 kernels, and no others.
    fields = {"semantic_late_channels": (64, 128), "semantic_repeats": (1, 1, 2)}
    weights = random_weights("paper", gather_kernel_size=kernel_size, **fields)
    lowerings = Lowerings(uses_winograd=True)
    network, parameters = fasten(weights.model, weights.variables, lowerings)
    gather = parameters.convolutions["semantic_branch/s5_2/gather"].kernel
    assert isinstance(gather, WinogradKernel) == (kernel_size == 3)
    expected = logits_of(weights.model, without_boosters(weights.variables), street())
    fast = logits_of(network, parameters, street())
    np.testing.assert_allclose(fast, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_each_lowering_changes_the_program(random_weights):
    weights = random_weights("paper", **WIDE)
    plain = program_of(*fasten(weights.model, weights.variables, Lowerings()))
    assert {field.name for field in fields(Lowerings)} == set(FLIPPED)
    for name, value in FLIPPED.items():
        lowerings = replace(Lowerings(), **{name: value})
        assert program_of(*fasten(weights.model, weights.variables, lowerings)) != plain, name


def test_lowerings_of_the_backend_are_the_default(random_weights):
    weights = random_weights("paper")
    network, _ = fasten(weights.model, weights.variables)
    assert network.lowerings == Lowerings.for_backend(jax.default_backend())


def test_bfloat16(random_weights):
    weights = random_weights("paper", dtype="bfloat16", **WIDE)
    lowerings = Lowerings(uses_winograd=True)
    network, parameters = fasten(weights.model, weights.variables, lowerings)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(parameters))
    # Winograd's transforms lose more digits than bfloat16 has.
    assert parameters.convolutions["head/conv"].kernel.shape[:2] == (3, 3)
    text = program_of(network, parameters)
    assert "bf16" in text and "stablehlo.convolution" in text
    exact = logits_of(
        weights.model.clone(dtype="float32"), without_boosters(weights.variables), street()
    )
    fast = logits_of(network, parameters, street())
    assert fast.dtype == np.float32
    plain = logits_of(weights.model, without_boosters(weights.variables), street())
    # No farther from the truth than the plain network in bfloat16, give or take a half.
    assert 0 < np.abs(fast - exact).mean() < 1.5 * np.abs(plain - exact).mean()


def test_a_trained_network_scores_alike_in_every_dtype():
    weights = read_weights("bisenetv2-synthetic")
    streets, mesh = (
        open_source(DataConfig(source="synthetic", height=160, width=320), "val"),
        parallel.make_mesh(),
    )

    def miou(network, variables):
        counted = evaluate(
            make_evaluate_step(network, weights.normalization, mesh),
            variables,
            (streets[index] for index in range(len(streets))),
            num_classes=len(weights.class_set),
            batch_size=10,
            mesh=mesh,
        )
        return scores(counted.confusion).miou

    expected = miou(weights.model, without_boosters(weights.variables))
    for dtype in ("float32", "bfloat16", "float16"):
        scored = miou(*fasten(weights.model.clone(dtype=dtype), weights.variables))
        assert scored == pytest.approx(expected, abs=0.001), dtype
        assert dtype == "float32" or scored != expected


def test_labels_of_an_odd_size(random_weights):
    weights = random_weights("paper")
    images = street(50, 70)
    arguments = images, NORMALIZATION
    run = jax.jit(predict_labels, static_argnums=(0, 3), compiler_options=QUICK)
    expected = run(weights.model, without_boosters(weights.variables), *arguments)
    labels = run(*fasten(weights.model, weights.variables), *arguments)
    assert labels.shape == (1, 50, 70) and labels.dtype == jnp.uint8
    assert len(np.unique(expected)) > 3
    assert np.mean(labels == expected) > 0.999


def test_it_only_infers(random_weights):
    weights = random_weights("paper")
    network, parameters = fasten(weights.model, weights.variables)
    assert isinstance(network, FastNetwork)
    with pytest.raises(ValueError, match="only infers"):
        network.apply(parameters, jnp.zeros((1, 32, 32, 3)), is_training=True)


@pytest.mark.parametrize("batch, height, width", [(1, 4, 4), (2, 8, 12), (2, 5, 15)])
def test_winograd(batch, height, width):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, height, width, 5)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, 5, 7))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64)
    expected = sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )
    y = winograd_conv(jnp.asarray(x), transform_kernel(kernel))
    np.testing.assert_allclose(y, expected, atol=1e-4)
