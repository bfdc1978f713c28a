"""The folded network in PyTorch is our network, and CoinCheung's."""

import dataclasses

import jax
import numpy as np
import pytest
from public_checkpoints import draw_tensors, listed_shapes

from bisenet_jax.convert.tensors import from_public
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.inference import predict_logits
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.presets import PRESETS
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import Weights

torch = pytest.importorskip("torch")

from benchmarks.torch_bisenetv2 import build_twin  # noqa: E402
from benchmarks.torch_network import TorchNetwork, trace  # noqa: E402

IMAGES = np.random.default_rng(2).integers(0, 256, (2, 40, 64, 3), np.uint8)


def torch_logits(weights, **options):
    network = TorchNetwork(weights, IMAGES.shape[1:3], **options)
    with torch.inference_mode():
        return network.compute_logits(torch.from_numpy(IMAGES)).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    "preset, fields",
    [*((preset, {}) for preset in PRESETS), ("paper", {"bga_upsampling": "align_corners"})],
)
def test_torch_network_is_ours(preset, fields, random_weights):
    weights = random_weights(preset, depthwise_lowering="conv", **fields)
    weights = dataclasses.replace(weights, variables=without_boosters(weights.variables))
    expected = jax.jit(
        lambda images: predict_logits(
            weights.model, weights.variables, images, weights.normalization
        )
    )(IMAGES)
    for memory_format in (torch.channels_last, torch.contiguous_format):
        found = torch_logits(weights, memory_format=memory_format)
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=0)


def test_torch_network_is_the_twin():
    tensors = draw_tensors(listed_shapes("coincheung"))
    twin = build_twin("coincheung").eval()
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    model, variables = from_public("coincheung", tensors, 19)
    weights = Weights(model, variables, CITYSCAPES, Normalization(), "coincheung")
    inputs = np.asarray(weights.normalization.normalize(IMAGES))
    padded = np.pad(inputs, ((0, 0), (0, 24), (0, 0), (0, 0))).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = twin(torch.from_numpy(padded))[0][:, :, :40].permute(0, 2, 3, 1).numpy()
    difference = np.abs(torch_logits(weights) - expected).max()
    assert difference < 1e-4 * np.abs(expected).max()


def test_traced_network_gives_labels(random_weights):
    weights = random_weights("mmseg")
    network = trace(TorchNetwork(weights, IMAGES.shape[1:3]))
    with torch.inference_mode():
        labels = network(torch.from_numpy(IMAGES))
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), torch_logits(weights).argmax(-1))


def test_dtype_is_that_of_the_activations(random_weights):
    weights = random_weights("paper")
    rounded = torch_logits(weights, dtype=torch.bfloat16)
    exact = torch_logits(weights)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.2 * np.abs(exact).max()
