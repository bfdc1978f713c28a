"""The picture of a confusion matrix: what is drawn where, for few classes and for many."""

import numpy as np
import pytest

from bisenet_jax.data.classes import CAMVID, CITYSCAPES, ClassSet
from bisenet_jax.drawing import DARK, ERROR_COLOUR
from bisenet_jax.evaluation.confusion_picture import HIT_COLOUR, confusion_picture


def make_class_set(count: int) -> ClassSet:
    names = tuple(f"class {i}" for i in range(count))
    return ClassSet(name="many", names=names, colours=((0, 0, 0),) * count)


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether the matrix, which is all but the scale below it, holds that colour."""
    return bool((picture[:-90] == colour).all(axis=-1).any())


@pytest.mark.parametrize("class_set", [CAMVID, CITYSCAPES, make_class_set(171)])
def test_rows_have_room_for_their_names(class_set):
    count = len(class_set)
    picture = confusion_picture(np.eye(count, dtype=np.int64), class_set)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert min(picture.shape[:2]) >= 13 * count
    assert max(picture.shape[:2]) < 3000
    assert has_colour(picture, HIT_COLOUR) and not has_colour(picture, ERROR_COLOUR)


def test_a_hit_is_blue_and_an_error_red():
    pair = make_class_set(2)
    right = confusion_picture(np.array([[5, 0], [0, 1]]), pair)
    wrong = confusion_picture(np.array([[0, 5], [1, 0]]), pair)
    assert has_colour(right, HIT_COLOUR) and not has_colour(right, ERROR_COLOUR)
    assert has_colour(wrong, ERROR_COLOUR) and not has_colour(wrong, HIT_COLOUR)


def test_rows_are_normalised():
    pair = make_class_set(2)
    once = confusion_picture(np.array([[3, 1], [0, 2]]), pair)
    often = confusion_picture(np.array([[3, 1], [0, 2]]) * [[10**9], [7]], pair)
    np.testing.assert_array_equal(once, often)
    transposed = confusion_picture(np.array([[3, 0], [1, 2]]), pair)
    assert (once != transposed).any()


def test_a_class_without_truth_differs_from_one_never_hit():
    pair = make_class_set(2)
    absent = confusion_picture(np.array([[3, 0], [0, 0]]), pair)
    missed = confusion_picture(np.array([[3, 0], [1, 0]]), pair)
    assert absent.shape == missed.shape and (absent != missed).any()


def test_title_theme_and_size_are_seen():
    pair, confusion = make_class_set(2), np.array([[3, 1], [0, 2]])
    plain = confusion_picture(confusion, pair)
    titled = confusion_picture(confusion, pair, title="a title that is wider than the matrix")
    assert len(titled) > len(plain) and titled.shape[1] >= plain.shape[1]
    dark = confusion_picture(confusion, pair, theme=DARK)
    assert dark.shape == plain.shape and tuple(dark[0, 0]) == DARK.background
    large = confusion_picture(confusion, pair, em=26)
    assert large.shape[0] > 1.8 * plain.shape[0]


def test_wrong_class_set_is_named():
    with pytest.raises(ValueError, match=r"\(3, 3\).*2 classes.*'many'"):
        confusion_picture(np.eye(3, dtype=int), make_class_set(2))
