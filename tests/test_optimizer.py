"""Schedule and updates against formulas in numpy; which leaves decay, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bisenet_jax.config import OptimizerConfig
from bisenet_jax.model.presets import build_model
from bisenet_jax.training.optimizer import (
    NORM_SHARE,
    decays,
    make_optimizer,
    make_schedule,
    move_ema,
)

NARROW = {
    "detail_channels": (8, 8, 16),
    "semantic_late_channels": (8, 16),
    "head_channels": 8,
    "booster_channels": (4, 4, 4, 4),
    "semantic_repeats": (1, 1, 1),
}


@pytest.mark.parametrize("power", [0.9, 2.0])
def test_polynomial_schedule(power):
    config = OptimizerConfig(learning_rate=0.05, poly_power=power)
    schedule, steps = jax.jit(make_schedule(config, 200)), np.array([0, 1, 100, 199, 200, 300])
    expected = 0.05 * (1 - np.minimum(steps, 200) / 200) ** power
    values = [schedule(step) for step in steps]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert values[0] == np.float32(0.05) and values[3] > 0 and values[4] == values[5] == 0


def test_warmup_schedule():
    config = OptimizerConfig(learning_rate=0.05, warmup_steps=20, warmup_start=0.1)
    schedule = jax.jit(make_schedule(config, 100))
    steps = np.arange(111)
    warmup = 0.05 * (0.1 + 0.9 * steps / 20)
    decay = 0.05 * np.clip((100 - steps) / 80, 0, 1) ** 0.9
    values = np.array([schedule(step) for step in steps])
    np.testing.assert_allclose(values, np.where(steps < 20, warmup, decay), rtol=1e-5)
    np.testing.assert_allclose(values[[0, 10, 20, 100]], [0.005, 0.0275, 0.05, 0], rtol=1e-5)
    assert values.argmax() == 20 and (np.diff(values[20:101]) < 0).all()


def test_run_shorter_than_its_warmup():
    config = OptimizerConfig(learning_rate=0.05, warmup_steps=20, warmup_start=0.0)
    values = [float(make_schedule(config, 5)(step)) for step in range(6)]
    np.testing.assert_allclose(values, 0.05 * np.arange(6) / 20, rtol=1e-5)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("weight_decay", [0.1, 0.0])
def test_updates_equal_sgd_by_hand(momentum, weight_decay):
    config = OptimizerConfig(
        learning_rate=0.5, momentum=momentum, weight_decay=weight_decay, poly_power=1.0
    )
    random = np.random.default_rng(0)
    params = {"conv": {"kernel": random.normal(size=(3, 2)), "bias": random.normal(size=2)}}
    params["bn"] = {"scale": random.normal(size=2), "bias": random.normal(size=2)}
    gradients = [
        jax.tree.map(lambda leaf: random.normal(size=leaf.shape), params) for _ in range(3)
    ]

    optimizer = make_optimizer(config, total_steps=4)
    update = jax.jit(optimizer.update)
    actual = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    state = optimizer.init(actual)
    for gradient in gradients:
        updates, state = update(gradient, state, actual)
        actual = optax.apply_updates(actual, updates)

    # torch.optim.SGD: g += decay * w; v = momentum * v + g; w -= learning_rate * v.
    for group, name in (("conv", "kernel"), ("conv", "bias"), ("bn", "scale"), ("bn", "bias")):
        weight, velocity = params[group][name], 0.0
        for step, gradient in enumerate(gradients):
            decayed = gradient[group][name] + weight_decay * weight * (name == "kernel")
            velocity = momentum * velocity + decayed
            weight = weight - 0.5 * (1 - step / 4) * velocity
        np.testing.assert_allclose(actual[group][name], weight, rtol=1e-5, atol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(actual)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("clip_norm", [0.5, 5.0, 0.0])
def test_the_gradient_is_clipped_and_its_decay_is_not(clip_norm):
    config = OptimizerConfig(
        learning_rate=0.5, momentum=0.0, weight_decay=0.1, clip_norm=clip_norm
    )
    params = {"kernel": jnp.array([4.0, -2.0]), "bias": jnp.array([1.0])}
    gradient = {"kernel": jnp.array([2.0, 0.0]), "bias": jnp.array([1.5])}  # of norm 2.5
    optimizer = make_optimizer(config, total_steps=10)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    factor = 0.2 if clip_norm == 0.5 else 1.0
    expected = -0.5 * (factor * np.array([2.0, 0.0]) + 0.1 * np.array([4.0, -2.0]))
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], [-0.5 * factor * 1.5], rtol=1e-6)


@pytest.fixture(scope="module")
def muon_step():
    """One update of a narrow network, what it was made from, and the learning rate."""
    config = OptimizerConfig(method="muon", learning_rate=0.01, weight_decay=0.1)
    model = build_model("paper", num_classes=3, **NARROW)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(
        lambda: model.init(keys, jnp.zeros((1, 64, 64, 3)), is_training=True)["params"]
    )
    random = np.random.default_rng(0)

    def draw(leaf):  # later outputs have longer columns
        lengths = 1 + 9 * np.arange(leaf.shape[-1]) / leaf.shape[-1]
        return jnp.asarray(random.normal(size=leaf.shape) * lengths, jnp.float32)

    params, gradient = jax.tree.map(draw, shapes), jax.tree.map(draw, shapes)
    optimizer = make_optimizer(config, total_steps=100)
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    return flatten(updates), flatten(gradient), flatten(params), config


def flatten(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(
    "name", ["detail_branch/s1_1/conv/kernel", "aggregation/out/conv/kernel"]
)
def test_muon_evens_out_the_singular_values_of_a_kernel(muon_step, name):
    updates, gradients, params, config = muon_step

    def spread(kernel):
        values = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
        return values.max() / values.min()

    step = -updates[name] / config.learning_rate - config.weight_decay * params[name]
    assert spread(gradients[name]) > 3 > 2 > spread(step)
    assert (step * gradients[name]).sum() > 0
    assert np.sqrt((step**2).mean()) == pytest.approx(0.2, rel=0.25)


def test_muon_leaves_heads_norms_and_depthwise_kernels_to_adam(muon_step):
    updates, gradients, _, config = muon_step
    of_adam = [name for name in updates if name.startswith(("head/", "booster_"))]
    of_adam += [name for name in updates if "/bn/" in name or "depthwise/kernel" in name]
    assert len(of_adam) > 60
    # The first step of Adam with Nesterov's momentum b is as long for each number; no decay.
    length = config.learning_rate * (1 + config.momentum / (1 + config.momentum))
    for name in of_adam:
        share = NORM_SHARE if name.endswith(("scale", "bias")) else 1
        expected = -share * length * np.sign(gradients[name])
        np.testing.assert_allclose(updates[name], expected, rtol=1e-3)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_moving_average_by_hand(decay):
    random = np.random.default_rng(0)
    variables = [
        {"params": random.normal(size=3), "batch_stats": random.normal(size=2)}
        for _ in range(40)
    ]
    expected = variables[0]
    ema = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), expected)
    move = jax.jit(move_ema)
    for step, new in enumerate(variables[1:], start=1):
        now = min(decay, (1 + step) / (10 + step))
        expected = {name: now * expected[name] + (1 - now) * new[name] for name in new}
        ema = move(ema, new, step, decay)
    for name, value in expected.items():
        assert ema[name].dtype == jnp.float32
        np.testing.assert_allclose(ema[name], value, rtol=1e-5, atol=1e-6)


def test_what_does_not_change_is_its_own_average():
    values = {"var": np.random.default_rng(0).normal(size=1000).astype("f4")}
    for step in (1, 7, 100_000):
        np.testing.assert_array_equal(
            move_ema(values, values, step, 0.999)["var"], values["var"]
        )


def params_of(preset: str) -> dict[str, tuple[bool, tuple[int, ...]]]:
    """Of each leaf, whether it decays and its shape."""
    model = build_model(preset, num_classes=3, **NARROW)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

    def init():
        return model.init(keys, jnp.zeros((1, 64, 64, 3)), is_training=True)["params"]

    params = jax.eval_shape(init)
    marks = jax.tree_util.tree_flatten_with_path(decays(params))[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (mark, leaf.shape)
        for (path, mark), leaf in zip(marks, jax.tree.leaves(params), strict=True)
    }


def test_exactly_the_kernels_of_the_paper_preset_decay():
    boosters = [f"booster_{stage}" for stage in ("stem", "s3", "s4", "s5")]
    down = ("gather", "depthwise_down", "depthwise", "project")
    shortcut = ("shortcut_depthwise", "shortcut_project")
    semantic = [
        f"{stage}_1/{layer}" for stage in ("s3", "s4", "s5") for layer in down + shortcut
    ]
    semantic += [f"stem/{layer}" for layer in ("entry", "left_reduce", "left_down", "fuse")]
    semantic += ["context_embedding/gap"]
    blocks = [
        *(f"detail_branch/{layer}" for layer in ("s1_1", "s1_2", "s2_1", "s2_2", "s2_3")),
        *(f"detail_branch/{layer}" for layer in ("s3_1", "s3_2", "s3_3")),
        *(f"semantic_branch/{layer}" for layer in semantic),
        *(f"aggregation/{layer}" for layer in ("detail_keep_depthwise", "detail_down")),
        *(
            f"aggregation/{layer}"
            for layer in ("semantic_keep_depthwise", "semantic_up", "out")
        ),
        *(f"{head}/conv" for head in ("head", *boosters)),
    ]
    bare = [
        *("aggregation/detail_keep_pointwise", "aggregation/semantic_keep_pointwise"),
        "semantic_branch/context_embedding/last",
        *(f"{head}/classifier" for head in ("head", *boosters)),
    ]
    expected = {f"{block}/conv/kernel" for block in blocks}
    expected |= {f"{layer}/kernel" for layer in bare}
    params = params_of("paper")
    assert {name for name, (mark, _) in params.items() if mark} == expected
    spared = params.keys() - expected
    assert {name.rsplit("/", 2)[-2:][0] for name in spared} == {"bn", "classifier"}
    assert {name.rsplit("/", 1)[-1] for name in spared} == {"scale", "bias"}


@pytest.mark.parametrize("preset", ["coincheung", "mmseg", "paddleseg"])
def test_kernels_alone_decay_in_every_preset(preset):
    for name, (mark, shape) in params_of(preset).items():
        assert mark is (len(shape) == 4), name
