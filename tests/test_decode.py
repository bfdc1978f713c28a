"""Pixels come out as stored; whatever a decoder would silently alter is refused."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.data import decode
from bisenet_jax.data.decode import decode_label, read_image, read_label
from bisenet_jax.errors import DataError, PictureSizeError


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def ids() -> np.ndarray:
    ids = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32) % 19
    ids[0, :5] = 255
    return ids


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of any bit depth, packed by hand: pillow writes only some."""
    height, width = values.shape
    bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    chunks = (
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(scanlines)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_png_picture_round_trip_is_exact(tmp_path, picture):
    image = read_image(save(tmp_path / "a.png", picture))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, picture)


def test_jpeg_picture_is_rgb(tmp_path):
    orange = np.full((24, 32, 3), (250, 120, 10), np.uint8)
    image = read_image(save(tmp_path / "a.jpg", orange, quality=95))
    assert image.shape == (24, 32, 3)
    assert np.abs(image.astype(int) - orange).max() < 4


def test_grey_and_palette_pictures_become_rgb(tmp_path, picture):
    grey = picture[..., 0]
    image = read_image(save(tmp_path / "grey.png", grey))
    np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=2))

    paletted = Image.fromarray(grey // 64, mode="L").convert("P")
    paletted.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    paletted.save(tmp_path / "palette.png")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]], np.uint8)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), colours[grey // 64])


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path, picture):
    rgba = np.dstack([picture, np.full((24, 32), 255, np.uint8)])
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", rgba)), picture)
    rgba[3, 4, 3] = 254
    with pytest.raises(
        DataError, match=r"clear\.png: has transparent pixels.*save the picture"
    ):
        read_image(save(tmp_path / "clear.png", rgba))


def test_16_bit_grey_picture_is_refused(tmp_path, picture):
    path = save(tmp_path / "deep.png", picture[..., 0].astype(np.uint16) * 257)
    with pytest.raises(DataError, match=r"deep\.png: pixels are 'I;16'.*8-bit RGB"):
        read_image(path)


@pytest.mark.parametrize("orientation, accepted", [(1, True), (6, False)])
def test_turned_picture_is_refused(tmp_path, picture, orientation, accepted):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.jpg", picture, exif=exif)
    if accepted:
        assert read_image(path).shape == (24, 32, 3)
    else:
        with pytest.raises(DataError, match=r"turned\.jpg: EXIF orientation is 6.*upright"):
            read_image(path)


def test_label_round_trip_is_exact(tmp_path, ids):
    label = read_label(save(tmp_path / "a.png", ids))
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, ids)


def test_palette_label_gives_indices_not_colours(tmp_path, ids):
    paletted = Image.fromarray(ids).convert("P")
    paletted.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tobytes())
    paletted.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), ids)


def test_small_palette_label_gives_indices(tmp_path, ids):
    paletted = Image.fromarray(ids % 4).convert("P")
    paletted.putpalette([10, 20, 30] * 4)
    paletted.save(tmp_path / "a.png", bits=2)
    np.testing.assert_array_equal(read_label(tmp_path / "a.png"), ids % 4)


@pytest.mark.parametrize("channels, found", [(3, "8-bit RGB"), (4, "8-bit RGBA")])
def test_coloured_label_is_refused(tmp_path, ids, channels, found):
    path = save(tmp_path / "mask.png", np.repeat(ids[..., None], channels, axis=2))
    with pytest.raises(DataError, match=rf"mask\.png: label map is {found},.*8-bit grey PNG"):
        read_label(path)


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_label_of_another_depth_is_refused(ids, depth):
    with pytest.raises(DataError, match=f"mask: label map is {depth}-bit grey, must be 8-bit"):
        decode_label(grey_png(ids.astype(np.uint16) % 2, depth), "mask")


def test_hand_made_png_of_8_bits_is_read(ids):
    np.testing.assert_array_equal(decode_label(grey_png(ids, 8), "mask"), ids)


def test_jpeg_label_is_refused(tmp_path, ids):
    path = tmp_path / "mask.png"
    Image.fromarray(ids).save(path, format="JPEG")
    with pytest.raises(DataError, match=r"mask\.png: content is not a readable PNG"):
        read_label(path)


@pytest.mark.parametrize("read", [read_image, read_label])
def test_damaged_files_are_named(tmp_path, picture, read):
    stream = io.BytesIO()
    Image.fromarray(picture[..., 0]).save(stream, format="PNG")
    whole = stream.getvalue()
    damaged = {
        "cut.png": (whole[: len(whole) // 2], "cannot be decoded"),
        "header.png": (whole[:20], "cannot be decoded|not a readable"),
        "empty.png": (b"", r"file is empty \(0 bytes\)"),
        "text.png": (b"<html>404 not found</html>", "content is not a readable"),
    }
    for name, (content, complaint) in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: ({complaint})"):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_cut_picture_is_named_at_every_length(tmp_path, picture, suffix):
    whole = save(tmp_path / f"whole.{suffix}", picture).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    for length in range(0, len(whole) - 16, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"cut.{suffix}: "):
            read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: cannot be read \(No such file"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_decompression_bomb_is_a_data_error(side):
    bomb = bytearray(grey_png(np.zeros((1, 1), np.uint8), 8))
    bomb[16:24] = struct.pack(">II", side, side)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    with pytest.raises(PictureSizeError, match="bomb: .* more than 67,108,864 pixels"):
        decode_label(bytes(bomb), "bomb")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
@pytest.mark.parametrize("flaw", [None, "cut", "flipped"])
def test_fast_decoder_agrees_with_pillow(mode, flaw, tmp_path, monkeypatch):
    pytest.importorskip("imagecodecs")
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 4), np.uint8)
    pixels = {"RGB": values[..., :3], "RGBA": values, "I;16": values[..., 0].astype(np.uint16)}
    picture = Image.fromarray(pixels.get(mode, values[..., 0]))
    path = tmp_path / "a.png"
    (picture.convert("P") if mode == "P" else picture).save(path)
    data = bytearray(path.read_bytes())
    if flaw == "cut":
        del data[len(data) // 2 :]
    if flaw == "flipped":
        data[len(data) // 2] ^= 4

    def outcome() -> str:
        try:
            return read_bytes(decode.decode_image(bytes(data), "a.png"))
        except DataError as error:
            return str(error)

    def read_bytes(array: np.ndarray) -> str:
        return f"{array.shape} {array.tobytes().hex()}"

    by_codecs = outcome()
    monkeypatch.setattr(decode, "_fast_codecs", lambda: None)
    assert outcome() == by_codecs


def test_fast_decoder_is_used_where_it_may_be(tmp_path, picture, monkeypatch):
    codecs = pytest.importorskip("imagecodecs")
    decoded = []
    monkeypatch.setattr(codecs, "png_decode", lambda data: decoded.append(len(data)) or picture)
    read_image(save(tmp_path / "plain.png", picture))
    assert len(decoded) == 1
    exif = Image.Exif()
    exif[0x0112] = 1
    read_image(save(tmp_path / "exif.png", picture, exif=exif))
    read_image(save(tmp_path / "rgba.png", np.dstack([picture, picture[..., 0] * 0 + 255])))
    assert len(decoded) == 1


def test_whole_jpeg_has_the_same_bits_by_both_decoders(tmp_path, picture, monkeypatch):
    pytest.importorskip("imagecodecs")
    smooth = np.asarray(Image.fromarray(picture).resize((320, 240)))
    data = save(tmp_path / "a.jpg", smooth, quality=95, subsampling=0).read_bytes()
    image = decode.decode_whole_jpeg(data, "a.jpg")
    np.testing.assert_array_equal(image, decode.decode_image(data, "a.jpg"))
    monkeypatch.setattr(decode, "_fast_codecs", lambda: None)
    np.testing.assert_array_equal(decode.decode_whole_jpeg(data, "a.jpg"), image)
