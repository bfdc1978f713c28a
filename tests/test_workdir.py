"""A workdir belongs to one run at a time, until that run ends in whatever way."""

import errno
import signal
import subprocess
import sys

import pytest

from bisenet_jax import config_file
from bisenet_jax.config import DataConfig
from bisenet_jax.data.classes import CAMVID, CITYSCAPES
from bisenet_jax.errors import CheckpointError, ConfigError, OutputError
from bisenet_jax.training import checkpoint, workdir
from bisenet_jax.training.trained_classes import CLASSES_FILE, require_classes, trained_classes
from bisenet_jax.training.workdir import LOCK_FILE, claim


def test_a_second_run_is_refused_while_the_first_lives(tmp_path, tiny_config):
    with claim(tmp_path, tiny_config, 0):
        with pytest.raises(
            ConfigError, match=r"another run is at work in .* \(process \d+ on .*\): wait"
        ):
            with claim(tmp_path, tiny_config, 0):
                pass
    with claim(tmp_path, tiny_config, 0):
        pass


@pytest.mark.parametrize("key", sorted(workdir.FREE_KEYS))
def test_a_run_goes_on_with_other_means(key, tmp_path, tiny_config):
    with claim(tmp_path, tiny_config, 0):
        pass
    section, field = key.split(".")[1:]
    value = getattr(getattr(tiny_config, section), field)
    other = f"{value}/elsewhere" if isinstance(value, str) else value + 1
    setattr(getattr(tiny_config, section), field, other)
    with claim(tmp_path, tiny_config, 0):
        assert getattr(getattr(config_file.load(tmp_path), section), field) == other


def test_a_run_goes_on_with_no_other_numbers(tmp_path, tiny_config):
    with claim(tmp_path, tiny_config, 0):
        pass
    tiny_config.train.seed += 1
    with pytest.raises(ConfigError, match="config.train.seed 0, now 1.*repeat its flags"):
        with claim(tmp_path, tiny_config, 0):
            pass


CLASSES = """{"name": "mine", "classes": [
    {"name": "lawn", "colour": [0, 200, 0]}, {"name": "%s", "colour": [200, 0, 0]}]}"""


def test_a_class_file_that_was_changed_is_told_and_names_nothing_anew(tmp_path, tiny_config):
    path, folder = tmp_path / "classes.json", tmp_path / "run"
    path.write_text(CLASSES % "path")
    tiny_config.data.classes = str(path)
    with claim(folder, tiny_config, 0):
        pass
    path.write_text(CLASSES % "pond")
    with pytest.raises(ConfigError, match="class 1 is 'path' there, 'pond' here"):
        with claim(folder, tiny_config, 0):
            pass
    assert trained_classes(folder, tiny_config.data).names == ("lawn", "path")
    path.unlink()
    assert trained_classes(folder, tiny_config.data).names == ("lawn", "path")
    (folder / CLASSES_FILE).write_text("[1]")
    with pytest.raises(CheckpointError, match="describes no classes .*; remove it"):
        trained_classes(folder, tiny_config.data)


def test_a_run_of_before_there_were_records_gets_one(tmp_path, tiny_config):
    config_file.save(tiny_config, tmp_path)
    assert trained_classes(tmp_path, tiny_config.data) == CITYSCAPES
    with claim(tmp_path, tiny_config, 0):
        assert trained_classes(tmp_path, tiny_config.data) == CITYSCAPES
    assert (tmp_path / CLASSES_FILE).is_file()


def test_another_number_of_classes_is_told():
    with pytest.raises(ConfigError, match="w knows the 11 .* 'cityscapes' names the 19 .*numb"):
        require_classes("w", CAMVID, DataConfig())
    require_classes("w", CITYSCAPES, DataConfig())


def test_the_kernel_frees_the_folder_of_a_killed_run(tmp_path, tiny_config):
    script = (
        "import fcntl, sys, time\n"
        "file = open(sys.argv[1], 'a+')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / LOCK_FILE], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="another run is at work"):
            with claim(tmp_path, tiny_config, 0):
                pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with claim(tmp_path, tiny_config, 0):
        pass


def test_a_run_that_ended_between_look_and_lock_is_seen(tmp_path, tiny_config):
    (tmp_path / checkpoint.FOLDER / "4").mkdir(parents=True)
    with pytest.raises(ConfigError, match="has ended this moment; start again"):
        with claim(tmp_path, tiny_config, 2):
            pass


def test_a_file_system_without_locks_is_named(tmp_path, tiny_config, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with claim(tmp_path, tiny_config, 0):
        assert "cannot be locked (No locks available): start no second" in (
            capsys.readouterr().out
        )


def test_a_place_that_cannot_be_written_is_named(tmp_path, tiny_config):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OutputError, match=r"file/run/lock cannot be written .*another --workdir"
    ):
        with claim(tmp_path / "file" / "run", tiny_config, 0):
            pass
