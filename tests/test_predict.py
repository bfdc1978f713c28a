"""Pictures and videos through a network: everything arrives, in order, and nothing is lost."""

import dataclasses
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bisenet_jax import media
from bisenet_jax.data.decode import read_image, read_label
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.media import Input, find_inputs
from bisenet_jax.pictures import colour_mask
from bisenet_jax.prediction import (
    Frame,
    Options,
    Report,
    label_frames,
    predict_pictures,
    predict_video,
)
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.video import open_video, open_video_writer
from bisenet_jax.weights import write_weights

ROOT = Path(__file__).parent.parent
KINDS = ("labels", "colours", "overlay")


@pytest.fixture(scope="module")
def segmenter(tiny_weights):
    return Segmenter(tiny_weights)


@pytest.fixture
def street():
    return draw_street(1, 0, 64, 96)[0]


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def make_video(path: Path, frames: int) -> Path:
    pytest.importorskip("cv2")
    wide = draw_street(1, 1, 64, 96 + 4 * frames)[0]
    with open_video_writer(path, 20, height=64, width=96) as append:
        for index in range(frames):
            append(wide[:, 4 * index : 4 * index + 96])
    return path


def run(segmenter, words, output, **options) -> Report:
    report = Report()
    for item in find_inputs([str(word) for word in words]):
        function = predict_video if item.is_video else predict_pictures
        inputs = item if item.is_video else [item]
        function(segmenter, inputs, output, Options(**options), report)
    return report


def test_pictures(segmenter, street, tmp_path):
    save(tmp_path / "in" / "a.png", street)
    save(tmp_path / "in" / "b.png", street[:50, ::-1])
    (tmp_path / "in" / "a1.png").write_text("no picture")
    calls, report = [], Report()
    items = find_inputs([str(tmp_path / "in")])
    predict_pictures(segmenter, items, tmp_path / "out", Options(), report, calls.append)

    for name, image in (("a", street), ("b", street[:50, ::-1])):
        labels = read_label(tmp_path / "out" / f"{name}_labels.png")
        np.testing.assert_array_equal(labels, segmenter.predict(image))
        colours = read_image(tmp_path / "out" / f"{name}_colours.png")
        np.testing.assert_array_equal(colours, colour_mask(labels, segmenter.class_set))
        overlay = read_image(tmp_path / "out" / f"{name}_overlay.png")
        tinted = segmenter.overlay(image, labels)
        assert len(overlay) > len(image)  # the legend
        left = (overlay.shape[1] - tinted.shape[1]) // 2
        np.testing.assert_array_equal(
            overlay[: len(image), left : left + tinted.shape[1]], tinted
        )
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert sorted(calls) == [False, True, True]
    (failure,) = report.failures
    assert failure["input"].endswith("a1.png") and "no readable picture" in failure["error"]

    first, second = report.pictures
    assert first["input"].endswith("a.png") and second["input"].endswith("b.png")
    assert (first["height"], first["width"]) == (64, 96)
    assert (first["network_height"], first["network_width"]) == (64, 96)
    labels = segmenter.predict(street)
    shares = {
        name: float((labels == index).mean())
        for index, name in enumerate(segmenter.class_set.names)
        if (labels == index).any()
    }
    assert first["class_shares"] == pytest.approx(shares) and len(shares) > 1


@pytest.mark.parametrize("input_scale", [0.5, 2.0])
def test_the_size_asked_for_is_what_the_network_sees(
    tiny_weights, street, tmp_path, input_scale
):
    scaled = Segmenter(dataclasses.replace(tiny_weights, input_scale=input_scale))
    (told,) = run(scaled, [save(tmp_path / "a.png", street)], tmp_path, height=32).pictures
    assert (told["network_height"], told["network_width"]) == (32, 48)
    given = (round(48 / input_scale), round(32 / input_scale))
    seen = np.asarray(Image.fromarray(street).resize(given, Image.Resampling.BILINEAR))
    labels = Image.fromarray(scaled.predict(seen)).resize((96, 64), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(read_label(tmp_path / "a_labels.png"), np.asarray(labels))
    (told,) = run(scaled, [tmp_path / "a.png"], tmp_path).pictures
    assert told["network_height"] == 64 * input_scale


def test_a_smaller_network_input_gives_labels_of_the_full_size(segmenter, street, tmp_path):
    path = save(tmp_path / "a.png", street)
    for options, size in (
        ({"height": 32}, (32, 48)),
        ({"width": 24}, (16, 24)),
        ({"height": 32, "width": 32}, (32, 32)),
    ):
        report = run(segmenter, [path], tmp_path, **options)
        (told,) = report.pictures
        assert (told["network_height"], told["network_width"]) == size
        height, width = size
        small = Image.fromarray(street).resize((width, height), Image.Resampling.BILINEAR)
        expected = segmenter.predict(np.asarray(small))
        rows = (np.arange(64) + 0.5) * height // 64
        columns = (np.arange(96) + 0.5) * width // 96
        expected = expected[rows.astype(int)][:, columns.astype(int)]
        np.testing.assert_array_equal(read_label(tmp_path / "a_labels.png"), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_change_nothing(segmenter, batch_size):
    sizes = [(32, 32), (32, 32), (32, 32), (32, 64), (32, 32), (32, 64), (32, 64)]
    wide, _ = draw_street(1, 2, 64, 256)
    images = [
        wide[4 * i :, 24 * i :][:height, :width] for i, (height, width) in enumerate(sizes)
    ]
    frames = [Frame(Input(str(i), i), image, image) for i, image in enumerate(images)]
    found = list(label_frames(segmenter, iter(frames), batch_size))
    assert [frame.item.source for frame, _ in found] == list(range(7))
    assert len({labels.tobytes() for _, labels in found}) == 7
    for (_, labels), image in zip(found, images, strict=True):
        # Another batch size is another program, which may round differently.
        assert (labels == segmenter.predict(image)).mean() > 0.99


def test_the_next_batch_starts_before_the_last_is_read(segmenter):
    image = np.zeros((32, 32, 3), np.uint8)
    taken = []

    def frames():
        for index in range(4):
            taken.append(index)
            yield Frame(Input(str(index), index), image, image)

    results = label_frames(segmenter, frames())
    assert next(results)[0].item.source == 0 and taken == [0, 1]
    assert next(results)[0].item.source == 1 and taken == [0, 1, 2]


def test_video(segmenter, tmp_path):
    path = make_video(tmp_path / "drive.mp4", frames=7)
    report = run(segmenter, [path], tmp_path / "out", batch_size=2)
    (told,) = report.videos
    assert told["frames"] == told["announced_frames"] == 7 and told["dropped_frames"] == 0
    assert told["file_frames_per_second"] == 20 and told["frames_per_second"] > 0
    assert sum(told["class_shares"].values()) == pytest.approx(1)
    with open_video(path) as video, open_video(tmp_path / "out/drive_overlay.mp4") as made:
        assert made.rate == 20
        frames, overlays = list(video.frames), list(made.frames)
    assert len(overlays) == 7
    for frame, overlay in zip(frames, overlays, strict=True):
        # Below the caption, and as near as the codec leaves it.
        difference = overlay[24:].astype(int) - segmenter.overlay(frame)[24:]
        assert np.abs(difference).mean() < 12
        assert overlay[:20, :12].mean() < 60
    still = read_image(tmp_path / "out" / "drive_overlay.png")
    assert len(still) > 64
    left = (still.shape[1] - 96) // 2
    np.testing.assert_array_equal(still[:64, left : left + 96], segmenter.overlay(frames[-1]))


def test_max_frames(segmenter, tmp_path):
    path = make_video(tmp_path / "drive.mp4", frames=5)
    report = run(segmenter, [path], tmp_path, max_frames=2)
    assert report.videos[0]["frames"] == 2
    with open_video(tmp_path / "drive_overlay.mp4") as video:
        assert len(list(video.frames)) == 2


def test_a_video_that_was_cut_off_is_told_and_what_there_was_is_kept(segmenter, tmp_path):
    whole = make_video(tmp_path / "whole.avi", frames=40)
    data = whole.read_bytes()
    (tmp_path / "half.avi").write_bytes(data[: len(data) // 2])
    report = run(segmenter, [tmp_path / "half.avi", whole], tmp_path / "out")
    (failure,) = report.failures
    half, told = report.videos
    assert 0 < half["frames"] < 36 and told["frames"] == 40
    assert f"ended after {half['frames']} of the 40 frames" in failure["error"]
    with open_video(tmp_path / "out" / "half_overlay.mp4") as video:
        assert len(list(video.frames)) == half["frames"]
    # Whoever asks for less than there is gets it.
    assert not run(segmenter, [tmp_path / "half.avi"], tmp_path, max_frames=3).failures


class EndlessCamera:
    """Frames as fast as they are asked for, until the user has enough."""

    def isOpened(self) -> bool:
        return True

    def get(self, property_id: int) -> float:
        return 0.0

    def release(self) -> None:
        pass

    def read(self):
        return True, np.zeros((64, 96, 3), np.uint8)


def test_camera(segmenter, tmp_path, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    real = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda source: EndlessCamera() if source == 0 else real(source)
    )
    report = run(segmenter, ["0"], tmp_path, max_frames=3)
    (told,) = report.videos
    assert told["input"] == "camera 0" and told["frames"] == 3
    assert told["announced_frames"] is None and told["dropped_frames"] > 0

    # Without a limit, Ctrl-C ends it and keeps the video.
    seen = []

    def interrupt_third(is_done: bool) -> None:
        seen.append(is_done)

    original = segmenter.start

    def start(images):
        if len(seen) >= 3:
            raise KeyboardInterrupt
        return original(images)

    monkeypatch.setattr(segmenter, "start", start)
    report = Report()
    (item,) = find_inputs(["0"])
    predict_video(segmenter, item, tmp_path, Options(), report, interrupt_third)
    made = report.videos[0]["frames"]
    assert made >= 3
    with open_video(tmp_path / "camera0_overlay.mp4") as video:
        assert len(list(video.frames)) == made


def test_an_interrupted_video_leaves_nothing(segmenter, tmp_path, monkeypatch):
    path = make_video(tmp_path / "drive.mp4", frames=3)

    original = segmenter.start

    def interrupt(images):
        if images.any():
            raise KeyboardInterrupt
        return original(images)  # of compiling, before

    monkeypatch.setattr(segmenter, "start", interrupt)
    with pytest.raises(KeyboardInterrupt) as interrupted:
        run(segmenter, [path], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    # Though the error still holds all that was at work.
    assert interrupted.tb
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


def test_a_video_that_cannot_be_read_is_named(segmenter, tmp_path):
    pytest.importorskip("cv2")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    report = run(segmenter, [tmp_path / "bad.mp4"], tmp_path / "out")
    assert report.videos == [] and "bad.mp4" in report.failures[0]["error"]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def predict(tiny_weights, tmp_path):
    """The script in a process of its own, its weights given."""
    write_weights(tmp_path / "weights", tiny_weights)

    def call(*words) -> subprocess.CompletedProcess:
        command = [sys.executable, "predict.py", "--weights", tmp_path / "weights", *words]
        return subprocess.run(
            [str(word) for word in command], cwd=ROOT, capture_output=True, text=True
        )

    return call


def test_script(predict, street, tmp_path):
    one = save(tmp_path / "x" / "photo.png", street)
    other = save(tmp_path / "y" / "photo.jpg", street[:, ::-1])
    video = make_video(tmp_path / "drive.mp4", frames=4)
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    output, told = tmp_path / "out", tmp_path / "told.json"
    # Flags and inputs in any order.
    result = predict(one, "--output", output, other, bad, video, "--json", told)
    assert result.returncode == 2
    assert "error: " in result.stderr and "bad.png" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert {path.name for path in output.iterdir()} == {
        *(f"{name}_{kind}.png" for name in ("photo", "photo_2") for kind in KINDS),
        *("drive_overlay.mp4", "drive_overlay.png"),
    }
    labels = read_label(output / "photo_labels.png")
    assert (labels != read_label(output / "photo_2_labels.png")).any()
    data = json.loads(told.read_text())
    assert [Path(entry["input"]).name for entry in data["pictures"]] == [
        "photo.png",
        "photo.jpg",
    ]
    assert data["videos"][0]["frames"] == 4 and data["images"] == 6
    assert len(data["failures"]) == 1 and data["network"]["class_set"] == "camvid"
    assert 0 < data["first_result_seconds"] < data["seconds"]
    assert data["images_per_second"] == pytest.approx(6 / data["seconds"])
    for entry in data["pictures"] + data["videos"]:
        assert all(Path(path).is_file() for path in entry["outputs"])


def test_script_succeeds(predict, street, tmp_path):
    result = predict(save(tmp_path / "a.png", street), "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr


def test_script_refuses_before_it_loads(predict, street, tmp_path):
    photo = save(tmp_path / "a.png", street)
    labels = save(tmp_path / "a_labels.png", street[..., 0])
    for words, message in (
        (("--output", tmp_path), "give inputs and --output"),
        ((photo, "gone.png", "--output", tmp_path), "'gone.png' is no file"),
        ((photo, "--output", labels), "a_labels.png cannot be a folder"),
        ((photo, labels, "--output", tmp_path), "a_labels.png is an input and would be"),
    ):
        result = predict(*words)
        assert result.returncode == 2 and message in result.stderr, result.stderr
    assert np.array_equal(media.read_picture(labels)[..., 0], street[..., 0])
