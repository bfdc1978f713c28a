"""One matrix out of a MATLAB file of level 5, which every version from 5 to 7 writes.

Own code, since scipy's reader ends the process on some damaged files: each place is looked up
within the bytes that are there, and nothing is made larger than `MAX_BYTES`.
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

MAX_BYTES = 2**28  # of one variable, unpacked

_HEADER = 128
_ORDERS = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"} | {
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"}
}
_CLASSES_OF_NUMBERS = range(6, 16)
_IS_COMPLEX = 0x0800


class _Element(NamedTuple):
    kind: int
    content: bytes


def read_matrix(data: bytes, name: str) -> np.ndarray | None:
    """The real matrix `[H, W]` of that name in a file's content; None where there is none.

    Raises:
        ValueError: for what is damaged, or of another version.
    """
    order = _ORDERS.get(data[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("it does not begin as a MATLAB file of level 5; save it with -v7")
    version = struct.unpack_from(order + "H", data, _HEADER - 4)[0]
    if version != 0x0100:
        raise ValueError(f"its version is {version:#06x}, not 0x0100; save it with -v7")
    for element in _elements(data, order, _HEADER):
        if element.kind == _COMPRESSED:
            element = next(_elements(_unpack(element.content), order), element)
        if element.kind == _MATRIX:
            parts = _elements(element.content, order)
            flags, dimensions, found = (next(parts, None) for _ in range(3))
            if flags and dimensions and found and found.content == name.encode():
                return _matrix(flags, dimensions, next(parts, None), order)
    return None


def _elements(data: bytes, order: str, place: int = 0) -> Iterator[_Element]:
    while place < len(data):
        if len(data) - place < 8:
            raise ValueError(f"it ends within the tag at byte {place}")
        kind, size = struct.unpack_from(order + "II", data, place)
        start = place + 8
        padded = size if kind == _COMPRESSED else size + -size % 8
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size, start, padded = kind & 0xFFFF, kind >> 16, place + 4, 4
        place = start + padded
        if start + size > len(data):
            raise ValueError(f"it ends within the {size} bytes at byte {start}")
        yield _Element(kind, data[start : start + size])


def _unpack(content: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(content, MAX_BYTES)
    except zlib.error as error:
        raise ValueError(f"a variable cannot be unpacked: {error}") from error
    if not unpacker.eof:
        raise ValueError(f"a variable is cut off, or has more than {MAX_BYTES:,} bytes")
    return unpacked


def _matrix(
    flags: _Element, dimensions: _Element, values: _Element | None, order: str
) -> np.ndarray | None:
    if len(flags.content) < 4 or len(dimensions.content) != 8:
        return None
    word = struct.unpack_from(order + "I", flags.content)[0]
    shape = struct.unpack_from(order + "ii", dimensions.content)
    if word & 0xFF not in _CLASSES_OF_NUMBERS or word & _IS_COMPLEX or values is None:
        return None
    if values.kind not in _DTYPES:
        raise ValueError(f"its numbers are of the unknown type {values.kind}")
    dtype = np.dtype(order + _DTYPES[values.kind])
    if min(shape) < 0 or math.prod(shape) * dtype.itemsize != len(values.content):
        raise ValueError(f"a matrix of {shape} has {len(values.content)} bytes of {dtype}")
    return np.frombuffer(values.content, dtype).reshape(shape, order="F")
