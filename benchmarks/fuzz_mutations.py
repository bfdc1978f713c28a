"""Ways to damage a file: bits, lengths and numbers, with the sums inside it put right again."""

import copy
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator

ODD_VALUES: list[Any] = [
    *(None, True, -1, 0, 10**9, 2**63, 10**400, 1e308, -0.5, math.nan, math.inf),
    *("", "\0", "\ud800", "x" * 10_000, "../../etc/passwd", [], {}, [[]], [None], {"": {}}),
    *([0] * 10_000, "float32", "adamantine", [1, 2, 3], 255, 256),
]
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def mutate(suffix: str, content: bytes, others: list[bytes], random: Random) -> bytes:
    """The content damaged in one way or several; checksums are often made right again."""
    by_form: dict[str, Callable[[bytes, Random], bytes]] = {
        ".json": _change_json,
        ".png": _change_png,
        ".safetensors": _change_header,
        ".npz": _change_member,
        ".pth": _change_member,
        ".zip": _change_member,
    }
    if suffix in by_form and random.random() < 0.6:
        return by_form[suffix](content, random)
    return _damage(content, random, others)


def _damage(content: bytes, random: Random, others: list[bytes] | None = None) -> bytes:
    data = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        if not data:
            break
        # Half of all places are near the beginning, where the headers are.
        reach = len(data) if random.random() < 0.5 else min(len(data), 200)
        place = int(random.integers(reach))
        way = random.integers(6)
        if way == 0:
            for _ in range(int(random.integers(1, 9))):
                data[int(random.integers(reach))] ^= 1 << int(random.integers(8))
        elif way == 1:
            del data[int(random.integers(len(data))) :]
        elif way == 2:
            order = ">" if random.random() < 0.5 else "<"
            data[place : place + 4] = struct.pack(order + "I", _NUMBERS[random.integers(9)])
        elif way == 3:
            other = (others or [content])[int(random.integers(len(others or [0])))]
            start = int(random.integers(max(len(other), 1)))
            data[place:place] = other[start : start + int(random.integers(1, 2000))]
        elif way == 4:
            del data[place : place + int(random.integers(1, 64))]
        else:
            data[place : place + 16] = bytes([int(random.choice([0, 255, 65]))]) * 16
    return bytes(data)


def _change_json(content: bytes, random: Random) -> bytes:
    tree = json.loads(content)
    for _ in range(int(random.integers(1, 3))):
        _change_node(tree, random)
    # nan and infinity are no JSON, but Python reads them.
    return json.dumps(tree).encode()


def _change_node(tree: Any, random: Random) -> None:
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[int(random.integers(len(keys)))]
        below = node[key]
        if isinstance(below, dict | list) and below and random.random() < 0.8:
            node = below
            continue
        way = random.integers(4)
        if way == 0:
            del node[key]
        elif way == 1 and isinstance(node, dict):
            node[f"{key}x"] = node.pop(key)
        else:
            node[key] = copy.deepcopy(ODD_VALUES[int(random.integers(len(ODD_VALUES)))])
        return


def _change_png(content: bytes, random: Random) -> bytes:
    """Damage inside chunks whose lengths and checksums are right."""
    chunks, place = [], 8
    while place + 8 <= len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += 12 + size
    which = int(random.integers(len(chunks)))
    name, body = chunks[which]
    if name == b"IHDR" and random.random() < 0.7:
        sides = [int(random.choice([0, 1, 8, 2000, 20_000, 65_535, 2**31 - 1])) for _ in "wh"]
        body = struct.pack(">II", *sides) + body[8:]
    else:
        body = _damage(body, random)
    chunks[which] = name, body
    if random.random() < 0.3:
        extra = [b"eXIf", b"tRNS", b"acTL", b"iCCP", b"zTXt", b"iTXt", b"PLTE", b"gAMA"]
        name = extra[int(random.integers(len(extra)))]
        chunks.insert(int(random.integers(1, len(chunks) + 1)), (name, random.bytes(40)))
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return content[:8] + b"".join(parts)


def _change_header(content: bytes, random: Random) -> bytes:
    """A safetensors header that lies: offsets, shapes and dtypes, or the description in it."""
    size = struct.unpack("<Q", content[:8])[0]
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    about = header.get("__metadata__", {})
    if about and random.random() < 0.7:
        key = next(iter(about))
        tree = json.loads(about[key])
        tree.pop("description_hash", None)  # as in older files: the checks behind it count
        _change_node(tree, random)
        about[key] = json.dumps(tree)
    else:
        _change_node(header, random)
    text = json.dumps(header).encode()
    length = len(text) if random.random() < 0.9 else int(random.choice([0, 2**40, 2**63]))
    return struct.pack("<Q", length) + text + rest


def _change_member(content: bytes, random: Random) -> bytes:
    """A zip whose own sums are right: damage within a member, its name or how it is packed."""
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        members = [(info.filename, whole.read(info)) for info in whole.infolist()]
    which = int(random.integers(len(members)))
    name, data = members[which]
    way = random.integers(5)
    if way == 0:
        data = bytes(
            int(random.choice([10**3, 10**6, 10**8]))
        )  # packs a thousand times smaller
    elif way == 1:
        data = re.sub(rb"\d+", lambda _: b"%d" % random.integers(2**40), data, count=3)
    elif way == 2:
        name = ["../out", "/tmp/out", name + "/", members[0][0], "a\\b"][random.integers(5)]
    else:
        data = _damage(data, random, [data for _, data in members])
    members[which] = name, data
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for each, data in members:
            info = zipfile.ZipInfo(each)
            info.compress_type = zipfile.ZIP_DEFLATED if way == 0 else zipfile.ZIP_STORED
            if each in {name for name, _ in members[:which]}:
                continue
            file.writestr(info, data)
    return packed.getvalue()
