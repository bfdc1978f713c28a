"""What must never come back: code out of files, names out of archives, loaders that trust."""

import ast
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bisenet_jax.convert.checkpoint import read_checkpoint
from bisenet_jax.data.cityscapes.archive import open_zip
from bisenet_jax.data.cityscapes.labels import IMAGE_FOLDER, LABEL_FOLDER
from bisenet_jax.data.cityscapes.preparation import prepare_cityscapes
from bisenet_jax.errors import UserError, WeightsError

ROOT = Path(__file__).parents[1]
FILES = [
    *ROOT.glob("*.py"),
    *(
        path
        for part in ("bisenet_jax", "benchmarks", "configs")
        for path in (ROOT / part).rglob("*.py")
    ),
]
EXACTLY = {"eval", "exec", "__import__", "compile"}  # a method of that name is another thing
# Calls by the end of their name.
FORBIDDEN = {
    *("os.system", "os.popen", "extractall", "extract", "unpack_archive", "mktemp"),
    *("yaml.load", "yaml.unsafe_load", "shelve.open", "read_pickle"),
    *(
        f"{module}.{name}"
        for module in ("pickle", "marshal", "dill", "joblib")
        for name in ("load", "loads", "Unpickler")
    ),
}
# Arguments that must be given as they stand here wherever the call is made.
REQUIRED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
# And those that must not have this value anywhere.
REFUSED = {("allow_pickle", True), ("shell", True), ("weights_only", False), ("verify", False)}


def findings(text: str, name: str = "file.py") -> list[str]:
    """Each call that trusts what it should not."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {
            each.arg: each.value.value
            for each in node.keywords
            if isinstance(each.value, ast.Constant)
        }
        wrong = called in EXACTLY or any(f".{called}".endswith(f".{bad}") for bad in FORBIDDEN)
        wrong |= bool(REFUSED & set(keywords.items()))
        for required, (argument, value) in REQUIRED.items():
            wrong |= called.endswith(required) and keywords.get(argument) is not value
        if wrong:
            found.append(f"{name}:{node.lineno} {ast.unparse(node)[:80]}")
    return found


def test_no_call_trusts_a_file():
    assert len(FILES) > 100
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    assert not [line for name, text in texts.items() for line in findings(text, name)]


@pytest.mark.parametrize(
    "text",
    [
        "pickle.load(file)",
        "eval('1')",
        "numpy.load(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "zipfile.ZipFile(path).extractall(folder)",
        "tarfile.open(path).extract(member)",
        "subprocess.run(command, shell=True)",
        "yaml.load(text)",
    ],
)
def test_such_a_call_is_seen(text):
    assert findings(text)
    assert not findings(f"'{text.replace(chr(39), '')}'")


class Bomb:
    """What a pickle may ask a reader to call."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_no_weights_file_runs_code(tmp_path):
    torch = pytest.importorskip("torch")
    trace = tmp_path / "it ran"
    torch.save({"state_dict": {"a": Bomb(trace)}}, tmp_path / "new.pth")
    torch.save({"a": Bomb(trace)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "a.npz", a=np.array([Bomb(trace)], object))
    # The files are what they are meant to be.
    with np.load(tmp_path / "a.npz", allow_pickle=True) as arrays:
        arrays["a"]
    trace.unlink()
    for name in ("new.pth", "old.pt", "a.npz"):
        with pytest.raises(WeightsError):
            read_checkpoint(tmp_path / name)
    assert not trace.exists()


def png(mode: str) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (16, 8)).save(file, "PNG")
    return file.getvalue()


OUTSIDE = ["../../outside.png", "/tmp/bisenet_jax_outside.png", "train/../../../outside.png"]


def test_members_of_a_zip_stay_where_they_are(tmp_path):
    """Names that climb, absolute ones and links: nothing of them becomes a path here."""
    zips, output = tmp_path / "deep" / "zips", tmp_path / "deep" / "output"
    zips.mkdir(parents=True)
    frame = "train/ulm/ulm_000000_000019"
    for part, ending, mode, zip_name in (
        (IMAGE_FOLDER, "leftImg8bit", "RGB", "leftImg8bit_trainvaltest.zip"),
        (LABEL_FOLDER, "gtFine_labelIds", "L", "gtFine_trainvaltest.zip"),
    ):
        with zipfile.ZipFile(zips / zip_name, "w") as file:
            file.writestr(f"{part}/{frame}_{ending}.png", png(mode))
            for name in OUTSIDE:
                file.writestr(name, b"outside")
                file.writestr(f"{part}/{name}", b"outside")
            link = zipfile.ZipInfo(f"{part}/train/link")
            link.create_system, link.external_attr = 3, 0o120777 << 16
            file.writestr(link, str(tmp_path))
        with open_zip(zips / zip_name) as archive:
            assert archive.read(f"{part}/train/link") == str(tmp_path).encode()
    try:
        prepare_cityscapes(zips, output, ["train"], 1 << 20)
    except UserError:
        pass  # refusing is as good
    written = list(tmp_path.rglob("*"))
    assert not [path for path in written if "outside" in path.name or path.is_symlink()]
    assert not Path("/tmp/bisenet_jax_outside.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"zips", "output"}
