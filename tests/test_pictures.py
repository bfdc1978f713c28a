"""Colours, arithmetic, sizes and refusals of the pictures; their looks are for the eye."""

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.data.classes import CAMVID, CITYSCAPES, IGNORE, ClassSet
from bisenet_jax.drawing import DARK, LIGHT, contact_sheet, write_picture
from bisenet_jax.panels import SMALLEST_PANEL, comparison
from bisenet_jax.pictures import (
    colour_mask,
    legend,
    overlay,
    with_caption,
    with_legend,
)


def scene(height: int, width: int, class_set: ClassSet = CITYSCAPES):
    """A random image, its prediction and its truth with an ignored last row."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    prediction = random.integers(0, len(class_set), (height, width), dtype=np.uint8)
    truth = prediction.copy()
    truth[-1] = IGNORE
    return image, prediction, truth


def has_colour(picture: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((picture == colour).all(axis=-1).any())


@pytest.mark.parametrize("class_set", [CITYSCAPES, CAMVID])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_mask_has_the_palette(class_set, dtype):
    labels = np.array([[*range(len(class_set)), len(class_set), IGNORE]], dtype)
    mask = colour_mask(labels, class_set)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[0], [*class_set.colours, (0, 0, 0), (0, 0, 0)])


def test_mask_of_negative_ids_is_black():
    mask = colour_mask(np.array([[-1, -250]]), CITYSCAPES)
    np.testing.assert_array_equal(mask, np.zeros((1, 2, 3)))


def test_overlay_arithmetic_and_ignored_pixel():
    image = np.array([[[12, 20, 28], [200, 100, 51], [7, 8, 9]]], np.uint8)
    labels = np.array(
        [[0, 1, IGNORE]], np.uint8
    )  # road (128, 64, 128), sidewalk (244, 35, 232)
    expected = [[[41, 31, 53], [211, 84, 96], [7, 8, 9]]]
    np.testing.assert_array_equal(overlay(image, labels, CITYSCAPES, opacity=0.25), expected)
    np.testing.assert_array_equal(overlay(image, labels, CITYSCAPES, opacity=0), image)
    opaque = overlay(image, labels, CITYSCAPES, opacity=1)
    np.testing.assert_array_equal(opaque, [[(128, 64, 128), (244, 35, 232), (7, 8, 9)]])


@pytest.mark.parametrize("class_set", [CITYSCAPES, CAMVID])
@pytest.mark.parametrize("width", [160, 900, 4000])
@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_legend_shows_every_class(class_set, width, theme):
    picture = legend(class_set, width=width, theme=theme)
    assert picture.dtype == np.uint8 and picture.shape[1:] == (width, 3)
    for colour in class_set.colours:
        assert has_colour(picture, colour)
    assert has_colour(picture, theme.text)


def test_legend_of_present_classes_only():
    picture = legend(CITYSCAPES, width=600, present=(1, 18))
    shown = [has_colour(picture, colour) for colour in CITYSCAPES.colours]
    assert [i for i, is_shown in enumerate(shown) if is_shown] == [1, 18]
    assert legend(CITYSCAPES, width=600, present=()).shape == (0, 600, 3)


def test_legend_takes_more_rows_when_narrow():
    assert len(legend(CITYSCAPES, width=300)) > len(legend(CITYSCAPES, width=900))


def test_legend_grows_with_its_font():
    assert len(legend(CAMVID, width=2000, em=32)) > len(legend(CAMVID, width=1000, em=16))


def test_legend_refuses_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="width 20 "):
        legend(CITYSCAPES, width=20)
    with pytest.raises(ValueError, match=r"\[3, 19\].*18"):
        legend(CITYSCAPES, width=600, present=[3, 19])
    with pytest.raises(ValueError, match=r"\[-1\].*18"):
        comparison(*scene(64, 64), CITYSCAPES, named=[-1])


@pytest.mark.parametrize("has_truth", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (97, 143), (300, 40), (1024, 2048)])
def test_comparison_at_every_size(size, has_truth):
    image, prediction, truth = scene(*size)
    picture = comparison(image, prediction, truth if has_truth else None, CITYSCAPES)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    panels_across = 2 if not has_truth or size == (1024, 2048) else 4
    assert picture.shape[1] > panels_across * size[1]
    assert picture.shape[0] > size[0]


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (256, 512), (1500, 3)])
@pytest.mark.parametrize("columns", [1, 2, 4])
def test_text_never_leaves_its_place(size, columns):
    picture = comparison(*scene(*size), CITYSCAPES, columns=columns, title="a title " * 99)
    assert (picture[:, -8:] == 255).all() and (picture[-8:] == 255).all()


def test_captions_do_not_touch_on_narrow_panels():
    image, _, truth = scene(1500, 3)
    blank = np.full_like(image, 255)
    nothing = np.full_like(truth, IGNORE)
    picture = comparison(blank, nothing, nothing, CITYSCAPES, columns=4)
    # Only the captions are not white: each run of blank columns wider than a word's space
    # parts two of them.
    runs = "".join(" " if (column == 255).all() else "x" for column in picture.swapaxes(0, 1))
    assert len(runs.strip().replace(" " * 8, "|").split("|")) >= 4
    assert has_colour(picture, LIGHT.text)


def test_one_narrow_column_is_as_wide_as_its_legend():
    image, prediction, _ = scene(1500, 3)
    bare = comparison(image, prediction, None, CITYSCAPES, columns=1, named=())
    named = comparison(image, prediction, None, CITYSCAPES, columns=1, named=range(19))
    assert named.shape[1] > bare.shape[1]


def test_comparison_keeps_the_pixels_of_its_panels():
    image, prediction, truth = scene(80, 300)
    picture = comparison(image, prediction, truth, CITYSCAPES, opacity=0.5)
    for panel in (image, overlay(image, prediction, CITYSCAPES, opacity=0.5)):
        corners = np.argwhere((picture[:-80, :-300] == panel[0, 0]).all(axis=-1))
        assert any(
            np.array_equal(picture[top : top + 80, left : left + 300], panel)
            for top, left in corners
        )


def test_small_image_is_enlarged_in_whole_pixels():
    image = np.zeros((64, 64, 3), np.uint8)
    image[20, 30] = (255, 0, 254)  # not a colour of the legend
    labels = np.full((64, 64), IGNORE, np.uint8)
    picture = comparison(image, labels, None, CITYSCAPES)
    zoom = SMALLEST_PANEL // 64
    # Once in the image and once in the prediction, which has no class to tint it with.
    assert (picture == (255, 0, 254)).all(axis=-1).sum() == 2 * zoom**2


def test_truth_adds_panels_and_a_title_adds_height():
    image, prediction, truth = scene(64, 64)
    bare = comparison(image, prediction, None, CITYSCAPES, named=())
    full = comparison(image, prediction, truth, CITYSCAPES, named=())
    assert full.shape[1] > bare.shape[1]
    titled = comparison(image, prediction, truth, CITYSCAPES, named=(), title="a title " * 99)
    assert titled.shape[1] == full.shape[1] and titled.shape[0] > full.shape[0]
    assert comparison(image, prediction, truth, CITYSCAPES).shape[0] > full.shape[0]


def test_columns_arrange_the_panels():
    maps = scene(64, 64)
    one, two, four = (comparison(*maps, CAMVID, columns=n, named=()) for n in (1, 2, 4))
    assert one.shape[0] > two.shape[0] > four.shape[0]
    assert one.shape[1] < two.shape[1] < four.shape[1]
    with pytest.raises(ValueError, match="columns 5"):
        comparison(*maps, CAMVID, columns=5)


def test_errors_are_marked_where_truth_counts():
    image = np.full((256, 256, 3), 90, np.uint8)
    truth = np.zeros((256, 256), np.uint8)
    truth[:128] = IGNORE
    right, wrong = np.zeros_like(truth), np.zeros_like(truth)
    wrong[:] = 1
    reds = []
    for prediction in (right, wrong):
        picture = comparison(image, prediction, truth, CAMVID, named=()).astype(int)
        reds.append(((picture[..., 0] - picture[..., 1]) > 100).sum())
    assert reds == [0, 128 * 256]


def test_legend_of_a_comparison_names_what_occurs():
    image = np.zeros((64, 300, 3), np.uint8)
    prediction, truth = np.full((64, 300), 8, np.uint8), np.full((64, 300), 10, np.uint8)
    picture = comparison(image, prediction, truth, CITYSCAPES)
    shown = [has_colour(picture, colour) for colour in CITYSCAPES.colours]
    assert [i for i, is_shown in enumerate(shown) if is_shown] == [8, 10]
    picture = comparison(image, prediction, truth, CITYSCAPES, named=range(19))
    assert all(has_colour(picture, colour) for colour in CITYSCAPES.colours)


def test_contact_sheet_stacks_and_centres():
    wide = np.full((2, 7, 3), 10, np.uint8)
    narrow = np.full((3, 3, 3), 20, np.uint8)
    sheet = contact_sheet([wide, narrow])
    assert sheet.shape == (5, 7, 3)
    np.testing.assert_array_equal(sheet[:2], wide)
    np.testing.assert_array_equal(sheet[2:, 2:5], narrow)
    assert (sheet[2:, :2] == 255).all() and (sheet[2:, 5:] == 255).all()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


def test_written_picture_reads_back(tmp_path):
    image, _, _ = scene(5, 7)
    path = tmp_path / "new" / "picture.png"
    write_picture(path, image)
    with Image.open(path) as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(np.asarray(read), image)
    assert list(path.parent.iterdir()) == [path]


def test_bad_arrays_are_named():
    image, labels, _ = scene(8, 9)
    with pytest.raises(ValueError, match=r"\[8, 9\] float64"):
        colour_mask(labels / 1.0, CITYSCAPES)
    with pytest.raises(ValueError, match=r"\[1, 8, 9\]"):
        colour_mask(labels[None], CITYSCAPES)
    with pytest.raises(ValueError, match="float32"):
        overlay(image.astype(np.float32), labels, CITYSCAPES)
    with pytest.raises(ValueError, match=r"\[9, 8\].*\[8, 9\]"):
        overlay(image, labels.T, CITYSCAPES)
    with pytest.raises(ValueError, match=r"1\.5"):
        overlay(image, labels, CITYSCAPES, opacity=1.5)
    with pytest.raises(ValueError, match=r"\[8, 9, 1\]"):
        comparison(image[..., :1], labels, None, CITYSCAPES)
    with pytest.raises(ValueError, match=r"prediction \[7, 9\]"):
        comparison(image, labels[:7], None, CITYSCAPES)
    with pytest.raises(ValueError, match=r"truth \[8, 5\]"):
        comparison(image, labels, labels[:, :5], CITYSCAPES)
    with pytest.raises(ValueError, match=r"\[8, 9\]"):
        contact_sheet([image, labels])
    with pytest.raises(ValueError, match="float64"):
        write_picture("never.png", image / 255)


def test_with_legend():
    image = np.full((40, 300, 3), 7, np.uint8)
    both = with_legend(image, CITYSCAPES, [0, 10])
    np.testing.assert_array_equal(both[:40], image)
    assert both.shape[1] == 300 and len(both) > 55
    below = both[40:].reshape(-1, 3)
    for class_id, is_named in ((0, True), (10, True), (13, False)):
        assert (below == CITYSCAPES.colours[class_id]).all(1).any() == is_named
    # Names that need more room than the picture has widen it.
    narrow = with_legend(image[:, :20], CITYSCAPES)
    left = (narrow.shape[1] - 20) // 2
    assert left > 20
    np.testing.assert_array_equal(narrow[:40, left : left + 20], image[:, :20])
    np.testing.assert_array_equal(with_legend(image, CITYSCAPES, []), image)


def test_with_caption():
    image = np.full((64, 300, 3), 128, np.uint8)
    captioned = with_caption(image, "12.3 frames/s")
    changed = (captioned != image).any(2)
    assert captioned.shape == image.shape and changed[:20, :40].mean() > 0.9
    assert not changed[30:].any() and not changed[:, 200:].any()
    longer = (with_caption(image, "112.34 frames/s") != image).any(2)
    assert longer.sum() > changed.sum()
    assert with_caption(image[:8, :8], "too long for so small a picture").shape == (8, 8, 3)
