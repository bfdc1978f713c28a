"""What a published network is told by: command, confusions, log, curves, rows."""

import gzip
import json

import numpy as np
import pytest

from bisenet_jax.publish.curves import draw_curves, ticks
from bisenet_jax.publish.record import confusions, training_command
from bisenet_jax.publish.rows import put_row
from bisenet_jax.publish.training_log import MAX_BYTES, average, pack_logs, thin

HEAD = "| what | protocol | result |"
PAGE = f"# Results\n\n{HEAD}\n|---|---|---|\n| old | x | y |\n"


def test_the_command_repeats_the_run(make_tiny_config):
    base, options = make_tiny_config(), make_tiny_config()
    options.data.source, options.data.root = "camvid", "/home/someone/secret"
    options.augment.scales, options.data.workers = (0.5, 1.0), 7
    options.train.seed, options.init.weights = 3, "/home/someone/secret/start.safetensors"
    words = training_command("configs/camvid.py", base, options, "net")
    assert words.replace(" \\\n   ", "") == (
        "python train.py --config configs/camvid.py --workdir runs/net "
        "--config.init.weights=start.safetensors "
        "--config.data.source=camvid --config.data.root=CAMVID "
        "'--config.augment.scales=(0.5,1.0)' --config.train.seed=3"
    )


def test_confusions():
    found = confusions(np.array([[5, 3, 2], [0, 9, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert found == {"a": {"class": "b", "share": 0.3}, "b": None, "c": None}


def test_a_long_log_is_thinned_until_it_is_small():
    random = np.random.default_rng(0)
    values = random.random((20_000, 3)).tolist()
    log = [
        {"step": step, "group": "train", "loss": a, "norm": b, "rate": c}
        for step, (a, b, c) in enumerate(values)
    ]
    scored = [{"step": 19_999, "group": "val", "miou": 0.5}]
    packed = pack_logs({0: log + scored, 1: log})
    assert len(packed) < MAX_BYTES and packed == pack_logs({1: log, 0: log + scored})
    kept = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    assert len(kept) > 1000 and scored[0] | {"seed": 0} in kept
    assert [line["step"] for line in thin(log[:6], 4)] == [0, 4, 5]
    assert average([(1, 1.0), (2, 3.0), (3, 5.0)], 2) == [(2, 2.0), (3, 5.0)]


def test_curves_have_round_marks_and_no_markup_from_outside():
    assert ticks(0.05) == pytest.approx([0, 0.01, 0.02, 0.03, 0.04, 0.05])
    assert ticks(600) == pytest.approx([0, 200, 400, 600])
    assert ticks(0) == [0, 1]
    for high in (1e-7, 0.31, 7.3, 12_345):
        assert high <= ticks(high)[-1] <= 1.6 * high and len(ticks(high)) <= 6
    drawing = draw_curves({0: [{"step": 1, "group": "val", "miou": 0.5}]}, "<script>")
    assert "<script>" not in drawing and "&lt;script&gt;" in drawing


def test_a_row_takes_the_place_of_its_own():
    once = put_row(PAGE, "| [a](a.md) | 1 |", HEAD)
    assert once.splitlines()[4:] == ["| [a](a.md) | 1 |", "| old | x | y |"]
    assert put_row(once, "| [a](a.md) | 2 |", HEAD) == once.replace("| 1 |", "| 2 |")
