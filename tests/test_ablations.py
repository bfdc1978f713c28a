"""The rows of the paper's comparisons: each trains another thing, and infers everywhere."""

import dataclasses
import itertools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from bisenet_jax.ablations import BOOSTERS, NO_BOOSTERS, ROWS, ablate
from bisenet_jax.config import Config, LossConfig, ModelConfig
from bisenet_jax.config_rules import validate
from bisenet_jax.errors import ConfigError
from bisenet_jax.export.onnx import export_onnx
from bisenet_jax.fast.network import Lowerings, fasten
from bisenet_jax.model.aggregation import PlainFusion
from bisenet_jax.model.bisenetv2 import Outputs, without_boosters
from bisenet_jax.model.presets import build_model
from bisenet_jax.training.losses import loss_divisors, total_loss
from bisenet_jax.weights_description import model_fields, read_model

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ablations.md"
QUICK = {"xla_backend_optimization_level": 0}
# What the fixture of narrow networks sets and one branch alone has no use for.
BARE = {
    "semantic_late_channels": None,
    "semantic_repeats": None,
    "expansion": None,
    "booster_channels": None,
}


def test_every_row_is_a_valid_config_of_its_own():
    paper, defaults = build_model(), Config()
    same = {"boosters", "lambda_1_4", "expansion_6", "alpha_1", "depth_1"}
    same |= {"bga", "ohem", "boosters_stem_s3_s4_s5"}
    for name, row in ROWS.items():
        config = validate(ablate(Config(), name))
        model = build_model(**dataclasses.asdict(config.model))
        is_base = model == paper
        assert is_base == (name in same or name.startswith("boosters_")), name
        changed = {
            field.name
            for field in dataclasses.fields(LossConfig)
            if getattr(config.loss, field.name) != getattr(defaults.loss, field.name)
        }
        assert changed <= row.loss.keys() and (
            changed or not row.loss or "stem_s3_s4_s5" in name
        )
        assert row.gflops is None or row.unverified_gflops is None
    assert Config() == defaults, "the base is left as it is"


def test_every_subset_of_boosters_is_a_row():
    rows = {name: row for name, row in ROWS.items() if row.table == "boosters"}
    sets = {row.loss["booster_weights"] for row in rows.values()}
    assert sets == set(itertools.product((0.0, 1.0), repeat=4)) - {NO_BOOSTERS}
    assert rows["boosters_stem_s4"].loss["booster_weights"] == (1.0, 0.0, 1.0, 0.0)
    assert all(name.split("_")[1:] == [b for b in BOOSTERS if b in name] for name in rows)


def test_page_lists_every_row():
    words = PAGE.read_text(encoding="utf-8").replace("`", " ").replace("|", " ").split()
    missing = [n for n, row in ROWS.items() if row.table != "boosters" and n not in words]
    assert not missing


def test_unknown_row_lists_the_others():
    with pytest.raises(
        ConfigError, match="row 'lamda' is not known; .* lambda_1_8, .*boosters_"
    ):
        ablate(Config(), "lamda")
    with pytest.raises(
        ConfigError, match="no row is given; give --config FILE:ROW with one of"
    ):
        ablate(Config(), "")


@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
def test_files_set_a_row_over_their_base(name):
    path = ROOT / "configs" / "ablations" / f"{name}.py"
    content = runpy.run_path(str(path))
    base = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
    config = validate(content["get_config"]("large"))
    assert dataclasses.replace(config, model=base.model, loss=base.loss) == base
    assert config.model == ModelConfig(width=2.0, depth=3) and config.loss.ohem
    assert f"--config configs/ablations/{path.name}:" in content["__doc__"]


def test_one_branch_has_the_others_parameters_only():
    whole = shapes_of(build_model())
    for fusion, box in (("detail", "detail_branch"), ("semantic", "semantic_branch")):
        alone = shapes_of(build_model(fusion=fusion))
        assert {name.split("/")[1] for name in alone} == {box, "head"}
        assert alone.items() <= whole.items()


def shapes_of(model):
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda x: model.init(jax.random.key(0), x, is_training=False), images
    )
    return {name: leaf.shape for name, leaf in flatten_dict(variables, sep="/").items()}


@pytest.mark.parametrize("form", ["sum", "concat"])
def test_plain_fusion_by_hand(form):
    random = np.random.default_rng(0)
    detail = random.normal(size=(1, 8, 8, 4)).astype(np.float32)
    semantic = random.normal(size=(1, 2, 2, 4)).astype(np.float32)
    module = PlainFusion(form, upsampling="nearest")
    kernel = np.zeros((3, 3, 4 if form == "sum" else 8, 4), np.float32)
    # The convolution lets through its last four channels.
    kernel[1, 1, -4:] = np.eye(4)
    norm = {"scale": np.full(4, 1.00001**0.5, np.float32), "bias": np.zeros(4, np.float32)}
    statistics = {"mean": np.zeros(4, np.float32), "var": np.ones(4, np.float32)}
    variables = {
        "params": {"out": {"conv": {"kernel": kernel}, "bn": norm}},
        "batch_stats": {"out": {"bn": statistics}},
    }
    fused = module.apply(variables, detail, semantic, is_training=False)
    grown = semantic.repeat(4, axis=1).repeat(4, axis=2)
    expected = detail + grown if form == "sum" else grown
    np.testing.assert_allclose(fused, expected, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"fusion": "sum", "gather_kernel_size": 1, "bga_relu": True},
        {"fusion": "concat", "use_second_depthwise": False, "use_depthwise_relu": True},
        {"fusion": "semantic", "use_context_embedding": False, "bga_upsampling": "nearest"},
        {"fusion": "detail", **BARE},
    ],
    ids=["sum", "concat", "semantic", "detail"],
)
def test_fast_network_and_onnx_compute_it(fields, tmp_path, random_weights):
    # The other lowering compiles in less time.
    weights = random_weights("paper", depthwise_lowering="conv", **fields)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 96, 3)), jnp.float32)

    def logits_of(network, numbers):
        run = jax.jit(lambda v: network.apply(v, images, is_training=False).logits)
        return np.asarray(run.lower(numbers).compile(QUICK)(numbers))

    expected = logits_of(weights.model, without_boosters(weights.variables))
    assert expected.std() > 0.3
    network, parameters = fasten(weights.model, weights.variables, Lowerings(depthwise="conv"))
    fast = logits_of(network, parameters)
    np.testing.assert_allclose(fast, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    found = export_onnx(tmp_path / "network.onnx", weights, height=64, width=96)
    assert found.equal_labels >= 0.999


def test_losses_without_boosters():
    logits = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    labels = np.zeros((2, 64, 64), np.int32)
    outputs = Outputs(logits, (None,) * 4)
    config = LossConfig(booster_weights=NO_BOOSTERS, ohem=True)
    loss, parts = total_loss(outputs, labels, config)
    assert loss == parts["main"] > 0
    assert [float(part) for name, part in parts.items() if name != "main"] == [0.0] * 4
    divisors = loss_divisors(outputs, labels, config)
    assert divisors["main"] > 0 and divisors["booster_s5"] == 0
    np.testing.assert_allclose(
        total_loss(outputs, labels, config, divisors)[0], loss, rtol=1e-6
    )


def test_what_weighs_nothing_has_no_backward_pass():
    logits = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    labels = np.zeros((2, 64, 64), np.int32)

    def work(*weights: float) -> float:
        config = LossConfig(booster_weights=weights)

        def loss(heads):
            return total_loss(Outputs(heads[0], tuple(heads[1:])), labels, config)

        gradient = jax.jit(jax.grad(loss, has_aux=True))
        parts = gradient([logits] * 5)[1]
        assert parts["booster_s4"] == parts["main"] > 0
        return gradient.lower([logits] * 5).cost_analysis()["flops"]

    none, one, all_of_them = work(*NO_BOOSTERS), work(0, 0, 1, 0), work(1, 1, 1, 1)
    assert all_of_them - none == pytest.approx(4 * (one - none), rel=0.01)
    assert one - none > 0.1 * none


def test_boosters_need_their_branch():
    config = Config()
    config.model.fusion = "detail"
    with pytest.raises(ConfigError, match="detail has no Semantic Branch for boosters"):
        validate(config)
    config.loss.booster_weights = NO_BOOSTERS
    validate(config)


def test_files_of_before_the_rows_are_read():
    fields = model_fields(build_model("mmseg"))
    for name in ("fusion", "semantic_branch", "gather_kernel_size", "use_second_depthwise"):
        del fields[name]
    assert read_model(fields) == build_model("mmseg")
