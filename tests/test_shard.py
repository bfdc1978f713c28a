"""A shard is whole or not there, whatever fails on the way."""

import os

import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource

from bisenet_jax.data.cityscapes import shard
from bisenet_jax.data.cityscapes.shard import read_ends, write_shard
from bisenet_jax.errors import DataError

RECORDS = [bytes([index]) * (1000 * index + 1) for index in range(5)]


def test_records_come_back_in_order(tmp_path):
    write_shard(tmp_path / "a", iter(RECORDS))
    assert list(ArrayRecordDataSource(str(tmp_path / "a"))) == RECORDS
    assert read_ends(tmp_path / "a") == (5, RECORDS[0], RECORDS[-1])
    assert os.listdir(tmp_path) == ["a"]


def test_a_source_that_fails_leaves_nothing(tmp_path):
    def records():
        yield from RECORDS
        raise DataError("broken.png")

    with pytest.raises(DataError, match="broken.png"):
        write_shard(tmp_path / "a", records())
    assert os.listdir(tmp_path) == []


def test_a_failed_rewrite_keeps_the_old_file(tmp_path, monkeypatch):
    write_shard(tmp_path / "a", iter(RECORDS))

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match="a: cannot be written .*No space left.*finished files"):
        write_shard(tmp_path / "a", iter(RECORDS[:2]))
    assert os.listdir(tmp_path) == ["a"]
    assert read_ends(tmp_path / "a") == (5, RECORDS[0], RECORDS[-1])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="none/a: cannot be written .*No such file"):
        write_shard(tmp_path / "none" / "a", iter(RECORDS))


def test_what_comes_back_is_compared(tmp_path, monkeypatch):
    def write_less(path, records, write=shard._write):
        return [*write(path, records), 0]

    monkeypatch.setattr(shard, "_write", write_less)
    with pytest.raises(DataError, match="other bytes came back"):
        write_shard(tmp_path / "a", iter(RECORDS))
    assert os.listdir(tmp_path) == []


def test_damaged_files_have_no_ends(tmp_path):
    path = tmp_path / "a"
    assert read_ends(path) is None
    write_shard(path, iter(RECORDS))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert read_ends(path) is None
    path.write_bytes(b"")
    assert read_ends(path) is None
    place = data.index(RECORDS[-1])
    path.write_bytes(data[:place] + b"x" + data[place + 1 :])
    assert read_ends(path) is None
