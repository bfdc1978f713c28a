"""Presets, and the page that explains them."""

from pathlib import Path

import pytest

from bisenet_jax.errors import ConfigError
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.idle_fields import find_idle_fields
from bisenet_jax.model.presets import PRESETS, build_model

PAGE = Path(__file__).parents[1] / "docs" / "deviations.md"


def read_table() -> dict[str, dict[str, str]]:
    """`{switch: {preset: value}}` from the page's only table."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|")
    ]
    header, body = rows[0], rows[2:]
    presets = [name.strip("`") for name in header[1:-1]]
    return {
        row[0].strip("`"): dict(
            zip(presets, (cell.strip("`") for cell in row[1:-1]), strict=True)
        )
        for row in body
    }


def test_page_shows_every_preset():
    for row in read_table().values():
        assert list(row) == list(PRESETS)


def test_page_shows_every_field_that_a_preset_sets():
    fields = {name for preset in PRESETS.values() for name in preset}
    assert fields and fields <= read_table().keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_page_shows_the_values_of_the_code(preset):
    model = build_model(preset)
    written = {switch: row[preset] for switch, row in read_table().items()}
    assert written == {switch: str(getattr(model, switch)) for switch in written}


def test_default_network_is_the_papers():
    assert build_model() == build_model("paper") == BiSeNetV2()


@pytest.mark.parametrize("preset", PRESETS)
def test_fields_of_a_preset_exist_and_change_something(preset):
    model, paper = build_model(preset), BiSeNetV2()
    unchanged = [n for n in PRESETS[preset] if getattr(model, n) == getattr(paper, n)]
    assert not unchanged, "leave the paper's values to the defaults"


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "fields",
    [
        {"semantic_branch": "resnet18"},
        *({"fusion": fusion} for fusion in ("detail", "semantic", "sum", "concat")),
        {"use_context_embedding": False},
    ],
)
def test_what_a_preset_sets_in_vain_is_nobodys_mistake(preset, fields):
    model = build_model(preset, **fields)
    idle = find_idle_fields(BiSeNetV2(**PRESETS[preset] | fields))
    for name in PRESETS[preset]:
        expected = getattr(BiSeNetV2(), name) if name in idle else PRESETS[preset][name]
        assert getattr(model, name) == expected
    # But what was asked for is refused.
    for name in idle:
        with pytest.raises(ConfigError, match=f"{name} .* has no effect with"):
            build_model(preset, **fields, **{name: PRESETS[preset][name]})


def test_own_fields_come_before_the_presets():
    model = build_model(
        "mmseg", num_classes=11, head_channels=64, bga_relu=None, dropout_rate=0.0
    )
    assert (model.num_classes, model.head_channels, model.dropout_rate) == (11, 64, 0.0)
    assert model.bga_relu is True, "None keeps the preset's value"


def test_unknown_preset():
    with pytest.raises(ConfigError, match="preset 'v3' is not known; choose from .*'paper'"):
        build_model("v3")
