"""Class sets by name, or from the one small file that describes a data set of one's own.

{
  "name": "garden",
  "classes": [
    {"name": "lawn", "colour": [60, 160, 60]},
    {"name": "path", "colour": [170, 150, 120], "values": [1, 4]}
  ],
  "ignored_values": [255]
}

The values of a class are those that its pixels have in the label maps, by default its place in
the list. With `"masks": "colours"` the label maps show each class in its colour instead, and
`ignored_colours` lists those of no class.
"""

from pathlib import Path
from typing import Any, NamedTuple

from bisenet_jax.data.classes import CAMVID, CAMVID_EXACT, CITYSCAPES, IGNORE, ClassSet
from bisenet_jax.data.coco_stuff_classes import COCO_STUFF
from bisenet_jax.data.coding import Coding, colour_coding, first_few, id_coding, plain_ids
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import read_json

CLASS_SETS = {
    class_set.name: class_set for class_set in (CITYSCAPES, CAMVID, CAMVID_EXACT, COCO_STUFF)
}

_KEYS = {"name", "classes", "masks", "ignored_values", "ignored_colours"}
_CLASS_KEYS = {"name", "colour", "values"}
_LONGEST_NAME = 100  # of a class or a set: names are drawn beside their colours


class Labelling(NamedTuple):
    """Classes, and what the pixels of their label maps mean."""

    class_set: ClassSet
    coding: Coding


def find_class_set(name: str) -> ClassSet:
    """The built-in class set of that name, or that of a class file (`.json`)."""
    return find_labelling(name).class_set


def find_labelling(name: str) -> Labelling:
    """Classes and coding by a built-in name, whose values are ids, or from a class file.

    Raises:
        ConfigError: lists the known names, or says what is wrong in the file.
    """
    if name in CLASS_SETS:
        return Labelling(CLASS_SETS[name], plain_ids(CLASS_SETS[name]))
    if name.endswith(".json"):
        return read_class_file(Path(name).expanduser())
    raise ConfigError(
        f"class set {name!r} is not known; choose from {sorted(CLASS_SETS)}, or give the path "
        "of a class file (.json)"
    )


def read_class_file(path: Path) -> Labelling:
    """Read the file that the head of this module shows; a ConfigError says what is wrong."""
    content = read_json(path, "mend the class file or config.data.classes", ConfigError)
    _check_keys(path, "the file", content, _KEYS)
    classes = content.get("classes")
    if not isinstance(classes, list) or not 2 <= len(classes) <= IGNORE:
        raise ConfigError(f"class file {path}: classes must be a list of 2 to {IGNORE} classes")
    for entry in classes:
        _check_keys(path, f"class {entry!r}", entry, _CLASS_KEYS)
        if not _is_name(entry.get("name")) or not _is_colour(entry.get("colour")):
            raise ConfigError(
                f"class file {path}: class {entry!r} must have a name, and a colour of "
                f"three numbers from 0 to 255; a name has 1 to {_LONGEST_NAME} characters"
            )
    name = content.get("name", path.stem)
    if not _is_name(name):
        raise ConfigError(
            f"class file {path}: name {name!r} must be a text of 1 to {_LONGEST_NAME} "
            "characters, such as garden"
        )
    class_set = ClassSet(
        name=name,
        names=tuple(entry["name"] for entry in classes),
        colours=tuple(tuple(entry["colour"]) for entry in classes),
    )
    _refuse_twice(path, "name", class_set.names)
    masks = content.get("masks", "values")
    if masks == "values":
        return Labelling(class_set, _value_coding(path, content, class_set))
    if masks == "colours":
        return Labelling(class_set, _colours_of_classes(path, content, class_set))
    raise ConfigError(f"class file {path}: masks {masks!r} must be values or colours")


def _value_coding(path: Path, content: dict[str, Any], class_set: ClassSet) -> Coding:
    lists = [(IGNORE, content.get("ignored_values", [IGNORE]))]
    for class_id, entry in enumerate(content["classes"]):
        lists.append((class_id, entry.get("values", [class_id])))
    for _, listed in lists:
        if not isinstance(listed, list):
            raise ConfigError(
                f"class file {path}: values {listed!r} must be a list, such as [1, 4]"
            )
    pairs = [(value, class_id) for class_id, listed in lists for value in listed]
    values = [value for value, _ in pairs]
    if wrong := [value for value in values if not _is_byte(value)]:
        raise ConfigError(
            f"class file {path}: values {first_few(wrong)} must be whole numbers from 0 to 255"
        )
    _refuse_twice(path, "value", values)
    rule = f"{path.name} allows {first_few(sorted(values), 30)}"
    return id_coding(dict(pairs), rule)


def _colours_of_classes(path: Path, content: dict[str, Any], class_set: ClassSet) -> Coding:
    ignored = content.get("ignored_colours", [[0, 0, 0]])
    if not isinstance(ignored, list) or not all(map(_is_colour, ignored)):
        raise ConfigError(
            f"class file {path}: ignored_colours {ignored!r} must be a list of colours of "
            "three numbers from 0 to 255"
        )
    colours = [*class_set.colours, *(tuple(colour) for colour in ignored)]
    _refuse_twice(path, "colour", colours)
    ids = [*range(len(class_set)), *(IGNORE for _ in ignored)]
    return colour_coding(dict(zip(colours, ids, strict=True)))


def _check_keys(path: Path, what: str, content: Any, legal: set[str]) -> None:
    if not isinstance(content, dict):
        raise ConfigError(f"class file {path}: {what} must be a table of {sorted(legal)}")
    if unknown := sorted(content.keys() - legal):
        raise ConfigError(
            f"class file {path}: {what} has the unknown key {unknown[0]!r}; the legal ones are "
            f"{sorted(legal)}"
        )


def _refuse_twice(path: Path, what: str, items: Any) -> None:
    seen = set()
    for item in items:
        if item in seen:
            raise ConfigError(
                f"class file {path}: the {what} {item!r} stands there twice; it must be unique"
            )
        seen.add(item)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_byte, value))
