"""The table that people read and the summary that scripts read."""

import json

import numpy as np
import pytest

from bisenet_jax.data.classes import ClassSet
from bisenet_jax.evaluation.metrics import Scores, scores
from bisenet_jax.evaluation.report import score_summary, score_table
from bisenet_jax.files import write_json

TRIO = ClassSet(
    name="trio", names=("road", "car", "sky"), colours=((1, 2, 3), (4, 5, 6), (7, 8, 9))
)


@pytest.fixture
def result() -> Scores:
    """Road 6/8, car nowhere, sky 2/4."""
    return scores(np.array([[6, 0, 2], [0, 0, 0], [0, 0, 2]]))


def test_table(result):
    assert score_table(result, TRIO, title="trio val", notes=["2 images, whole"]) == "\n".join(
        (
            "trio val",
            "2 images, whole",
            "",
            "class                    IoU %  truth %",
            "---------------------------------------",
            "road                     75.00    80.00",
            "car                          -        -",
            "sky                      50.00    20.00",
            "---------------------------------------",
            "mIoU (2 of 3 classes)    62.50",
            "pixel accuracy           80.00",
            "mean accuracy            87.50",
        )
    )


def test_table_without_title_starts_with_its_head(result):
    assert score_table(result, TRIO).startswith("class ")


def test_table_of_nothing_has_no_nan():
    table = score_table(scores(np.zeros((3, 3), np.int64)), TRIO)
    assert "nan" not in table
    assert "mIoU (0 of 3 classes)        -" in table.splitlines()


def test_summary(result):
    summary = score_summary(
        result, TRIO, images=2, split="val", protocol="whole", ignored=4, step=np.int64(7)
    )
    assert summary == {
        "miou": 0.625,
        "pixel_accuracy": 0.8,
        "mean_accuracy": 0.875,
        "class_iou": {"road": 0.75, "car": None, "sky": 0.5},
        "class_accuracy": {"road": 0.75, "car": None, "sky": 1.0},
        "classes": "trio",
        "images": 2,
        "pixels": 10,
        "ignored": 4,
        "split": "val",
        "protocol": "whole",
        "step": 7,
    }
    assert type(summary["class_iou"]["road"]) is float
    assert type(summary["step"]) is int


def test_summary_of_nothing_is_valid_json(tmp_path):
    nothing = scores(np.zeros((3, 3), np.int64))
    summary = score_summary(
        nothing, TRIO, images=0, split="val", protocol="whole", loss=float("nan")
    )
    write_json(tmp_path / "scores.json", summary)
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["miou"] is None and read["loss"] is None
    assert read["class_iou"] == {"road": None, "car": None, "sky": None}
    assert read == summary


def test_summary_refuses_to_lose_an_entry(result):
    with pytest.raises(ValueError, match="miou"):
        score_summary(result, TRIO, images=1, split="val", protocol="whole", miou=1.0)


def test_wrong_class_set_is_named(result):
    pair = ClassSet(name="pair", names=("a", "b"), colours=((0, 0, 0), (1, 1, 1)))
    with pytest.raises(ValueError, match="3 classes.*2.*pair"):
        score_table(result, pair)
    with pytest.raises(ValueError, match="3 classes.*2.*pair"):
        score_summary(result, pair, images=1, split="val", protocol="whole")
