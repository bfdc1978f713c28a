"""The synthetic streets: same bytes always, all classes, and no class told by its colour."""

import hashlib
import pickle

import numpy as np
import pytest

from bisenet_jax.data.classes import CITYSCAPES, IGNORE
from bisenet_jax.data.synthetic import DRAWING, SyntheticStreets, draw_street
from bisenet_jax.errors import ConfigError

CLASSES = len(CITYSCAPES)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_street(seed=7, index=i, height=128, width=256) for i in range(50)]


def test_same_seed_and_index_give_the_same_bytes():
    for a, b in zip(draw_street(3, 5, 96, 160), draw_street(3, 5, 96, 160), strict=True):
        assert a.tobytes() == b.tobytes()


def test_another_drawing_has_another_number():
    # The label map, for colours are floats before they are bytes.
    digest = hashlib.sha256(draw_street(3, 5, 96, 160)[1].tobytes()).hexdigest()
    known = {1: "82320d4e8cea8dcc607aa0c7410146d283be915b737eedf95f7889febe47d5f2"}
    assert known.get(DRAWING) == digest, "raise DRAWING, for caches, and write its digest here"


def test_drawing_other_scenes_in_between_changes_nothing():
    streets = SyntheticStreets(images=4, height=64, width=128)
    backwards = [streets[i]["image"] for i in (3, 2, 1, 0)][::-1]
    for i, image in enumerate(backwards):
        np.testing.assert_array_equal(streets[i]["image"], image)


@pytest.mark.parametrize("other", [(3, 6), (4, 5)])
def test_another_index_or_seed_gives_another_scene(other):
    image, label = draw_street(3, 5, 96, 160)
    other_image, other_label = draw_street(*other, 96, 160)
    assert (image != other_image).mean() > 0.5
    assert (label != other_label).mean() > 0.05


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (256, 512), (200, 65), (64, 300)])
def test_shape_and_values_at_any_size(size):
    for index in range(4):
        image, label = draw_street(0, index, *size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8
        assert set(np.unique(label)) <= {*range(CLASSES), IGNORE}
        assert image.std() > 8  # a picture, not a blank
        assert len(np.unique(label)) > 4


def test_a_large_scene_shows_the_same_layout_as_a_small_one():
    _, small = draw_street(0, 1, 128, 256)
    _, large = draw_street(0, 1, 512, 1024)
    # Ragged trees and thin things differ; the bulk of the scene must not.
    assert (large[2::4, 2::4] == small).mean() > 0.8


def test_every_class_occurs_often_enough(scenes):
    counts = np.stack([np.bincount(label.ravel(), minlength=256) for _, label in scenes])
    present = (counts[:, :CLASSES] >= 5).mean(axis=0)
    for name, share in zip(CITYSCAPES.names, present, strict=True):
        assert share >= 0.2, f"{name} is in {share:.0%} of the scenes"


def test_shares_of_classes_are_like_a_street(scenes):
    counts = np.bincount(np.concatenate([label.ravel() for _, label in scenes]), minlength=256)
    shares = dict(zip(CITYSCAPES.names, counts[:CLASSES] / counts.sum(), strict=True))
    assert counts[IGNORE] / counts.sum() < 0.1
    assert max(shares.values()) < 0.5
    assert min(shares.values()) > 0.0005
    assert sum(shares[name] for name in ("road", "building", "vegetation")) > 0.5


def test_colour_alone_does_not_tell_the_class(scenes):
    assert _table_iou(scenes, row_bins=1) < 0.25


def test_colour_and_row_do_not_tell_the_class(scenes):
    assert _table_iou(scenes, row_bins=16) < 0.40


def test_items_have_names_and_iteration_ends():
    streets = SyntheticStreets(images=18, height=64, width=64, seed=2)
    assert streets[17]["name"] == streets.name(17) == "street_000017"
    assert len(streets) == 18 and len(list(streets)) == 18
    image, label = draw_street(2, 17, 64, 64)
    np.testing.assert_array_equal(streets[17]["image"], image)
    np.testing.assert_array_equal(streets[17]["label"], label)
    for index in (-1, 18):
        with pytest.raises(IndexError, match=f"index {index} is outside of 0 to 17"):
            streets[index]


def test_a_pickled_copy_draws_the_same():
    streets = SyntheticStreets(images=3, height=64, width=96, seed=1)
    copy = pickle.loads(pickle.dumps(streets))
    np.testing.assert_array_equal(copy[2]["image"], streets[2]["image"])


def test_items_can_be_written_to_without_changing_later_ones():
    streets = SyntheticStreets(images=1, height=64, width=64)
    first = streets[0]["image"].copy()
    streets[0]["image"][:] = 0
    np.testing.assert_array_equal(streets[0]["image"], first)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": 0}, "images is 0 but must be at least 1"),
        ({"images": 1, "height": 63}, "height is 63 but must be at least 64"),
        ({"images": 1, "width": 8}, "width is 8 but must be at least 64"),
        ({"images": 1, "seed": -1}, "seed is -1 but must not be negative"),
    ],
)
def test_wrong_values_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SyntheticStreets(**wrong)


def _table_iou(scenes: list[tuple[np.ndarray, np.ndarray]], row_bins: int) -> float:
    """Mean IoU on the last 12 scenes of a table from colour and row, made from the others."""
    cells = 16**3 * row_bins

    def cell(image: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(image.astype(np.int64) >> 4, -1, 0)
        row = np.arange(len(image))[:, None] * row_bins // len(image)
        return ((row * 16 + red) * 16 + green) * 16 + blue

    seen = np.zeros((cells, CLASSES), np.int64)
    for image, label in scenes[:-12]:
        known = label != IGNORE
        pairs = cell(image)[known] * CLASSES + label[known]
        seen += np.bincount(pairs, minlength=cells * CLASSES).reshape(cells, CLASSES)
    table = seen.argmax(axis=1)
    confusion = np.zeros((CLASSES, CLASSES), np.int64)
    for image, label in scenes[-12:]:
        known = label != IGNORE
        pairs = label[known].astype(np.int64) * CLASSES + table[cell(image)[known]]
        confusion += np.bincount(pairs, minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    hits = np.diag(confusion)
    mean_iou = float((hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)).mean())
    print(f"mean IoU of a table with {row_bins} rows: {mean_iou:.3f}")
    return mean_iou
