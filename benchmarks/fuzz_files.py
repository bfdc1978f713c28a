"""The files that `benchmarks.fuzz` damages, and who reads them."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Read = Callable[[Path], object]


def make_kind(kind: str, folder: Path) -> tuple[list[Path], Read]:
    """Whole files of a kind in a folder, and the function that reads one."""
    return KINDS[kind](folder)


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
        statistics.FrameCounts(
            f"f{i}", 8, 8, {i: 32, 255: 32}, (1, 2, 3), (4, 5, 6), b"a", b"b"
        )
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
    from bisenet_jax.video import open_video, open_video_writer

    paths = [folder / "drive.mp4", folder / "drive.avi"]
    for path in paths:
        with open_video_writer(path, 10, 48, 64) as append:
            for shade in range(12):
                append(np.full((48, 64, 3), 20 * shade, np.uint8))

    def read(path: Path) -> None:
        with open_video(path) as video:
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
