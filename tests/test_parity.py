"""Ours and the PyTorch twin, given the same random weights, are the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from public_checkpoints import draw_tensors, listed_shapes

from bisenet_jax.config import LossConfig, OptimizerConfig
from bisenet_jax.convert.names import public_names
from bisenet_jax.convert.tensors import from_public, to_public
from bisenet_jax.inference import make_logits_function, scaled_logits
from bisenet_jax.normalization import Normalization
from bisenet_jax.resize import upsample
from bisenet_jax.training.losses import total_loss
from bisenet_jax.training.optimizer import make_optimizer

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

from benchmarks.torch_bisenetv2 import build_twin  # noqa: E402

LAYOUTS = ("coincheung", "mmseg")
TOLERANCE = 1e-4


def build_pair(layout):
    """Our network with its variables, and the twin in use, of equal random numbers."""
    tensors = draw_tensors(listed_shapes(layout))
    twin = build_twin(layout, dropout_rate=0.0)
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    model, variables = from_public(layout, tensors, 19)
    return model.clone(dropout_rate=0.0), variables, twin.eval()


@pytest.fixture(scope="module")
def pairs():
    return {layout: build_pair(layout) for layout in LAYOUTS}


def random_inputs(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def from_torch(tensor):
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def twin_logits(twin, inputs):
    with torch.no_grad():
        return from_torch(twin(to_torch(inputs))[0])


def distance(ours, theirs):
    """The largest difference, relative to the largest number."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_twin_has_the_public_names(layout):
    state = build_twin(layout).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == listed_shapes(layout)


def test_logits_of_a_whole_frame(pairs):
    model, variables, twin = pairs["coincheung"]
    inputs = random_inputs(1, 512, 1024, 3)
    ours = jax.jit(lambda *arrays: scaled_logits(model, *arrays))(variables, inputs)
    theirs = twin_logits(twin, inputs)
    assert theirs.shape == (1, 512, 1024, 19) and theirs.std() > 0.1
    assert distance(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_of_odd_sizes_in_a_batch(pairs, layout):
    model, variables, twin = pairs[layout]
    images = np.random.default_rng(2).integers(0, 256, (2, 75, 101, 3), np.uint8)
    normalization = Normalization((0.3, 0.4, 0.5), (0.2, 0.25, 0.3))
    ours = make_logits_function(model, variables, normalization)(images)
    inputs = (images / np.float32(255) - np.float32(normalization.mean)) / np.float32(
        normalization.std
    )
    padded = np.pad(inputs, ((0, 0), (0, 21), (0, 27), (0, 0)))
    theirs = twin_logits(twin, padded)[:, :75, :101]
    assert distance(ours, theirs) < TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"bga_upsampling": "bilinear"},
        {"bga_pool_counts_padding": False},
    ],
)
def test_another_graph_is_far_away(pairs, change):
    model, variables, twin = pairs["coincheung"]
    inputs = random_inputs(1, 64, 96, 3)
    other_model = model.clone(**change)
    other = jax.jit(lambda *arrays: scaled_logits(other_model, *arrays))(variables, inputs)
    assert distance(other, twin_logits(twin, inputs)) > 10 * TOLERANCE


def test_training_with_boosters():
    """Logits of all heads, running statistics, gradients, and one step of the optimiser.

    In float64: of a million ReLUs one stands so near its edge that rounding to float32 throws
    it over, and in the small maps that alone moves a gradient by a hundredth. Over all
    parameters together that is 0.04 to 2 % of the gradient, by the images and labels drawn: too
    far apart for a bound that would hold and still say something.
    """
    with jax.enable_x64(True):
        compare_training()


def compare_training():
    model, variables, twin = build_pair("coincheung")
    model = model.clone(dtype="float64")
    twin = twin.double().train()
    inputs = random_inputs(4, 64, 64, 3).astype(np.float64)
    labels = np.random.default_rng(3).integers(0, 19, inputs.shape[:3])
    labels[:, :5] = 255
    options = OptimizerConfig(learning_rate=0.05, momentum=0.9, weight_decay=5e-4)
    optimizer = make_optimizer(options, total_steps=10)

    @jax.jit
    def step(variables):
        def loss_of(params):
            outputs, updates = model.apply(
                variables | {"params": params},
                inputs,
                is_training=True,
                mutable=["batch_stats"],
            )
            loss, _ = total_loss(outputs, jnp.asarray(labels), LossConfig())
            return loss, (outputs, updates["batch_stats"])

        params = variables["params"]
        (loss, rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        return loss, *rest, gradients, optax.apply_updates(params, updates)

    loss, outputs, batch_stats, gradients, params = step(variables)

    counts = count_samples(twin)
    decayed = [p for p in twin.parameters() if p.ndim == 4]
    others = [p for p in twin.parameters() if p.ndim != 4]
    sgd = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": others}], lr=0.05, momentum=0.9
    )
    all_logits = twin(to_torch(inputs))
    target = torch.from_numpy(labels)
    their_losses = [
        functional.cross_entropy(logits, target, ignore_index=255) for logits in all_logits
    ]
    their_loss = torch.stack(their_losses).sum()
    their_loss.backward()
    sgd.step()

    assert loss == pytest.approx(their_loss.item(), rel=1e-5)
    assert len(all_logits) == 5
    for ours, theirs in zip((outputs.logits, *outputs.boosters), all_logits, strict=True):
        ours = upsample(ours, 64 // ours.shape[1])
        assert distance(ours, from_torch(theirs)) < TOLERANCE

    before = to_public("coincheung", variables)
    state = {name: tensor.numpy() for name, tensor in twin.state_dict().items()}
    after = to_public("coincheung", {"params": params, "batch_stats": batch_stats})
    for name, array in after.items():
        theirs = state[name]
        if name.endswith("running_mean"):
            np.testing.assert_allclose(array, theirs, atol=1e-5)
        elif name.endswith("running_var"):
            # PyTorch keeps the unbiased variance: of n samples, larger by n / (n - 1).
            count = counts[name.removesuffix(".running_var")]
            fresh = (theirs - 0.9 * before[name]) * (count - 1) / count
            np.testing.assert_allclose(array, 0.9 * before[name] + fresh, rtol=1e-4)

    named = dict(twin.named_parameters())
    ours = flatten_dict({"params": gradients}, sep="/")
    for name, theirs in public_names("coincheung", ours).items():
        gradient = named[theirs].grad.numpy()
        if name in EARLY:
            assert distance(public_layout(ours[name]), gradient) < TOLERANCE
        # What the optimiser made of it, decay included; parameters are float32.
        change, their_change = after[theirs] - before[theirs], state[theirs] - before[theirs]
        np.testing.assert_allclose(change, their_change, rtol=1e-3, atol=1e-6)
    assert EARLY <= ours.keys()


EARLY = {
    "params/detail_branch/s1_1/conv/kernel",
    "params/semantic_branch/stem/entry/conv/kernel",
    "params/semantic_branch/s3_1/depthwise_down/conv/kernel",
    "params/semantic_branch/s3_2/depthwise/conv/kernel",
}


def public_layout(kernel):
    return np.asarray(kernel).transpose(3, 2, 0, 1)


def count_samples(twin):
    """Filled by the next pass: how many numbers each batch norm takes its mean of."""
    counts = {}

    def watch(name):
        def count(_, inputs):
            counts[name] = inputs[0].numel() // inputs[0].shape[1]

        return count

    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(watch(name))
    return counts
