"""Class sets by name and from a file of one's own; every mistake in the file is told."""

import json

import numpy as np
import pytest

from bisenet_jax.data.class_sets import find_class_set, find_labelling
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.errors import ConfigError, DataError

LAWN = {"name": "lawn", "colour": [60, 160, 60]}
PATH = {"name": "path", "colour": [170, 150, 120]}


def write(tmp_path, **content) -> str:
    path = tmp_path / "garden.json"
    path.write_text(json.dumps({"classes": [LAWN, PATH]} | content), encoding="utf-8")
    return str(path)


def test_values_are_places_in_the_list_by_default(tmp_path):
    class_set, coding = find_labelling(write(tmp_path, name="Gärten"))
    assert class_set.name == "Gärten" and class_set.names == ("lawn", "path")
    assert class_set.colours == ((60, 160, 60), (170, 150, 120))
    ids = coding.decode(np.array([[0, 1, 255]], np.uint8), "a")
    np.testing.assert_array_equal(ids, [[0, 1, IGNORE]])
    assert find_class_set(write(tmp_path)).name == "garden"


def test_values_may_be_any(tmp_path):
    classes = [LAWN | {"values": [10, 20]}, PATH | {"values": [0]}]
    _, coding = find_labelling(write(tmp_path, classes=classes, ignored_values=[7]))
    ids = coding.decode(np.array([[10, 20, 0, 7]], np.uint8), "a")
    np.testing.assert_array_equal(ids, [[0, 0, 1, IGNORE]])
    with pytest.raises(DataError, match="label values 255 .*garden.json allows 0, 7, 10, 20"):
        coding.decode(np.array([[255]], np.uint8), "a")


def test_masks_may_be_in_colours(tmp_path):
    _, coding = find_labelling(write(tmp_path, masks="colours", ignored_colours=[[1, 2, 3]]))
    colours = np.array([[LAWN["colour"], PATH["colour"], [1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(coding.decode(colours, "a"), [[0, 1, IGNORE]])


@pytest.mark.parametrize(
    "content, complaint",
    [
        ({"classe": []}, "unknown key 'classe'; the legal ones"),
        ({"classes": [LAWN]}, "list of 2 to 255 classes"),
        ({"classes": [LAWN, {"name": "x"}]}, "must have a name, and a colour"),
        ({"classes": [LAWN, PATH | {"colour": [0, 0, 256]}]}, "three numbers from 0 to 255"),
        ({"classes": [LAWN, PATH | {"id": 3}]}, "unknown key 'id'"),
        ({"classes": [LAWN, LAWN]}, "the name 'lawn' stands there twice"),
        ({"classes": [LAWN | {"values": [1]}, PATH]}, "the value 1 stands there twice"),
        ({"ignored_values": [0]}, "the value 0 stands there twice"),
        ({"ignored_values": [300]}, "values 300 must be whole numbers from 0 to 255"),
        ({"masks": "rgb"}, "masks 'rgb' must be values or colours"),
        ({"masks": "colours", "ignored_colours": [LAWN["colour"]]}, "twice"),
        ({"masks": "colours", "ignored_colours": [3]}, "ignored_colours .* must be a list"),
    ],
)
def test_mistakes_in_the_file(tmp_path, content, complaint):
    with pytest.raises(ConfigError, match=f"garden.json.*{complaint}"):
        find_labelling(write(tmp_path, **content))


def test_files_that_are_none(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        find_labelling(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{'a': 1}")
    with pytest.raises(ConfigError, match="is not JSON"):
        find_labelling(str(tmp_path / "bad.json"))
    with pytest.raises(ConfigError, match=r"'rooms' is not known; choose from \['camvid'"):
        find_labelling("rooms")
