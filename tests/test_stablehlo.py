"""A StableHLO program computes what the network does, in a process that knows only jax."""

import dataclasses
import json
import re
from pathlib import Path

import jax.export
import numpy as np
import pytest
from PIL import Image

from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import ConfigError, ExportError
from bisenet_jax.export import stablehlo
from bisenet_jax.export.stablehlo import export_stablehlo
from bisenet_jax.segmenter import Segmenter

ROOT = Path(__file__).parent.parent


def load(path):
    return jax.export.deserialize(bytearray(path.read_bytes()))


def test_any_size_and_number(tmp_path, random_weights, monkeypatch):
    path, weights = tmp_path / "out" / "network.stablehlo", random_weights("paper")
    found = export_stablehlo(path, weights)
    # Two sizes, of one image and of three, each of two batches.
    assert found.images == 8 and found.equal_labels >= 0.999
    program = load(path)
    assert program.platforms == ("cpu", "cuda")
    images = np.stack([draw_street(7, i, 96, 160)[0] for i in range(3)])
    labels = np.asarray(program.call(images))
    assert labels.dtype == np.uint8 and labels.shape == (3, 96, 160)
    # By way of the logits, whose program the export compiled.
    assert (labels == Segmenter(weights).logits(images).argmax(-1)).mean() >= 0.999
    with pytest.raises(ValueError, match="shape"):
        program.call(images[:, :50])
    # The page on deploying says how to read it.
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import numpy.*?)```", page, re.DOTALL)
    monkeypatch.chdir(path.parent)
    Image.fromarray(images[0]).save("photo.jpg")
    exec(example, scope := {})
    assert scope["labels"].shape == (1, 96, 160) and scope["labels"].dtype == np.uint8
    told = json.loads((tmp_path / "out" / "network.stablehlo.json").read_text())
    assert told["input"] == ["b", "32*h", "32*w", "3"] and told["preset"] == "paper"
    assert told["class_names"] == list(weights.class_set.names)


def test_one_size_of_logits(tmp_path, random_weights):
    path = tmp_path / "network.stablehlo"
    weights = random_weights("paddleseg", depthwise_lowering="conv")
    weights = dataclasses.replace(weights, input_scale=0.5)
    half = dataclasses.replace(weights, model=weights.model.clone(dtype="bfloat16"))
    # The program computes in float32.
    found = export_stablehlo(path, half, height=50, width=70, io="float-logits")
    assert found.logit_difference is not None and found.logit_difference < 1e-3
    # Of any number: one and three at a time, at one size.
    assert found.images == 8
    images = draw_street(7, 0, 64, 96)[0][None, :50, :70]
    mean, std = (np.asarray(numbers, np.float32) for numbers in weights.normalization)
    logits = np.asarray(load(path).call((images / np.float32(255) - mean) / std))
    np.testing.assert_allclose(logits, Segmenter(weights).logits(images), atol=1e-3)


def test_one_size_and_number_is_tried_once_with_pictures(tmp_path, random_weights):
    street = Image.fromarray(draw_street(7, 0, 64, 96)[0])
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b", "c"):
        street.save(tmp_path / "pictures" / f"{name}.png")
    found = export_stablehlo(
        tmp_path / "x",
        random_weights("coincheung", depthwise_lowering="conv"),
        **{"height": 64, "width": 96, "batch": 2, "pictures": tmp_path / "pictures"},
    )
    assert found.images == 3


def test_another_network_is_not_written(tmp_path, random_weights, monkeypatch):
    monkeypatch.setattr(
        stablehlo,
        "_run_in_a_fresh_process",
        lambda content, batches: [np.zeros(batch.shape[:3], np.uint8) for batch in batches],
    )
    with pytest.raises(ExportError, match="is not the network, and was not written"):
        export_stablehlo(tmp_path / "x", random_weights("paper"), height=64, width=96, batch=1)
    assert not list(tmp_path.iterdir())


def test_a_program_that_does_not_load(tmp_path, random_weights, monkeypatch):
    monkeypatch.setattr(stablehlo, "_serialize", lambda exported: b"damaged")
    with pytest.raises(ExportError, match="a fresh process could not run the program"):
        export_stablehlo(tmp_path / "x", random_weights("paper"), height=64, width=96, batch=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scale", "fields", "name"),
    [
        (0.5, {}, "input_scale 0.5"),
        (1.0, {"bga_upsampling": "align_corners"}, "bga_upsampling 'align_corners'"),
        (1.0, {"bga_pool_counts_padding": False}, "bga_pool_counts_padding False"),
    ],
)
def test_what_depends_on_the_size(scale, fields, name, tmp_path, random_weights):
    weights = dataclasses.replace(random_weights("paper", **fields), input_scale=scale)
    with pytest.raises(ConfigError, match=f"with {name} .* give height and width"):
        export_stablehlo(tmp_path / "x", weights)


def test_refusals(tmp_path, random_weights):
    weights = random_weights("paper")
    with pytest.raises(ConfigError, match="both height and width, or neither"):
        export_stablehlo(tmp_path / "x", weights, height=64)
    with pytest.raises(ConfigError, match="batch 0 must be at least 1"):
        export_stablehlo(tmp_path / "x", weights, batch=0)
    with pytest.raises(ConfigError, match="io 'jpeg' is not known"):
        export_stablehlo(tmp_path / "x", weights, io="jpeg")
