"""Stored values and colours become class ids, or the file is refused by name."""

import pickle

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.data.classes import CAMVID, IGNORE
from bisenet_jax.data.coding import colour_coding, id_coding, plain_ids
from bisenet_jax.errors import DataError

RED, GREEN, BLACK = (255, 0, 0), (0, 200, 10), (0, 0, 0)


def test_values_become_ids():
    coding = id_coding({3: 0, 7: 1, 8: 1, 0: IGNORE}, "only these")
    values = np.array([[3, 7], [8, 0]], np.uint8)
    ids = coding.decode(values, "a.png")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, [[0, 1], [1, IGNORE]])


def test_unknown_values_are_refused_with_the_rule():
    coding = plain_ids(CAMVID)
    every = np.array([[*range(len(CAMVID)), IGNORE]], np.uint8)
    np.testing.assert_array_equal(coding.decode(every, "a.png"), every)
    with pytest.raises(DataError, match=r"b\.png: label values 11, 254 are no class ids.*10"):
        coding.decode(np.array([[254, 11, 0]], np.uint8), "b.png")


def test_colours_become_ids(tmp_path):
    coding = colour_coding({RED: 0, GREEN: 1, BLACK: IGNORE})
    colours = np.array([[RED, GREEN], [BLACK, RED]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    ids = coding.read(tmp_path / "a.png")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, [[0, 1], [IGNORE, 0]])
    # The same map as a palette picture.
    Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "b.png"
    )
    np.testing.assert_array_equal(coding.read(tmp_path / "b.png"), ids)


def test_unknown_colours_are_refused_or_ignored():
    colours = np.array([[RED, (255, 0, 1)], [(9, 9, 9), (255, 0, 1)]], np.uint8)
    strict = colour_coding({RED: 0})
    with pytest.raises(DataError, match=r"c\.png: 2 colours.*\(255, 0, 1\) \(2 pixels\), \(9"):
        strict.decode(colours, "c.png")
    lenient = colour_coding({RED: 0}, ignores_others=True)
    np.testing.assert_array_equal(lenient.decode(colours, "c"), [[0, IGNORE]] + [[IGNORE] * 2])


def test_a_grey_map_is_no_colour_map(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"grey\.png: label map is grey, but.*map in colours"):
        colour_coding({RED: 0}).read(tmp_path / "grey.png")


def test_codings_survive_pickling():
    coding = pickle.loads(pickle.dumps(plain_ids(CAMVID)))
    np.testing.assert_array_equal(coding.table, plain_ids(CAMVID).table)
