"""What the pixels of a label map on disk mean: from stored values or colours to class ids.

Every data set codes its classes in its own way. A coding turns what a decoder gives into ids
from 0 to N - 1, and `IGNORE` for all that carries no class; it never guesses.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.data.decode import read_colours, read_label
from bisenet_jax.errors import DataError

UNKNOWN = -1  # in a table: this value must not occur


@dataclass(frozen=True, eq=False)
class IdCoding:
    """Stored values stand for classes.

    Attributes:
        table: `[256] int16`, of each stored value the class id, `IGNORE` or `UNKNOWN`.
        rule: the allowed values in words, for error messages.
    """

    table: np.ndarray
    rule: str

    def read(self, path: Path) -> np.ndarray:
        """The class ids in a PNG file, `[H, W] uint8`; a DataError names the file."""
        return self.decode(read_label(path), str(path))

    def decode(self, values: np.ndarray, name: str) -> np.ndarray:
        """Class ids of stored values, both `[H, W] uint8`; `name` is for error messages."""
        # By translation of bytes: indexing the table would widen every pixel to an index first.
        stored, is_unknown = values.tobytes(), self.table == UNKNOWN
        if b"\1" in stored.translate(is_unknown.tobytes()):
            wrong = first_few(np.flatnonzero(is_unknown & _occurs(values)).tolist())
            raise DataError(
                f"{name}: label values {wrong} are no class ids; {self.rule}: convert the "
                "label maps to these ids, or choose the class set they were made for"
            )
        ids = stored.translate(self.table.astype(np.uint8).tobytes())
        return np.frombuffer(ids, np.uint8).reshape(values.shape)

    def fingerprint(self) -> str:
        """Equal for codings that give equal ids."""
        return hashlib.sha256(b"ids" + self.table.tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class ColourCoding:
    """Stored colours stand for classes.

    Attributes:
        keys: `[K] int32` ascending, the known colours as 0xRRGGBB.
        ids: `[K] uint8`, their class ids, or `IGNORE`.
        ignores_others: whether any other colour is ignored; otherwise it is an error.
    """

    keys: np.ndarray
    ids: np.ndarray
    ignores_others: bool

    def read(self, path: Path) -> np.ndarray:
        """The class ids in a PNG file, `[H, W] uint8`; a DataError names the file."""
        return self.decode(read_colours(path), str(path))

    def decode(self, colours: np.ndarray, name: str) -> np.ndarray:
        """Class ids `[H, W] uint8` of colours `[H, W, 3] uint8`; `name` is for errors."""
        red, green, blue = (colours[..., channel].astype(np.int32) for channel in range(3))
        pixels = red << 16 | green << 8 | blue
        places = np.minimum(np.searchsorted(self.keys, pixels), len(self.keys) - 1)
        is_known = self.keys[places] == pixels
        if not self.ignores_others and not is_known.all():
            others, counts = np.unique(pixels[~is_known], return_counts=True)
            shown = [f"{_rgb(others[i])} ({counts[i]} pixels)" for i in np.argsort(-counts)[:5]]
            raise DataError(
                f"{name}: {len(others)} colours belong to no class: {', '.join(shown)}; add "
                "them to the class file, as a class or under ignored_colours, or save the map "
                "without anti-aliasing and without JPEG in between"
            )
        return np.where(is_known, self.ids[places], np.uint8(IGNORE))

    def fingerprint(self) -> str:
        """Equal for codings that give equal ids."""
        content = self.keys.tobytes() + self.ids.tobytes() + bytes([self.ignores_others])
        return hashlib.sha256(b"colours" + content).hexdigest()


Coding = IdCoding | ColourCoding


def plain_ids(class_set: ClassSet) -> IdCoding:
    """Stored values are class ids already; `IGNORE` is allowed beside them."""
    ids = {value: value for value in (*range(len(class_set)), IGNORE)}
    rule = f"class set {class_set.name!r} allows 0 to {len(class_set) - 1}, and {IGNORE} for "
    return id_coding(ids, rule + "ignored pixels")


def id_coding(ids: Mapping[int, int], rule: str) -> IdCoding:
    """A coding of the given stored values; all others are errors that quote the rule."""
    table = np.full(256, UNKNOWN, np.int16)
    for value, class_id in ids.items():
        table[value] = class_id
    return IdCoding(table, rule)


def colour_coding(
    ids: Mapping[tuple[int, int, int], int], *, ignores_others: bool = False
) -> ColourCoding:
    """A coding of the given colours, red, green and blue from 0 to 255."""
    keyed = sorted((r << 16 | g << 8 | b, class_id) for (r, g, b), class_id in ids.items())
    keys, values = zip(*keyed, strict=True)
    return ColourCoding(np.array(keys, np.int32), np.array(values, np.uint8), ignores_others)


def first_few(items: Iterable[object], count: int = 5) -> str:
    """The first items as a list in words."""
    names = [str(item) for item in items]
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _occurs(values: np.ndarray) -> np.ndarray:
    """Which of the 256 values an array holds, `[256] bool`."""
    return np.bincount(values.ravel(), minlength=256) > 0


def _rgb(key: int) -> str:
    return f"({key >> 16}, {key >> 8 & 255}, {key & 255})"
