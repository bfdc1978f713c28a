"""Submissions: written as label ids, and every flaw of one found before it is sent."""

import io
import json
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.street_zips import write_streets
from bisenet_jax.config import DataConfig
from bisenet_jax.data.cityscapes import labels as cityscapes
from bisenet_jax.data.cityscapes.labels import LABEL_ID_OF, coding_of
from bisenet_jax.data.classes import CAMVID, CITYSCAPES, IGNORE
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import DataError
from bisenet_jax.evaluation.submission import open_submission
from bisenet_jax.evaluation.submission.check import RULES, check_submission
from bisenet_jax.evaluation.submission.writer import ZIP_NAME

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 64, 96
NAMES = [f"hinterwald_00000{i}_000019" for i in range(3)]
FIRST, SECOND, _ = NAMES
SIZES = dict.fromkeys(NAMES, (HEIGHT, WIDTH))
FILE = f"{FIRST}_labelIds.png"


@pytest.fixture(scope="module")
def labels() -> dict[str, np.ndarray]:
    """Train ids, all 19 of them in each."""
    generator = np.random.default_rng(0)
    return {name: generator.integers(0, 19, (HEIGHT, WIDTH), np.uint8) for name in NAMES}


@pytest.fixture(scope="module")
def files(labels) -> dict[str, bytes]:
    """What a good zip holds."""
    return {f"{name}_labelIds.png": png(LABEL_ID_OF[labels[name]]) for name in NAMES}


@pytest.fixture(autouse=True)
def small_public_split(monkeypatch):
    monkeypatch.setitem(cityscapes.FRAMES, "test", 3)


def png(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def write_zip(path: Path, files) -> Path:
    """Of a dict, or of pairs whose names need not differ."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore")  # zipfile warns of a name that is there twice
        for name, data in files.items() if isinstance(files, dict) else files:
            file.writestr(name, data)
    return path


def findings(path: Path, sizes=SIZES) -> dict[str, dict[str, str]]:
    report = check_submission(path, "test", sizes)
    return {finding.rule: dict(finding.found) for finding in report.findings}


def program(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bisenet_jax.evaluation.submission"]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_from_labels_to_label_ids(labels, tmp_path):
    folder = tmp_path / "new" / "answers"
    with open_submission(folder, CITYSCAPES) as submission:
        for name in reversed(NAMES):
            submission.add(name, labels[name])
    with zipfile.ZipFile(folder / ZIP_NAME) as file:
        members = file.infolist()
        assert [info.filename for info in members] == [f"{name}_labelIds.png" for name in NAMES]
        for info, name in zip(members, NAMES, strict=True):
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.external_attr >> 16 & 0o444 == 0o444
            assert file.read(info) == (folder / info.filename).read_bytes()
            image = Image.open(folder / info.filename)
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), LABEL_ID_OF[labels[name]])
    assert sorted(path.name for path in folder.iterdir()) == [
        *map(str, sorted([f"{name}_labelIds.png" for name in NAMES] + [ZIP_NAME]))
    ]
    assert list(folder.parent.iterdir()) == [folder]
    assert findings(folder / ZIP_NAME) == {}


def test_equal_predictions_give_equal_bytes(labels, tmp_path):
    for folder, order in (("one", NAMES), ("two", NAMES[::-1])):
        with open_submission(tmp_path / folder, CITYSCAPES, threads=3) as submission:
            for name in order:
                submission.add(name, labels[name])
    one, two = ((tmp_path / folder / ZIP_NAME).read_bytes() for folder in ("one", "two"))
    assert one == two


def test_other_class_sets_keep_their_ids(tmp_path):
    ids = np.arange(HEIGHT * WIDTH, dtype=np.uint32).reshape(HEIGHT, WIDTH) % len(CAMVID)
    with open_submission(tmp_path / "answers", CAMVID) as submission:
        submission.add("0016E5_07959", ids.astype(np.uint8))
    np.testing.assert_array_equal(Image.open(tmp_path / "answers/0016E5_07959.png"), ids)


def test_more_label_maps_than_wait_at_once(tmp_path):
    with open_submission(tmp_path / "answers", CAMVID, threads=1) as submission:
        for index in range(20):
            submission.add(f"frame_{index}", np.full((4, 4), index % 11, np.uint8))
    for index in range(20):
        pixels = np.asarray(Image.open(tmp_path / f"answers/frame_{index}.png"))
        assert (pixels == index % 11).all()


def test_a_failed_run_leaves_nothing(labels, tmp_path):
    folder = tmp_path / "answers"
    folder.mkdir()
    with (
        pytest.raises(OSError, match="the network's own"),
        open_submission(folder, CITYSCAPES) as submission,
    ):
        submission.add(FIRST, labels[FIRST])
        raise OSError("the network's own")
    assert list(tmp_path.iterdir()) == [folder] and not list(folder.iterdir())
    with (
        pytest.raises(DataError, match="no image was added"),
        open_submission(folder, CITYSCAPES),
    ):
        pass
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_that_cannot_be_written_is_named(labels, tmp_path):
    with pytest.raises(DataError, match=f"{FILE}: cannot be written .*Is a dir.*; check"):
        with open_submission(tmp_path / "answers", CITYSCAPES) as submission:
            (submission.folder / FILE).mkdir()
            submission.add(FIRST, labels[FIRST])
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/answers: cannot be written"):
        with open_submission(tmp_path / "file" / "answers", CITYSCAPES):
            pass


def test_a_folder_in_use_is_kept(labels, tmp_path):
    (tmp_path / "old.png").write_bytes(b"old")
    for path in (tmp_path, tmp_path / "old.png"):
        with pytest.raises(DataError, match=f"{path}: exists and is no empty folder; remove"):
            with open_submission(path, CITYSCAPES):
                pass
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_what_is_no_prediction_is_refused(labels, tmp_path):
    with open_submission(tmp_path / "answers", CITYSCAPES) as submission:
        submission.add(FIRST, labels[FIRST])
        with pytest.raises(DataError, match=f"{FIRST} was added before; .*rename"):
            submission.add(FIRST, labels[FIRST])
        for name in ("../a", "a/b", "a\\b"):
            with pytest.raises(DataError, match="must be a plain file name"):
                submission.add(name, labels[FIRST])
        for wrong in (labels[FIRST].astype(int), labels[FIRST][None]):
            with pytest.raises(ValueError, match="must be uint8"):
                submission.add(SECOND, wrong)
        with pytest.raises(ValueError, match="go up to 255, must be below 19"):
            submission.add(SECOND, np.full((4, 4), IGNORE, np.uint8))


def with_pixel(value: int) -> bytes:
    pixels = np.full((HEIGHT, WIDTH), 7, np.uint8)
    pixels[0, 0] = value
    return png(pixels)


def renamed(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {name if old == FILE else old: data for old, data in files.items()}


def train_ids(files: dict[str, bytes]) -> dict[str, bytes]:
    return {
        name: png(coding_of("val").decode(np.asarray(Image.open(io.BytesIO(data))), name))
        for name, data in files.items()
    }


GREY16 = np.full((HEIGHT, WIDTH), 7, np.uint16)
RGB = np.full((HEIGHT, WIDTH, 3), 7, np.uint8)
OTHER = "berlin_000000_000019_labelIds.png"

# Name, change of the good files, the one broken rule, what it names, and how.
FLAWS = [
    ("missing", lambda x: {k: v for k, v in x.items() if k != FILE}, "missing", FIRST, ""),
    ("extra", lambda x: x | {OTHER: x[FILE]}, "foreign", OTHER, ""),
    (
        "twice under two names",
        lambda x: x | {f"{FIRST}_b.png": x[FILE]},
        "twice",
        FIRST,
        f"{FILE} and {FIRST}_b.png",
    ),
    (
        "twice under one name",
        lambda x: [*x.items(), (FILE, x[FILE])],
        "twice",
        FIRST,
        f"{FILE} and {FILE}",
    ),
    (
        "size",
        lambda x: x | {FILE: png(np.full((32, 48), 7, np.uint8))},
        "size",
        FILE,
        "48x32, not 96x64",
    ),
    ("RGB", lambda x: x | {FILE: png(RGB)}, "kind", FILE, "8-bit RGB"),
    ("16-bit", lambda x: x | {FILE: png(GREY16)}, "kind", FILE, "16-bit grey"),
    ("1-bit", lambda x: x | {FILE: png(RGB[..., 0] > 0)}, "kind", FILE, "1-bit grey"),
    ("255", lambda x: x | {FILE: with_pixel(255)}, "values", FILE, "255: 1 pixels"),
    ("34", lambda x: x | {FILE: with_pixel(34)}, "values", FILE, "34: 1 pixels"),
    ("train ids", train_ids, "train_ids", FILE, "values 0, 1, 2.*18"),
    ("unscored", lambda x: x | {FILE: with_pixel(0)}, "unscored", FILE, "0 unlabeled 0.0%"),
    ("cut PNG", lambda x: x | {FILE: x[FILE][:900]}, "damaged_png", FILE, "truncated"),
    ("no PNG", lambda x: x | {FILE: b"GIF89a"}, "damaged_png", FILE, "content is no PNG"),
    ("empty", lambda x: x | {FILE: b""}, "damaged_png", FILE, "content is no PNG"),
    ("nested", lambda x: renamed(x, f"a/{FILE}"), "nested", f"a/{FILE}", ""),
    ("parent", lambda x: renamed(x, f"../{FILE}"), "path", f"../{FILE}", ""),
    ("absolute", lambda x: renamed(x, f"/{FILE}"), "path", f"/{FILE}", ""),
    ("backslash", lambda x: renamed(x, f"..\\{FILE}"), "path", f"..\\{FILE}", ""),
    ("drive", lambda x: x | {"C:/": b""}, "path", "C:/", ""),
    ("other file", lambda x: x | {"README.txt": b"hello"}, "not_png", "README.txt", ""),
    ("other name", lambda x: x | {"berlin_1_2.png": x[FILE]}, "name", "berlin_1_2.png", ""),
    ("hidden", lambda x: x | {f"._{FILE}": x[FILE]}, "name", f"._{FILE}", ""),
]


@pytest.mark.parametrize(
    "change, rule, where, what", [flaw[1:] for flaw in FLAWS], ids=[flaw[0] for flaw in FLAWS]
)
def test_each_flaw_is_found_alone(change, rule, where, what, files, tmp_path):
    path = write_zip(tmp_path / "a.zip", change(files))
    report = check_submission(path, "test", SIZES)
    (finding,) = report.findings
    assert finding.rule == rule
    assert re.search(what or "^$", finding.found[where])
    assert report.errors == (rule not in ("nested", "unscored"))
    start = "error" if report.errors else "warning"
    assert str(finding).startswith(f"{start}: {len(finding.found)} ") and where in str(finding)


def test_every_rule_has_a_flaw():
    tested_below = {"zip", "count", "split", "damaged_in_zip"}
    assert {flaw[2] for flaw in FLAWS} | tested_below == RULES.keys()


def test_a_changed_byte(files, tmp_path):
    path = write_zip(tmp_path / "a.zip", files)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 100] ^= 1
    path.write_bytes(data)
    (rule, found), *others = findings(path).items()
    assert rule == "damaged_in_zip" and "CRC" in found[FILE] and not others


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_zip_that_is_not_whole(size, files, tmp_path):
    path = write_zip(tmp_path / "a.zip", files)
    path.write_bytes(path.read_bytes()[:size])
    report = check_submission(path, "test", SIZES)
    assert [finding.rule for finding in report.findings] == ["zip"]
    assert report.errors == 1 and str(path) in str(report.findings[0])
    with pytest.raises(DataError, match="b.zip: no such file; give the zip"):
        check_submission(tmp_path / "b.zip", "test")


def test_road_alone_is_no_train_id(files, tmp_path):
    # 7 is road by label ids, traffic sign by train ids; 255 does not hide train ids.
    road = dict.fromkeys(files, png(np.full((HEIGHT, WIDTH), 7, np.uint8)))
    assert findings(write_zip(tmp_path / "road.zip", road)) == {}
    void = np.zeros((HEIGHT, WIDTH), np.uint8)
    void[0] = IGNORE
    path = write_zip(tmp_path / "void.zip", train_ids(files) | {FILE: png(void)})
    assert findings(path).keys() == {"values", "train_ids"}


def test_without_the_split_its_public_number_and_size_count(files, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", files)
    found = findings(path, sizes=None)
    assert found == {"size": dict.fromkeys(files, "96x64, not 2048x1024")}
    monkeypatch.setattr(cityscapes, "HEIGHT", HEIGHT)
    monkeypatch.setattr(cityscapes, "WIDTH", WIDTH)
    assert findings(path, sizes=None) == {}
    monkeypatch.setitem(cityscapes.FRAMES, "test", 4)
    assert findings(path, sizes=None) == {"count": {"test": "3, not 4"}}
    # An incomplete split would pass an incomplete submission.
    assert findings(path) == {"split": {"test": "3, not 4"}}
    assert check_submission(path, "test", SIZES).errors == 0


def test_the_program(labels, files, tmp_path):
    root, answers = tmp_path / "data", tmp_path / "answers"
    write_streets(root, {"test": 3}, height=HEIGHT, width=WIDTH, extracted=True)
    source = open_source(DataConfig(source="cityscapes", root=str(root)), "test")
    with open_submission(answers, CITYSCAPES) as submission:
        for example in source:
            submission.add(example["name"], labels[example["name"]])
    config = ("--config=configs/cityscapes.py", f"--config.data.root={root}")
    good = program("check", answers / ZIP_NAME, *config)
    assert good.returncode == 0, good.stderr
    assert "3 label maps for split test, kinds of errors: 0" in good.stdout
    assert "warning: the split under config.data.root" in good.stdout
    assert "check: 100%" in good.stderr

    bad = write_zip(tmp_path / "bad.zip", files | {OTHER: with_pixel(255)})
    refused = program("check", bad, *config, f"--json={tmp_path / 'report.json'}")
    assert refused.returncode == 2 and "error: 1 files belong to no frame" in refused.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["label_maps"] == 4 and report["passed"] is False
    by_rule = {finding["rule"]: finding for finding in report["findings"]}
    assert by_rule.keys() == {"foreign", "split", "values"}
    assert by_rule["values"]["found"] == {OTHER: "255: 1 pixels"}
    assert by_rule["split"]["severity"] == "warning"

    unknown = program("check", answers / ZIP_NAME)
    assert unknown.returncode == 2 and "test (3, not 1525)" in unknown.stdout
    assert "not checked: whether the frames are those of the split" in unknown.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("look", "a.zip"), "must be check ZIP"),
        (("check",), "must be check ZIP"),
        (("check", "a.zip", "--config=configs/synthetic.py", "--split=val"), "no Cityscapes"),
    ],
)
def test_the_program_says_what_it_needs(arguments, message):
    result = program(*arguments)
    assert result.returncode == 2 and message in result.stderr
    assert "Traceback" not in result.stderr
