"""docs/errors.md, row by row: each mistake is made, and must be told as the table says."""

import asyncio
import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from absl import flags
from PIL import Image

from bisenet_jax import command_line, config_file, distributed, media, segmenter, video
from bisenet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from bisenet_jax.config_rules import validate
from bisenet_jax.convert.checkpoint import read_checkpoint
from bisenet_jax.convert.convert import Options, import_from
from bisenet_jax.data import decode, statistics
from bisenet_jax.data.cityscapes.archive import open_zip
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.coco_stuff import MATRIX_IDS
from bisenet_jax.data.sources import open_source
from bisenet_jax.export.verification import find_pictures
from bisenet_jax.files import write_bytes, write_json
from bisenet_jax.model.presets import build_model
from bisenet_jax.parallel import make_mesh
from bisenet_jax.protocol import Protocol
from bisenet_jax.training.run import restore_run
from bisenet_jax.weights import read_weights, write_weights
from bisenet_jax.zoo.registry import Entry, enter, find_weights

ROOT = Path(__file__).parents[1]
LAWN, PATH = ({"name": name, "colour": [9, 9, i]} for i, name in enumerate(("lawn", "path")))


class Row(NamedTuple):
    """`message` is a pattern of the whole line, `end` an exit code or an HTTP status."""

    mistake: str
    message: str
    end: str


def read_rows() -> list[Row]:
    rows = []
    for line in (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| ") or cells[1].startswith("what you"):
            continue
        mistake, message, end = cells
        parts = map(re.escape, message.strip("`").split("…"))
        rows.append(Row(mistake, ".*".join(parts), end))
    return rows


class Stage:
    """A folder with something in it for every mistake."""

    def __init__(self, folder: Path, weights: Any):
        self.folder = folder
        self._weights = weights

    def file(self, name: str, content: bytes | str | Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes | str):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def weights(self, change: Callable[[bytes], bytes] = bytes) -> Path:
        path = self.folder / "weights.safetensors"
        write_weights(path, self._weights)
        return self.file(path.name, change(path.read_bytes()))

    def split(self, image: bytes | None, label: bytes | None, **fields: Any) -> Any:
        """The first example of a data set of one pair."""
        for part, content in (("images", image), ("labels", label)):
            (self.folder / "train" / part).mkdir(parents=True, exist_ok=True)
            if content is not None:
                self.file(f"train/{part}/a.png", content)
        config = {"source": "folder", "root": str(self.folder)} | fields
        return open_source(DataConfig(**config), "train")[0]


def png(height: int = 6, width: int = 8, mode: str = "RGB", value: int = 0, **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height), value).save(file, "PNG", **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG whose header claims another size."""
    content = bytearray(png())
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(exif=exif)


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (8, 6), shade) for shade in (0, 255)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def lying_zip(stage: Stage) -> Path:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as whole:
        whole.writestr("big.png", b"small")
    content = bytearray(file.getvalue())
    # The size in the directory, which lies behind all members.
    place = content.index(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 2**31)
    return stage.file("gt.zip", bytes(content))


def lying_npz(stage: Stage) -> Path:
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 1000)}
    np.lib.format.write_array_header_1_0(header, about)
    with zipfile.ZipFile(stage.folder / "huge.npz", "w") as file:
        file.writestr("a.npy", header.getvalue() + b"few")
    return stage.folder / "huge.npz"


def packed_pth(stage: Stage) -> Path:
    """Zeros that zip made small, says its table: PyTorch would inflate them uncounted."""
    pytest.importorskip("torch")
    with zipfile.ZipFile(stage.folder / "packed.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data/0", bytes(100))
        file.infolist()[0].file_size = 2**31 + 1
    return stage.folder / "packed.pth"


def saved_npz(stage: Stage, array: np.ndarray) -> Path:
    np.savez(stage.folder / "theirs.npz", **{"a.weight": array})
    return stage.folder / "theirs.npz"


def saved_pth(stage: Stage, content: Any) -> Path:
    torch = pytest.importorskip("torch")
    torch.save(content, stage.folder / "theirs.pth")
    return stage.folder / "theirs.pth"


def damaged_pth(stage: Stage) -> Path:
    pytest.importorskip("torch")
    return stage.file("theirs.pth", pickle.dumps({"a": 1})[:-3])


def endless_view(numbers: int = 2**40) -> Any:
    torch = pytest.importorskip("torch")
    return {"a.weight": torch.zeros(1).expand(numbers)}


def damaged_zoo(stage: Stage) -> Path:
    """A folder of shipped weights in which one byte is another than was published."""
    stage.file("registry.json", "{}")
    stage.file("narrow.safetensors", "another byte")
    enter("narrow", Entry("narrow.safetensors", "0" * 64, 12, "", "", ""), stage.folder)
    return stage.folder


def changed_format(content: bytes) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    about = json.loads(header["__metadata__"]["bisenet_jax"]) | {"format_version": 9}
    del about["description_hash"]
    header["__metadata__"]["bisenet_jax"] = json.dumps(about)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def open_video(path: Path) -> None:
    pytest.importorskip("cv2")
    with video.open_video(path):
        pass


def open_archive(path: Path) -> None:
    with open_zip(path) as archive:
        archive.read("big.png")


def join(*flags: Any) -> None:
    distributed.join(*flags, is_detected=False, join_seconds=1, heartbeat_seconds=5)


def listen_twice(stage: Stage) -> None:
    server = pytest.importorskip("bisenet_jax.demo.server")
    with server.listen("127.0.0.1", 0) as taken:
        server.listen("127.0.0.1", taken.getsockname()[1])


def restore(stage: Stage, wish: str, has_folder: bool) -> None:
    if has_folder:
        (stage.folder / "checkpoints").mkdir()
    restore_run(stage.folder, Config(), wish, make_mesh())


def ask(
    path: str = "/segment", body: bytes = b"", method: str = "POST", **headers: str
) -> tuple[int, str]:
    """Status and error that the page's server answers with; asked without a network."""
    server = pytest.importorskip("bisenet_jax.demo.server")
    headers = {"host": "127.0.0.1:8000", "content-type": "image/png"} | headers
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "scheme": "http",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    # A mistake is found before the network is asked.
    app: Any = server.make_app(None)
    asyncio.run(app(scope, receive, send))
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], json.loads(answer)["error"]


def script(*arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)


def leave_early(stage: Stage) -> subprocess.CompletedProcess[str]:
    command = f"'{sys.executable}' predict.py --help | true; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, stdout=-1, text=True
    )


# What a mistake is: flags, as a list; or a call that raises, answers or ends.
NESTED = "[" * 100_000
MISTAKES: dict[str, list[str] | Callable[[Stage], Any]] = {
    "a flag that does not exist": ["--colour"],
    "a word too many": ["extra"],
    "a field that does not exist": ["--config.train.stepz=3"],
    "a configuration that is not there": ["--config", "nowhere.py"],
    "neither configuration nor run": lambda s: command_line.read_config(None, None),
    "an output that lies in a file": lambda s: write_json(s.file("a", "") / "b.json", {}),
    "a path that is too long": lambda s: segmenter.load("x" * 5000),
    "the reader of the output leaves": leave_early,
    "a value of another type": lambda s: validate(Config(train=TrainConfig(steps="ten"))),
    "a value out of range": lambda s: validate(
        Config(augment=AugmentConfig(flip_probability=2.0))
    ),
    "not a number": lambda s: validate(Config(augment=AugmentConfig(scales=(np.nan,)))),
    "a crop that does not fit the network": lambda s: validate(
        Config(augment=AugmentConfig(crop_height=100))
    ),
    "micro-batches that do not divide the batch": lambda s: validate(
        Config(train=TrainConfig(micro_batches=3))
    ),
    "one image to a batch norm": lambda s: validate(Config(train=TrainConfig(batch_size=1))),
    "Muon at SGD's learning rate": lambda s: validate(
        Config(optimizer=OptimizerConfig(method="muon"))
    ),
    "a mean for pixels from 0 to 255": lambda s: validate(
        Config(data=DataConfig(mean=(123.675, 116.28, 103.53)))
    ),
    "no folder": lambda s: validate(Config(data=DataConfig(source="folder"))),
    "an unknown preset": lambda s: build_model(**{"preset": ModelConfig("v3").preset}),
    "a run without config.json": lambda s: config_file.load(s.folder),
    "a config.json that is cut off": lambda s: config_file.load(
        s.file("config.json", '{"model": {').parent
    ),
    "a config.json nested without end": lambda s: config_file.load(
        s.file("config.json", NESTED).parent
    ),
    "an unknown class set": lambda s: find_class_set("mapillary"),
    "a class file that is not there": lambda s: find_class_set("nowhere.json"),
    "a class file with a class twice": lambda s: find_class_set(
        str(s.file("c.json", {"classes": [LAWN, LAWN]}))
    ),
    "a class file with values that are no list": lambda s: find_class_set(
        str(s.file("c.json", {"classes": [LAWN | {"values": 5}, PATH]}))
    ),
    "statistics of another program": lambda s: statistics.read(s.file("s.json", {})),
    "statistics that were changed": lambda s: statistics.read(
        s.file("s.json", {"form": statistics.FORM, "frames": [["a", [0], [-4]]]})
    ),
    "no such data folder": lambda s: s.split(None, None, root=str(s.folder / "nowhere")),
    "a split without pictures": lambda s: s.split(None, None),
    "a picture without a label map": lambda s: s.split(png(), None),
    "a label map of another size": lambda s: s.split(png(), png(8, 6, "L")),
    "a label value that is no class": lambda s: s.split(png(), png(mode="L", value=77)),
    "a label map in colours": lambda s: s.split(png(), png()),
    "a training picture that is cut off": lambda s: s.split(png()[:45], png(mode="L")),
    "a training picture that claims a huge size": lambda s: s.split(
        # Pillow itself refuses larger ones only.
        bomb(9_000),
        png(mode="L"),
    ),
    "a training picture turned by EXIF": lambda s: decode.decode_image(turned(), "a.png"),
    "a MATLAB file that is damaged": lambda s: MATRIX_IDS.read(s.file("a.mat", "x" * 200)),
    "a zip that is a web page": lambda s: open_archive(s.file("gt.zip", "<html>")),
    "a zip member that claims a huge size": lambda s: open_archive(lying_zip(s)),
    "an input that is not there": lambda s: media.find_inputs(["nowhere.jpg"]),
    "a folder without pictures": lambda s: media.find_inputs([str(s.folder)]),
    "a file that is no picture": lambda s: media.read_picture(s.file("a.jpg", "text")),
    "a picture that is cut off": lambda s: media.read_picture(s.file("a.png", png()[:45])),
    "a picture that claims a huge size": lambda s: media.read_picture(
        s.file("a.png", bomb(30_000))
    ),
    "an animation": lambda s: media.read_picture(s.file("a.tif", animation())),
    "a file that is no video": lambda s: open_video(s.file("a.mp4", "text")),
    "a playlist that names other files": lambda s: open_video(
        s.file("a.mp4", "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret.ts\n")
    ),
    "weights that are not there": lambda s: segmenter.load("nowhere.safetensors"),
    "a shipped file that was changed": lambda s: find_weights("narrow", damaged_zoo(s)),
    "another kind of file": lambda s: read_weights(s.file("w.safetensors", png())),
    "weights that are cut off": lambda s: read_weights(s.weights(lambda data: data[:-9])),
    "weights of another project": lambda s: read_weights(
        s.file("w.safetensors", struct.pack("<Q", 2) + b"{}")
    ),
    "a changed number": lambda s: read_weights(
        s.weights(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    ),
    "a changed description": lambda s: read_weights(
        s.weights(lambda data: data.replace(rb"sky", rb"sea", 1))
    ),
    "a newer format": lambda s: read_weights(s.weights(changed_format)),
    "a run without checkpoints": lambda s: restore(s, "best", has_folder=False),
    "a checkpoint that is no name": lambda s: restore(s, "newest", has_folder=True),
    "an unknown suffix": lambda s: read_checkpoint(s.file("theirs.onnx", "")),
    "a .pth that would run code": lambda s: read_checkpoint(
        saved_pth(s, {"a": Path("anything but a tensor")})
    ),
    "a .pth that is damaged": lambda s: read_checkpoint(damaged_pth(s)),
    "an .npz that would run code": lambda s: read_checkpoint(
        saved_npz(s, np.array([Path("anything but a number")], object))
    ),
    "an .npz that unpacks to a huge size": lambda s: read_checkpoint(lying_npz(s)),
    "a .pth that inflates to a huge size": lambda s: read_checkpoint(packed_pth(s)),
    "views in tables that are huge together": lambda s: read_checkpoint(
        saved_pth(s, {f"part{index}": endless_view(2**28) for index in range(3)})
    ),
    "a view that is larger than its file": lambda s: read_checkpoint(
        saved_pth(s, endless_view())
    ),
    "numbers that are not finite": lambda s: read_checkpoint(saved_npz(s, np.array([np.inf]))),
    "a checkpoint of another network": lambda s: import_from(
        "coincheung", str(saved_npz(s, np.zeros(3))), str(s.folder / "out"), Options()
    ),
    "an unknown protocol": lambda s: Protocol("third"),
    "scales that are no sizes": lambda s: Protocol(scales=(float("nan"),)),
    "a window that leaves pixels out": lambda s: Protocol(crop=(8, 8), stride=(9, 8)),
    "an export of one side": lambda s: script(
        *("export.py", "--weights", "nowhere", "--output", "out"),
        *("--format", "stablehlo", "--height", "64"),
    ),
    "pictures to verify that are no folder": lambda s: find_pictures("nowhere"),
    "one flag of three": lambda s: join("host:1", None, None),
    "an address without a port": lambda s: join("host", 2, 0),
    "a process that is one too many": lambda s: join("host:1", 2, 2),
    "no cluster": lambda s: script("evaluate.py", "--distributed"),
    "a port that is taken": listen_twice,
    "another name for this machine": lambda s: ask(host="evil.example"),
    "a request from another site": lambda s: ask(origin="https://evil.example"),
    "an upload that is no picture": lambda s: ask(body=b"text"),
    "an upload as a form": lambda s: ask(**{"content-type": "text/plain"}),
    "an empty upload": lambda s: ask(),
    "an upload that is too large": lambda s: ask(**{"content-length": "20000001"}),
    "a picture of too many pixels": lambda s: ask(body=bomb(30_000)),
    "an unknown size to shrink to": lambda s: ask("/segment?longest=77", b"x"),
    "a path that climbs": lambda s: ask("/../../../etc/passwd", method="GET"),
}


def make(mistake: list[str] | Callable[[Stage], Any], stage: Stage, capsys, monkeypatch) -> Any:
    """What a script would write to standard error and end with, or a server answer."""
    ends: list[int] = []
    answers: list[Any] = []
    words = mistake if isinstance(mistake, list) else []
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    # The flags of this test are none of the scripts' that other tests have loaded.
    monkeypatch.setattr(flags, "FLAGS", flags.FlagValues())
    call = (lambda: None) if isinstance(mistake, list) else lambda: mistake(stage)
    command_line.run(lambda: answers.append(call()), "A script.", end=ends.append)
    if answers and answers[0] is not None:
        return answers[0]
    return ends[0], capsys.readouterr().err


@pytest.mark.parametrize("row", read_rows(), ids=lambda row: row.mistake)
def test_the_table_tells_the_truth(row, tmp_path, tiny_weights, capsys, monkeypatch):
    stage = Stage(tmp_path, tiny_weights)
    found = make(MISTAKES[row.mistake], stage, capsys, monkeypatch)
    if isinstance(found, subprocess.CompletedProcess):
        found = found.returncode, found.stderr
    end, text = found
    assert re.fullmatch(row.message, text.strip().removeprefix("error: "))
    assert row.end.split()[-1] == str(end)


def test_every_mistake_has_its_row():
    rows = read_rows()
    assert len(rows) > 70
    assert [row.mistake for row in rows] == list(MISTAKES)


def test_help_shows_flags_and_no_path(capsys):
    done = script("-m", "bisenet_jax.convert", "--help")
    assert done.returncode == 0 and not done.stderr
    assert "--fresh_heads" in done.stdout.replace("[no]", "")
    assert str(ROOT) not in done.stdout and "__main__" not in done.stdout


def test_nothing_is_written_beside_the_error(tmp_path):
    with pytest.raises(OSError):
        write_bytes(tmp_path, b"a folder is no file")
    assert not list(tmp_path.iterdir())
