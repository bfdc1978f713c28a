"""Files are whole or not there."""

import json

import pytest

from bisenet_jax.errors import OutputError
from bisenet_jax.files import write_bytes, write_json


def test_write_json_makes_the_folder_and_indents(tmp_path):
    path = tmp_path / "a" / "b" / "scores.json"
    write_json(path, {"miou": 0.5, "name": "Straße"})
    assert path.read_text(encoding="utf-8") == '{\n  "miou": 0.5,\n  "name": "Straße"\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_write_json_keeps_the_old_file_on_nan(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"miou": 0.5})
    with pytest.raises(ValueError):
        write_json(path, {"miou": float("nan")})
    assert json.loads(path.read_text()) == {"miou": 0.5}


def test_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    write_bytes(path, b"old")

    def refuse(source, target):
        raise OSError("no space")

    monkeypatch.setattr("bisenet_jax.files.os.replace", refuse)
    with pytest.raises(OutputError, match=r"picture.png cannot be written \(no space\)"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_for_no_file_is_named(tmp_path):
    write_bytes(tmp_path / "folder" / "file", b"old")
    for place in (tmp_path / "folder", tmp_path / "folder" / "file" / "below"):
        with pytest.raises(OutputError, match=f"{place} cannot be written .*another place"):
            write_bytes(place, b"new")
    assert (tmp_path / "folder" / "file").read_bytes() == b"old"
    assert list(tmp_path.rglob("*.partial")) == []
