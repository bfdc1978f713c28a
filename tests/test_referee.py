"""Our scores against cityscapesScripts itself, run as its users run it, on drawn streets."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from bisenet_jax.data.cityscapes.labels import LABEL_IDS
from bisenet_jax.data.classes import CITYSCAPES, IGNORE
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.evaluation.instances import (
    AVERAGE_SIZES,
    InstanceCounts,
    InstanceScores,
    count_instances,
    instance_scores,
)
from bisenet_jax.evaluation.metrics import Scores, confusion_matrix, group_confusion, scores

HEIGHT, WIDTH, STREETS = 128, 256, 6
MODULE = "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling"
# What the referee's table of labels, categories and sizes says, as JSON.
READ_TABLES = f"""
import json
from cityscapesscripts.helpers.labels import labels
from {MODULE} import args
print(json.dumps([[[*label[:7]] for label in labels], args.avgClassSize]))
"""
# Labels that carry no train id: void, ground that nobody scores, caravan and trailer.
UNSCORED = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
ABSENT, ONLY_PREDICTED, ALL_MISSED = (
    CITYSCAPES.names.index(name) for name in ("train", "bus", "terrain")
)


class Frame(NamedTuple):
    """`truth` and `prediction` are train ids; the other two are what Cityscapes has on disk."""

    truth: np.ndarray
    prediction: np.ndarray
    label_ids: np.ndarray
    instance_ids: np.ndarray


class Verdict(NamedTuple):
    """What the referee wrote: its JSON file and its text."""

    data: dict[str, Any]
    text: str


@pytest.fixture(scope="session")
def referee() -> Iterator[Path]:
    """A Python with cityscapesScripts, in an environment of its own: it wants an old numpy."""
    # Not in a folder of pytest, which keeps those of the last runs: this one has 130 MB.
    with tempfile.TemporaryDirectory(prefix="bisenet_jax_referee_") as folder:
        yield make_referee(Path(folder))


def make_referee(folder: Path) -> Path:
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    commands = [
        [sys.executable, "-m", "venv", str(folder)],
        # Its viewers and downloaders want much more, and a backport of typing: left out.
        [str(python), "-m", "pip", "install", "--quiet", "--retries=1"]
        + ["--no-deps", "cityscapesscripts==2.3.0", "numpy<2.4", "pillow", "pyquaternion"],
    ]
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
        except (OSError, subprocess.SubprocessError) as error:
            said = str(getattr(error, "stderr", None) or error).strip()
            pytest.skip(f"no environment for cityscapesscripts: {said.splitlines()[-1:]}")
    return python


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [make_frame(index) for index in range(STREETS)]


@pytest.fixture(scope="module")
def verdict(referee, frames, tmp_path_factory) -> Verdict:
    return judge(referee, frames, tmp_path_factory.mktemp("judged"))


def make_frame(index: int) -> Frame:
    """A street cut into objects, and a prediction with errors of several kinds."""
    random = np.random.default_rng(index)
    _, truth = draw_street(3, index, HEIGHT, WIDTH)
    truth[np.isin(truth, (ABSENT, ONLY_PREDICTED))] = CITYSCAPES.names.index("car")
    # Edges off by a few pixels, wrong patches, and noise.
    prediction = np.roll(truth, random.integers(-1, 2, 2), axis=(0, 1))
    for _ in range(4):
        top, left = random.integers(HEIGHT - 20), random.integers(WIDTH - 40)
        prediction[top : top + 20, left : left + 40] = random.integers(len(CITYSCAPES))
    noisy = random.random(truth.shape) < 0.01
    prediction[noisy] = random.integers(0, len(CITYSCAPES), np.count_nonzero(noisy))
    # We never answer void.
    prediction[np.isin(prediction, (IGNORE, ABSENT, ALL_MISSED))] = 2
    label_ids, instance_ids = cut_into_instances(truth, random)
    return Frame(truth, prediction, label_ids, instance_ids)


def cut_into_instances(
    truth: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """`labelIds [H, W] uint8` and `instanceIds [H, W] int32` in the official encoding."""
    patches = random.integers(0, len(UNSCORED), (HEIGHT // 16, WIDTH // 16))
    label_ids = np.asarray(UNSCORED)[patches].repeat(16, axis=0).repeat(16, axis=1)
    scored = truth != IGNORE
    label_ids[scored] = np.asarray(LABEL_IDS)[truth[scored]]
    instance_ids = label_ids.astype(np.int32)
    with_objects = [LABEL_IDS[CITYSCAPES.names.index(name)] for name in AVERAGE_SIZES]
    for label_id in (*with_objects, 29, 30):
        parts, count = ndimage.label(label_ids == label_id)
        for number in range(count):
            # One in five is a crowd, which has no number.
            if random.random() < 0.8:
                instance_ids[parts == number + 1] = label_id * 1000 + number
    return label_ids.astype(np.uint8), instance_ids


def judge(python: Path, frames: list[Frame], folder: Path) -> Verdict:
    """Lay the frames out as Cityscapes does and call the referee's command."""
    truth, predictions = folder / "gtFine" / "val" / "city", folder / "predictions"
    truth.mkdir(parents=True)
    predictions.mkdir()
    for number, frame in enumerate(frames):
        name = f"city_{number:06d}_000019"
        Image.fromarray(frame.label_ids).save(truth / f"{name}_gtFine_labelIds.png")
        # Cityscapes has 16 bits here.
        instance_ids = frame.instance_ids.astype(np.uint16)
        Image.fromarray(instance_ids).save(truth / f"{name}_gtFine_instanceIds.png")
        written = np.asarray(LABEL_IDS, np.uint8)[frame.prediction]
        Image.fromarray(written).save(predictions / f"{name}.png")
    text = run_python(
        python,
        ["-m", MODULE],
        CITYSCAPES_DATASET=str(folder),
        CITYSCAPES_RESULTS=str(predictions),
        CITYSCAPES_EXPORT_DIR=str(folder),
    )
    data = json.loads((folder / "resultPixelLevelSemanticLabeling.json").read_text())
    return Verdict(data, text)


def run_python(python: Path, arguments: list[str], **environment: str) -> str:
    """What the command prints; it does not see the packages of our own environment."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=inherited | environment,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def our_scores(frames: list[Frame]) -> tuple[np.ndarray, Scores, Scores, InstanceScores]:
    """The confusion matrix, the scores of classes, of categories and of instances."""
    confusion = np.zeros((19, 19), np.int64)
    counts = InstanceCounts.none()
    for frame in frames:
        confusion += np.asarray(confusion_matrix(frame.truth, frame.prediction, 19))
        counts += count_instances(frame.prediction, frame.instance_ids)
    categories = scores(group_confusion(confusion, CITYSCAPES.categories))
    return confusion, scores(confusion), categories, instance_scores(counts, confusion)


def assert_equal_scores(named: dict[str, float], names: list[str], ours: np.ndarray) -> None:
    np.testing.assert_allclose(ours, [named[name] for name in names], rtol=1e-12, atol=0)


def test_tables_are_those_of_the_referee(referee):
    labels, sizes = json.loads(run_python(referee, ["-c", READ_TABLES]))
    scored = sorted((label for label in labels if not label[6]), key=lambda label: label[2])
    assert [label[0] for label in scored] == list(CITYSCAPES.names)
    assert [label[1] for label in scored] == list(LABEL_IDS)
    assert {label[0] for label in scored if label[5]} == AVERAGE_SIZES.keys()
    assert AVERAGE_SIZES.items() <= sizes.items()
    categories = {}
    for _, _, train_id, category, *_ in scored:
        categories[category] = (*categories.get(category, ()), train_id)
    assert categories == CITYSCAPES.categories
    assert {label[1] for label in labels if label[6] and label[1] >= 0} == set(UNSCORED)


def test_every_score_equals_the_referees(verdict, frames):
    confusion, classes, categories, instances = our_scores(frames)
    data = verdict.data
    scored = np.asarray(data["confMatrix"])[np.ix_(LABEL_IDS, LABEL_IDS)]
    np.testing.assert_array_equal(confusion, scored)
    # The frames have what the rules are about.
    assert np.isnan(classes.class_iou[ABSENT])
    assert classes.class_iou[ONLY_PREDICTED] == 0 and classes.class_pixels[ONLY_PREDICTED] == 0
    assert classes.class_iou[ALL_MISSED] == 0 and classes.class_pixels[ALL_MISSED] > 0
    assert 0.3 < classes.miou < 0.9
    assert abs(classes.miou - instances.mean_class_iou) > 0.01
    unscored = [label for label in range(34) if label not in LABEL_IDS]
    assert np.asarray(data["confMatrix"])[unscored].sum() > 0

    names, groups = list(CITYSCAPES.names), list(CITYSCAPES.categories)
    assert_equal_scores(data["classScores"], names, classes.class_iou)
    assert_equal_scores(data["classInstScores"], names, instances.class_iou)
    assert_equal_scores(data["categoryScores"], groups, categories.class_iou)
    assert_equal_scores(data["categoryInstScores"], groups, instances.category_iou)
    means = {
        "averageScoreClasses": classes.miou,
        "averageScoreInstClasses": instances.mean_class_iou,
        "averageScoreCategories": categories.miou,
        "averageScoreInstCategories": instances.mean_category_iou,
    }
    assert_equal_scores(data, list(means), np.array(list(means.values())))


def test_the_printed_table_is_ours_to_the_last_digit(verdict, frames):
    _, classes, categories, instances = our_scores(frames)
    expected = [
        *zip(CITYSCAPES.names, classes.class_iou, instances.class_iou, strict=True),
        ("Score Average", classes.miou, instances.mean_class_iou),
        *zip(CITYSCAPES.categories, categories.class_iou, instances.category_iou, strict=True),
        ("Score Average", categories.miou, instances.mean_category_iou),
    ]
    rows = re.findall(r"^(\w[\w ]*?) *: +(\d\.\d{3}|nan) +(\d\.\d{3}|nan)$", verdict.text, re.M)
    assert rows == [
        (name, f"{iou:5.3f}".strip(), f"{iiou:5.3f}".strip()) for name, iou, iiou in expected
    ]


def test_one_frame_without_objects(referee, frames, tmp_path):
    frame = frames[0]
    stuff = frame.truth < CITYSCAPES.names.index("person")
    bare = frame._replace(
        truth=np.where(stuff, frame.truth, IGNORE).astype(np.uint8),
        label_ids=np.where(stuff, frame.label_ids, 0).astype(np.uint8),
        instance_ids=np.where(stuff, frame.instance_ids, 0),
    )
    data = judge(referee, [bare], tmp_path).data
    _, classes, categories, instances = our_scores([bare])
    assert_equal_scores(data["classInstScores"], list(CITYSCAPES.names), instances.class_iou)
    assert_equal_scores(data["classScores"], list(CITYSCAPES.names), classes.class_iou)
    groups = list(CITYSCAPES.categories)
    assert_equal_scores(data["categoryScores"], groups, categories.class_iou)
    assert_equal_scores(data["categoryInstScores"], groups, instances.category_iou)
