"""Pictures as users have them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from bisenet_jax import media
from bisenet_jax.data import decode
from bisenet_jax.data.decode import read_label
from bisenet_jax.errors import DataError, PictureFormatError, PictureSizeError
from bisenet_jax.media import (
    decode_picture,
    find_inputs,
    read_picture,
)

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp"])
def test_lossless_formats(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, Image.fromarray(RGB), **options)
    np.testing.assert_array_equal(read_picture(path), RGB)


def test_jpeg(tmp_path):
    grey = np.full((16, 16, 3), (200, 90, 30), np.uint8)
    read = read_picture(save(tmp_path / "a.jpg", Image.fromarray(grey), quality=100))
    np.testing.assert_allclose(read, grey, atol=4)


def test_the_preview_in_a_photo_is_not_the_photo(tmp_path):
    photo = Image.fromarray(np.full((16, 16, 3), 200, np.uint8))
    preview = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    path = save(tmp_path / "a.jpg", photo, format="MPO", save_all=True, append_images=[preview])
    with Image.open(path) as stored:
        assert stored.n_frames == 2
    np.testing.assert_allclose(read_picture(path), 200, atol=4)


def test_grey_and_palette(tmp_path):
    grey = read_picture(save(tmp_path / "grey.png", Image.fromarray(RGB[..., 0])))
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))
    indexed = Image.fromarray(np.array([[0, 1], [1, 2]], np.uint8), mode="P")
    indexed.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    colours = read_picture(save(tmp_path / "palette.png", indexed))
    expected = [[[10, 20, 30], [40, 50, 60]], [[40, 50, 60], [70, 80, 90]]]
    np.testing.assert_array_equal(colours, expected)


def test_transparent_pixels_show_the_background(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (200, 100, 0), [[0, 128, 255]]
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    white = read_picture(path)[0].astype(int)
    np.testing.assert_array_equal(white[[0, 2]], [[255, 255, 255], [200, 100, 0]])
    np.testing.assert_allclose(white[1], [227, 177, 127], atol=1)
    black = read_picture(path, background=(0, 0, 0))[0]
    np.testing.assert_array_equal(black[0], [0, 0, 0])


def test_16_bit_grey_keeps_its_whole_range(tmp_path):
    values = np.array([[0, 257, 32896, 65535, 1000]], np.uint16)
    for name in ("a.png", "a.tif"):
        read = read_picture(save(tmp_path / name, Image.fromarray(values)))
        np.testing.assert_array_equal(read[0, :, 1], [0, 1, 128, 255, 4])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    # What a viewer shows, by the meaning of each value: where row 0 and column 0 are.
    shown = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB.transpose(1, 0, 2)[:, ::-1],
        7: RGB.transpose(1, 0, 2)[::-1, ::-1],
        8: RGB.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = save(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(read_picture(path), shown)


def test_pictures_that_are_refused(tmp_path, monkeypatch):
    good = save(tmp_path / "good.png", Image.fromarray(RGB))
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:60])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    two = Image.fromarray(RGB)
    pages = save(tmp_path / "pages.tif", two, save_all=True, append_images=[two])
    floats = save(tmp_path / "floats.tif", Image.fromarray(RGB[..., 0].astype(np.float32)))
    for path, message in (
        (cut, "cut.png: cannot be read"),
        (text, "text.png: content is no readable picture"),
        (pages, "pages.tif: holds 2 pictures"),
        (floats, "floats.tif: pixels are 32-bit"),
        (tmp_path / "nowhere.png", "does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            read_picture(path)
    monkeypatch.setattr(decode, "MAX_PIXELS", 47)
    with pytest.raises(DataError, match="good.png: 8x6 is more than 47 pixels"):
        read_picture(good)


def test_content_is_read_like_a_file(tmp_path, monkeypatch):
    content = save(tmp_path / "good.png", Image.fromarray(RGB)).read_bytes()
    np.testing.assert_array_equal(decode_picture(content, "upload"), RGB)
    with pytest.raises(PictureFormatError, match="upload: content is no readable picture"):
        decode_picture(b"no picture", "upload")
    with pytest.raises(DataError, match="upload: cannot be read") as caught:
        decode_picture(content[:60], "upload")
    assert not isinstance(caught.value, PictureFormatError | PictureSizeError)
    monkeypatch.setattr(decode, "MAX_PIXELS", 47)
    with pytest.raises(PictureSizeError, match="upload: 8x6 is more than 47 pixels"):
        decode_picture(content, "upload")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(bomb)
    assert bomb.stat().st_size < 100_000
    with pytest.raises(DataError, match="9000x9000 is more than"):
        read_picture(bomb)


def test_label_map_is_read_back_as_one(tmp_path):
    labels = np.array([[0, 5], [18, 255]], np.uint8)
    media.write_label_map(tmp_path / "new" / "labels.png", labels)
    np.testing.assert_array_equal(read_label(tmp_path / "new" / "labels.png"), labels)


def test_inputs(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    for name in ("a10.png", "a2.png", "notes.txt", ".hidden.png", "b/a2.jpg", "b/A10.tif"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7").touch()
    found = find_inputs([".", "b/a2.jpg", "b/*.tif", "00", "7"])
    assert [(item.name, str(item)) for item in found] == [
        ("a2", "a2.png"),
        ("a10", "a10.png"),
        ("a2_2", "b/a2.jpg"),
        ("A10_2", "b/A10.tif"),
        ("camera0", "camera 0"),
        ("7", "7"),
    ]
    assert [item.is_video for item in found] == [False] * 4 + [True, False]
    for word, message in (("no/*.png", "no/"), ("gone.jpg", "gone.jpg")):
        with pytest.raises(DataError, match=f"{message}.*no file, folder, glob or camera"):
            find_inputs([word])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no image in this folder"):
        find_inputs(["empty"])


def test_a_made_name_does_not_take_a_given_one(tmp_path):
    for name in ("x/a.png", "y/a.png", "z/a_2.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    words = [str(tmp_path / name) for name in ("x/a.png", "y/a.png", "z/a_2.png")]
    names = [item.name for item in find_inputs(words)]
    assert len(set(names)) == 3 and names[:2] == ["a", "a_2"]
