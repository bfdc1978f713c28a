"""The files that `benchmarks.fuzz` damages, who reads them, and the ways to damage one."""

import copy
import io
import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Read = Callable[[Path], object]
Random = np.random.Generator

ODD_VALUES: list[Any] = [
    *(None, True, -1, 0, 10**9, 2**63, 10**400, 1e308, -0.5, math.nan, math.inf),
    *("", "\0", "\ud800", "x" * 10_000, "../../etc/passwd", [], {}, [[]], [None], {"": {}}),
    *([0] * 10_000, "float32", "adamantine", [1, 2, 3], 255, 256),
]
_NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def make_kind(kind: str, folder: Path) -> tuple[list[Path], Read]:
    """Whole files of a kind in a folder, and the function that reads one."""
    return KINDS[kind](folder)


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


def _photo() -> Image.Image:
    rows, columns = np.mgrid[:48, :64]
    return Image.fromarray(np.stack([rows * 5, columns * 3, rows + columns], -1).astype("u1"))


def _save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def _pictures(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    photo = _photo()
    paths = [_save(photo, folder / f"photo{suffix}") for suffix in suffixes]
    paths.append(_save(photo.quantize(16), folder / "palette.png"))
    paths.append(_save(photo.convert("L"), folder / "grey.png"))
    return paths


def _make_pictures(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax import media

    paths = _pictures(folder, (".png", ".jpg", ".webp", ".bmp", ".tif"))
    deep = Image.fromarray(np.asarray(_photo())[..., 0].astype("u2") * 257)
    paths += [_save(deep, folder / "deep.png"), _save(deep, folder / "deep.tif")]
    paths.append(_save(_photo(), folder / "packed.tif", compression="tiff_lzw"))
    paths.append(_save(_photo(), folder / "whole.webp", lossless=True))
    return paths, lambda path: media.read_picture(path)


def _make_foreign_pictures(folder: Path) -> tuple[list[Path], Read]:
    """GIF is no format of ours, whatever the name says."""
    from bisenet_jax import media
    from bisenet_jax.errors import DataError

    def read(path: Path) -> None:
        try:
            media.read_picture(path)
        except DataError:
            if path.read_bytes() != whole:
                raise

    path = folder / "animation.png"
    _photo().save(path, "GIF")
    whole = path.read_bytes()
    return [path.rename(folder / "animation.gif")], read


def _make_training_pictures(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax.data import decode

    return _pictures(folder, (".png", ".jpg")), lambda path: decode.read_image(path)


def _make_label_maps(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax.data import decode
    from bisenet_jax.data.class_sets import find_labelling

    coding = find_labelling("cityscapes").coding
    labels = Image.fromarray(np.mgrid[:48, :64][0].astype("u1") % 19)
    grey = _save(labels, folder / "labels.png")
    colours = _save(_photo(), folder / "colours.png")

    def read(path: Path) -> object:
        return decode.read_colours(path) if path == colours else coding.read(path)

    return [grey, colours], read


def _make_weights(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax.weights import read_weights

    return [_small_weights(folder)], lambda path: read_weights(path)


def _small_weights(folder: Path) -> Path:
    import jax

    from bisenet_jax.data.classes import CAMVID
    from bisenet_jax.model.presets import build_model
    from bisenet_jax.normalization import Normalization
    from bisenet_jax.weights import Score, Weights, write_weights

    model = build_model(
        num_classes=len(CAMVID),
        detail_channels=(8, 8, 16),
        semantic_late_channels=(8, 16),
        semantic_repeats=(1, 1, 1),
        head_channels=8,
    )
    images = np.zeros((1, 32, 32, 3), np.float32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, is_training=False))
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    score = Score(0.5, "val", "whole images")
    normalization = Normalization((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    weights = Weights(
        model, variables, CAMVID, normalization, "paper", 0.5, {"a": [1]}, score, 6
    )
    write_weights(folder / "weights.safetensors", weights)
    return folder / "weights.safetensors"


def _make_checkpoints(suffix: str) -> Callable[[Path], tuple[list[Path], Read]]:
    def make(folder: Path) -> tuple[list[Path], Read]:
        from bisenet_jax.convert.checkpoint import read_checkpoint, write_checkpoint

        tensors = {
            f"backbone.layer{i}.weight": np.full((4, 3, i + 1, 2), i, "f4") for i in range(6)
        }
        path = folder / f"theirs{suffix}"
        write_checkpoint(path, tensors, "state_dict")
        return [path], lambda path: read_checkpoint(path)

    return make


def _make_class_files(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax.data.class_sets import read_class_file
    from bisenet_jax.pictures import legend

    colours = [[60, 160, 60], [170, 150, 120], [9, 9, 9]]
    classes: list[dict[str, Any]] = [
        {"name": name, "colour": colour, "values": [4 * i, 4 * i + 1]}
        for i, (name, colour) in enumerate(zip(("lawn", "path", "bed"), colours, strict=True))
    ]
    content: dict[str, Any] = {"name": "garden", "classes": classes, "ignored_values": [255]}
    (folder / "ids.json").write_text(json.dumps(content))
    del content["ignored_values"]
    content |= {"masks": "colours", "ignored_colours": [[0, 0, 0]]}
    (folder / "colours.json").write_text(json.dumps(content))

    def read(path: Path) -> object:
        labelling = read_class_file(path)
        return legend(labelling.class_set, width=4000), labelling.coding.fingerprint()

    return [folder / "ids.json", folder / "colours.json"], read


def _make_configs(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax import config_file
    from bisenet_jax.config import Config

    config_file.save(Config(), folder)
    return [folder / config_file.CONFIG_FILE], lambda path: config_file.load(path.parent)


def _make_statistics(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax.data import statistics
    from bisenet_jax.data.classes import CAMVID
    from bisenet_jax.data.sampling import balanced
    from bisenet_jax.errors import ConfigError

    frames = [
        statistics.Frame(f"f{i}", 8, 8, {i: 32, 255: 32}, (1, 2, 3), (4, 5, 6), b"a", b"b")
        for i in range(6)
    ]
    path = folder / "statistics.json"
    statistics.write(path, frames, CAMVID, "train")

    def read(path: Path) -> object:
        found = statistics.read(path)
        if len(found.names) != 6 or found.class_names != CAMVID.names:
            raise ConfigError("as require_match would say")
        return balanced(found)(0)[5]

    return [path], read


def _make_matrices(folder: Path) -> tuple[list[Path], Read]:
    from scipy.io import savemat

    from bisenet_jax.data.coco_stuff import MATRIX_IDS

    content = {"names": np.array(["x"]), "S": np.arange(100.0).reshape(10, 10) % 9}
    savemat(folder / "plain.mat", content)
    savemat(folder / "packed.mat", content, do_compression=True)
    return [folder / "plain.mat", folder / "packed.mat"], MATRIX_IDS.read


def _make_archives(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax.data.cityscapes.archive import open_zip
    from bisenet_jax.data.decode import decode_image
    from bisenet_jax.errors import DataError
    from bisenet_jax.evaluation.submission.check import check_submission

    picture = io.BytesIO()
    _photo().convert("L").save(picture, "PNG")
    path = folder / "answers.zip"
    with zipfile.ZipFile(path, "w") as file:
        for index in range(3):
            file.writestr(f"frankfurt_000000_00000{index}.png", picture.getvalue())

    def read(path: Path) -> None:
        check_submission(path, "val")
        with open_zip(path) as archive:
            for name in archive.sizes:
                try:
                    decode_image(archive.read(name), name)
                except DataError:
                    continue

    return [path], read


def _make_videos(folder: Path) -> tuple[list[Path], Read]:
    from bisenet_jax import media

    paths = [folder / "drive.mp4", folder / "drive.avi"]
    for path in paths:
        with media.open_video_writer(path, 10, 48, 64) as append:
            for shade in range(12):
                append(np.full((48, 64, 3), 20 * shade, np.uint8))

    def read(path: Path) -> None:
        with media.open_video(path) as video:
            for _, frame in zip(range(50), video.frames, strict=False):
                assert frame.ndim == 3

    return paths, read


KINDS: dict[str, Callable[[Path], tuple[list[Path], Read]]] = {
    "picture": _make_pictures,
    "foreign picture": _make_foreign_pictures,
    "training picture": _make_training_pictures,
    "label map": _make_label_maps,
    "matrix": _make_matrices,
    "video": _make_videos,
    "archive": _make_archives,
    "class file": _make_class_files,
    "config": _make_configs,
    "statistics": _make_statistics,
    "weights": _make_weights,
    "safetensors": _make_checkpoints(".safetensors"),
    "npz": _make_checkpoints(".npz"),
    "pth": _make_checkpoints(".pth"),
}
