"""Counts of parameters and multiply-accumulates, against hand counts and published figures."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bisenet_jax import complexity
from bisenet_jax.ablations import ROWS
from bisenet_jax.complexity import (
    BLOCKS,
    abstract_variables,
    count_block_macs,
    count_macs,
    count_model_macs,
    count_paper_flops,
    count_parameters,
)
from bisenet_jax.model.presets import build_model


def convolve(image, kernel, *, stride=1, **fields):
    return jax.lax.conv_general_dilated(
        image,
        kernel,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **fields,
    )


def product(x, y):
    return x @ y


LEFT, RIGHT = np.ones((2, 3), np.float32), np.ones((3, 5), np.float32)
SQUARE = np.ones((4, 4), np.float32)


def test_matrix_product():
    assert count_macs(product, LEFT, RIGHT) == 2 * 3 * 5


def test_batched_product():
    x, y = np.ones((7, 2, 3), np.float32), np.ones((7, 3, 5), np.float32)
    assert count_macs(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), x, y) == 7 * 2 * 3 * 5


@pytest.mark.parametrize(
    "call",
    [
        jax.jit(product),
        jax.jit(jax.jit(product)),
        jax.checkpoint(product),
        jax.custom_jvp(product),
        jax.custom_vjp(product),
    ],
    ids=["jit", "nested jit", "checkpoint", "custom_jvp", "custom_vjp"],
)
def test_calls_are_walked_once(call):
    if isinstance(call, jax.custom_jvp):
        call.defjvps(None, None)
    if isinstance(call, jax.custom_vjp):
        call.defvjp(lambda x, y: (x @ y, None), lambda _, g: (g @ RIGHT.T, LEFT.T @ g))
    assert count_macs(lambda x, y: call(x, y) + 1, LEFT, RIGHT) == 30


def test_scan_multiplies_by_its_length():
    def steps(x):
        return jax.lax.scan(lambda x, _: (jax.jit(product)(x, x), None), x, length=6)[0]

    assert count_macs(steps, SQUARE) == 6 * 4**3


def test_cond_takes_the_costliest_branch():
    def choose(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count_macs(choose, SQUARE) == 2 * 4**3


def test_loop_of_unknown_length_is_refused_only_with_work_inside():
    def loop(body):
        return lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, body, x)

    assert count_macs(loop(lambda x: x + 1), SQUARE) == 0
    with pytest.raises(ValueError, match="'while'"):
        count_macs(loop(lambda x: x @ x), SQUARE)


def test_convolutions_with_and_without_groups():
    image = np.ones((2, 8, 6, 4), np.float32)
    dense, depthwise = np.ones((3, 3, 4, 10), np.float32), np.ones((3, 3, 1, 12), np.float32)
    assert count_macs(convolve, image, dense) == 2 * 48 * 9 * 4 * 10
    assert count_macs(partial(convolve, stride=2), image, dense) == 2 * 12 * 360
    grouped = partial(convolve, feature_group_count=4)
    assert count_macs(grouped, image, depthwise) == 2 * 48 * 9 * 12
    batch_grouped = partial(convolve, batch_group_count=2)
    assert count_macs(batch_grouped, image, dense) == 48 * 9 * 4 * 10


def test_training_costs_three_times_a_strided_convolution():
    image, kernel = np.ones((1, 8, 8, 4), np.float32), np.ones((3, 3, 4, 5), np.float32)

    def loss(image, kernel):
        return (convolve(image, kernel, stride=2) ** 2).sum()

    forward = 16 * 9 * 4 * 5
    assert count_macs(loss, image, kernel) == forward
    # The gradient to the image spreads pixels apart; the zeros between them are no work.
    assert count_macs(jax.grad(loss, argnums=(0, 1)), image, kernel) == 3 * forward


def test_published_blocks():
    """GMAC at 512x1024 of each reading of the figure, computed layer by layer elsewhere."""
    public = count_block_macs(build_model("coincheung"), 512, 1024)
    assert tuple(public) == BLOCKS
    assert f"{public['detail_branch'] / 1e9:.3f}" == "11.702"
    assert f"{public['semantic_branch'] / 1e9:.3f}" == "1.340"
    assert f"{public['aggregation'] / 1e9:.3f}" == "1.738"
    assert f"{public['head'] / 1e9:.3f}" == "9.823"
    assert f"{sum(public.values()) / 1e9:.2f}" == "24.60"

    fields = {"stem_fuse_kernel_size": 3, "context_last_form": "conv_bn_relu"}
    text = count_block_macs(build_model("paper", **fields), 512, 1024)
    assert f"{text['semantic_branch'] / 1e9:.3f}" == "4.360"
    assert f"{sum(text.values()) / 1e9:.2f}" == "20.26"


@pytest.mark.parametrize(
    "channels, gmacs", [(64, "0.614"), (128, "1.228"), (256, "2.456"), (512, "4.912")]
)
def test_published_heads(channels, gmacs):
    model = build_model("coincheung", head_channels=channels)
    assert f"{count_block_macs(model, 512, 1024)['head'] / 1e9:.3f}" == gmacs


def test_macs_scale_with_pixels_and_batch():
    model = build_model("paper")
    whole = count_block_macs(model, 64, 64)
    larger = count_block_macs(model, 128, 128)
    # All but one 128x128 product on the global mean, which no size changes.
    assert larger.pop("semantic_branch") == 4 * whole.pop("semantic_branch") - 3 * 128 * 128
    assert larger == {name: 4 * macs for name, macs in whole.items()}
    assert count_model_macs(model, 64, 64, batch=3) == 3 * count_model_macs(model, 64, 64)


def test_resizing_and_dtype_do_not_change_the_count():
    expected = count_model_macs(build_model("paper"), 64, 64)
    fields = {"bga_upsampling": "align_corners", "dtype": "bfloat16"}
    assert count_model_macs(build_model("paper", **fields), 64, 64) == expected


@pytest.mark.parametrize(
    "preset, classes, parameters",
    [("coincheung", 19, 3_358_627), ("coincheung", 171, 3_514_427), ("mmseg", 19, 3_358_883)],
)
def test_published_parameters(preset, classes, parameters):
    variables = abstract_variables(build_model(preset, num_classes=classes))
    assert count_parameters(variables["params"]) == parameters


def test_table_has_a_line_for_each_preset(capsys, monkeypatch):
    monkeypatch.setattr(complexity, "PRESETS", ("paper",))
    monkeypatch.setattr(complexity, "ROWS", {})
    complexity.main(64, 64)
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split()[:2] == ["paper", "5,143,491"]


def test_table_has_the_papers_number_and_the_difference(capsys, monkeypatch):
    monkeypatch.setattr(complexity, "PRESETS", ())
    names = ("bga", "lambda_1_8", "lambda_1_16", "no_context")
    monkeypatch.setattr(complexity, "ROWS", {name: ROWS[name] for name in names})
    complexity.main()
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert lines["lambda_1_8"] == ["5,029,035", "18.928", "19.06", "19.93", "-0.87", "+0.00"]
    # A number that nobody cites is marked, and one that is not known is not printed.
    assert lines["lambda_1_16"][3] == "19.61?" and lines["no_context"][3:] == ["-"]
    assert "bga" not in lines


@cache
def paper_flops(**fields):
    return count_paper_flops(build_model(**fields), 512, 1024) / 1e9


@pytest.mark.parametrize("table", ["lambda", "expansion", "depth"])
def test_rows_differ_from_each_other_as_the_papers_do(table):
    """To 0.05 G, by the count of the authors' tool."""
    rows = [row for row in ROWS.values() if row.table == table]
    assert len(rows) >= 4
    for row in rows:
        published = (row.gflops or row.unverified_gflops) - 21.15
        assert abs(paper_flops(**row.model) - paper_flops() - published) < 0.05, row


def test_other_work_by_hand():
    """Batch norm makes two, ReLU one for each number, pools one for each that they read."""
    model = build_model(fusion="detail", detail_channels=(2, 2, 2), head_channels=2)
    outputs = 2 * (2 * 32 * 32 + 3 * 16 * 16 + 4 * 8 * 8)
    assert count_paper_flops(model, 64, 64) - count_model_macs(model, 64, 64) == 3 * outputs
    model = build_model(
        fusion="semantic", use_context_embedding=False, semantic_ratio=1 / 32, head_channels=2
    )
    bare = model.clone(use_second_depthwise=False)

    def others(model):
        return count_paper_flops(model, 64, 64) - count_model_macs(model, 64, 64)

    # The second depth-wise layers have a batch norm and no ReLU, and are six times as wide.
    second = 2 * (6 * 2 * 8 * 8 + 6 * 4 * 4 * 4 + 6 * 64 * 2 * 2)
    assert others(model) - others(bare) == second
