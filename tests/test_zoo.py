"""Shipped weights: found by name, offline, and only if they are what was published."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import bisenet_jax
from bisenet_jax import parallel
from bisenet_jax.config import Config, DataConfig
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import WeightsError
from bisenet_jax.evaluation.network import open_weights
from bisenet_jax.training.initial_weights import read_initial_weights
from bisenet_jax.weights import read_weights, write_weights
from bisenet_jax.zoo.registry import FOLDER, Entry, enter, find_weights, read_registry

ROOT = Path(__file__).parents[1]
REGISTRY = read_registry()
NAME = "bisenetv2-synthetic"


@pytest.fixture
def zoo(tmp_path, tiny_weights):
    """A folder with a register of one narrow network."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "registry.json").write_text("{}")
    path = folder / "narrow.safetensors"
    write_weights(path, tiny_weights, dtype="float16")
    data = path.read_bytes()
    enter(
        "narrow",
        Entry(path.name, hashlib.sha256(data).hexdigest(), len(data), "card.md", "one", "MIT"),
        folder,
    )
    return folder


@pytest.mark.parametrize("name", REGISTRY)
def test_every_shipped_file_is_the_one_published(name):
    entry = REGISTRY[name]
    data = (FOLDER / entry.file).read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry.sha256
    assert len(data) == entry.bytes < 8_000_000
    weights = read_weights(name)
    assert not any("booster" in part for part in weights.variables["params"])
    page = (ROOT / entry.card).read_text(encoding="utf-8")
    assert entry.sha256 in page and entry.licence in page
    record = json.loads((ROOT / entry.card).with_suffix(".json").read_text(encoding="utf-8"))
    if record.get("final"):
        # Its own frames are all trained on; what the recipe is worth, others have told.
        assert weights.score is None and "no labelled frame is left to score them by" in page
        assert 0 < record["miou_mean"] < 1 and len(record["runs"]) > 1
    else:
        assert weights.score is not None and 0 < weights.score.miou < 1
        assert f"{100 * weights.score.miou:.2f} %" in page
    row = f"| [{name}](models/{name}.md) |"
    assert row in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_the_synthetic_network_is_shipped_and_has_learnt():
    segmenter = bisenet_jax.load("bisenetv2-synthetic")
    assert segmenter.description["source"] == "bisenetv2-synthetic"
    image, truth = draw_street(7, 3, 160, 320)
    labels, is_known = segmenter.predict(image), truth < len(segmenter.class_set)
    assert (labels == truth)[is_known].mean() > 0.6  # the commonest class alone: under 0.4


def test_the_licence_of_camvid_passes_on():
    for name in REGISTRY.keys() & {"bisenetv2-camvid"}:
        assert "research use only" in REGISTRY[name].licence


def test_a_name_is_found_and_a_path_left_alone(zoo):
    assert find_weights("narrow", zoo) == zoo / "narrow.safetensors"
    assert find_weights("./narrow", zoo) == Path("narrow")
    assert find_weights(zoo / "narrow.safetensors", zoo) == zoo / "narrow.safetensors"


def test_a_damaged_file_is_refused(zoo):
    path = zoo / "narrow.safetensors"
    data, published = path.read_bytes(), read_registry(zoo)["narrow"].sha256
    assert find_weights("narrow", zoo) == path
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(1, 1))  # another state of the file, even on a clock of seconds
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=f"{found}.*{published}; reinstall"):
        find_weights("narrow", zoo)
    path.unlink()
    with pytest.raises(WeightsError, match="is missing; reinstall"):
        find_weights("narrow", zoo)


@pytest.mark.parametrize("text", ["[", '{"a": 5}', '{"a": {"file": "b"}}', "[1]"])
def test_a_register_that_is_none(zoo, text):
    (zoo / "registry.json").write_text(text)
    with pytest.raises(WeightsError, match="reinstall"):
        find_weights("narrow", zoo)


def test_an_entry_takes_the_place_of_its_name(zoo):
    entry = read_registry(zoo)["narrow"]
    other = Entry("b.safetensors", "0" * 64, 1, "card.md", "two", "MIT")
    enter("another", other, zoo)
    enter("narrow", other, zoo)
    assert read_registry(zoo) == {"another": other, "narrow": other} and other != entry


@pytest.mark.parametrize("opened", [bisenet_jax.load, read_weights])
def test_an_unknown_name_lists_the_known(opened):
    with pytest.raises(WeightsError, match="bisenetv2-nowhere .*bisenetv2-synthetic"):
        opened("bisenetv2-nowhere")


def test_every_door_takes_a_name(tmp_path):
    """export.py in a process; what evaluate.py and train.py open, here."""
    output = tmp_path / "full.safetensors"
    assert script("export.py", "--weights", NAME, "--output", output).returncode == 0
    shipped, full = read_weights(NAME), read_weights(output)
    jax.tree.map(np.testing.assert_array_equal, shipped.variables, full.variables)

    scored = open_weights(NAME, DataConfig(), parallel.make_mesh(jax.devices()[:1]))
    assert scored.title == NAME and scored.step == shipped.step

    options = Config()
    options.init.weights = NAME
    initial = read_initial_weights(options, shipped.model)
    assert initial is not None and initial.content_hash == shipped.content_hash


def test_a_script_lists_the_names(tmp_path):
    done = script("export.py", "--weights", "bisenetv2", "--output", tmp_path / "out")
    assert done.returncode == 2 and f"one of these names: {', '.join(REGISTRY)}" in done.stderr


def script(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_wheel_and_source_archive_hold_the_weights(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(
        ROOT / "bisenet_jax", tree / "bisenet_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    build = "from setuptools.build_meta import *; build_wheel('wheel'); build_sdist('source')"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = {"registry.json", *(entry.file for entry in REGISTRY.values())}
    (wheel,) = (tree / "wheel").iterdir()
    assert {f"bisenet_jax/zoo/{name}" for name in wanted} <= set(
        zipfile.ZipFile(wheel).namelist()
    )
    (source,) = (tree / "source").iterdir()
    names = {Path(name) for name in _members(source)}
    assert {Path(f"bisenet_jax/zoo/{name}") for name in wanted} <= names


def _members(path: Path) -> list[str]:
    with tarfile.open(path) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def test_no_file_is_left_unlisted():
    listed = {entry.file for entry in REGISTRY.values()}
    assert {path.name for path in FOLDER.glob("*.safetensors")} == listed
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "*.safetensors" in patterns["package-data"]["bisenet_jax.zoo"]
