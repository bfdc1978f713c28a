"""The table that people read and the summary that scripts read."""

import json

import numpy as np
import pytest

from bisenet_jax.data.classes import ClassSet
from bisenet_jax.evaluation.bootstrap import Interval
from bisenet_jax.evaluation.boundary import BoundaryScores
from bisenet_jax.evaluation.instances import InstanceScores
from bisenet_jax.evaluation.metrics import Scores, group_confusion, scores
from bisenet_jax.evaluation.report import protocol_line, score_summary, score_table
from bisenet_jax.files import write_json

TRIO = ClassSet(
    name="trio",
    names=("road", "car", "sky"),
    colours=((1, 2, 3), (4, 5, 6), (7, 8, 9)),
    categories={"things": (1,), "places": (0, 2)},
)
CONFUSION = np.array([[6, 0, 2], [0, 0, 0], [0, 0, 2]])
FURTHER = {
    "categories": scores(group_confusion(CONFUSION, TRIO.categories)),
    "instances": InstanceScores(
        np.array([np.nan, 0.25, np.nan]), np.array([0.25, np.nan]), 0.25, 0.25
    ),
    "boundary": BoundaryScores(np.array([0.5, np.nan, 0.7]), 0.6),
    "interval": Interval(low=0.6, high=0.65, level=0.95, resamples=1000),
}


@pytest.fixture
def result() -> Scores:
    """Road 6/8, car nowhere, sky 2/4."""
    return scores(CONFUSION)


def test_table(result):
    assert score_table(result, TRIO, title="trio val", notes=["2 images, whole"]) == "\n".join(
        (
            "trio val",
            "2 images, whole",
            "",
            "class                     IoU %  truth %",
            "----------------------------------------",
            "road                      75.00    80.00",
            "car                           -        -",
            "sky                       50.00    20.00",
            "----------------------------------------",
            "mIoU (2 of 3 classes)     62.50",
            "pixel accuracy            80.00",
            "mean accuracy             87.50",
            "frequency-weighted IoU    70.00",
        )
    )


def test_table_with_everything(result):
    assert score_table(result, TRIO, **FURTHER) == "\n".join(
        (
            "class                       IoU %  truth %   iIoU %    BF1 %",
            "------------------------------------------------------------",
            "road                        75.00    80.00        -    50.00",
            "car                             -        -    25.00        -",
            "sky                         50.00    20.00        -    70.00",
            "------------------------------------------------------------",
            "mIoU (2 of 3 classes)       62.50             25.00    60.00",
            "mIoU, 95 % interval         60.00    65.00",
            "pixel accuracy              80.00",
            "mean accuracy               87.50",
            "frequency-weighted IoU      70.00",
            "------------------------------------------------------------",
            "things                          -        -    25.00",
            "places                     100.00   100.00        -",
            "------------------------------------------------------------",
            "mIoU (1 of 2 categories)   100.00             25.00",
        )
    )


def test_boundary_needs_no_instances(result):
    lines = score_table(result, TRIO, boundary=FURTHER["boundary"]).splitlines()
    assert lines[0].split() == ["class", "IoU", "%", "truth", "%", "BF1", "%"]
    assert lines[2].split() == ["road", "75.00", "80.00", "50.00"]


def test_table_without_title_starts_with_its_head(result):
    assert score_table(result, TRIO).startswith("class ")


def test_table_of_nothing_has_no_nan():
    table = score_table(scores(np.zeros((3, 3), np.int64)), TRIO)
    assert "nan" not in table
    assert "mIoU (0 of 3 classes)         -" in table.splitlines()


def test_summary(result):
    summary = score_summary(
        result, TRIO, images=2, split="val", protocol="whole", ignored=4, step=np.int64(7)
    )
    assert summary == {
        "miou": 0.625,
        "pixel_accuracy": 0.8,
        "mean_accuracy": 0.875,
        "frequency_weighted_iou": 0.7,
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


def test_summary_with_everything(result, tmp_path):
    plain = score_summary(result, TRIO, images=2, split="val", protocol="whole")
    summary = score_summary(result, TRIO, images=2, split="val", protocol="whole", **FURTHER)
    assert {key: entry for key, entry in summary.items() if key not in plain} == {
        "miou_interval": {"low": 0.6, "high": 0.65, "level": 0.95, "resamples": 1000},
        "category_miou": 1.0,
        "category_iou": {"things": None, "places": 1.0},
        "miiou": 0.25,
        "class_iiou": {"road": None, "car": 0.25, "sky": None},
        "category_miiou": 0.25,
        "category_iiou": {"things": 0.25, "places": None},
        "boundary_f1": 0.6,
        "class_boundary_f1": {"road": 0.5, "car": None, "sky": 0.7},
    }
    write_json(tmp_path / "scores.json", summary)


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
    with pytest.raises(ValueError, match="2 categories.*0 of 'pair'"):
        score_table(scores(np.eye(2, dtype=int)), pair, categories=scores(np.eye(2, dtype=int)))


def test_protocol_line():
    sizes = {(10, 20): 2, (30, 40): 5, (1, 1): 1, (2, 2): 1, (3, 3): 1}
    words = {"protocol": "protocol full", "classes": 19, "dtype": "float32"}
    line = protocol_line("CamVid val", sizes, bucket=32, **words)
    assert line == (
        "CamVid val, 10 images of 40x30, 20x10, 1x1 and 2 other sizes, 19 classes, protocol "
        "full, float32, labels never resized, one confusion matrix"
    )
    assert "padded to multiples of 64" in protocol_line("x", sizes, bucket=64, **words)
