"""From runs to a shipped network in one command: each number on the card has its source."""

import dataclasses
import gzip
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import train
from bisenet_jax import config_file
from bisenet_jax.data.sources import open_source
from bisenet_jax.errors import ConfigError
from bisenet_jax.publish.addition import measure_further, read_published
from bisenet_jax.publish.card import render_card
from bisenet_jax.publish.measurement import measure_runs, read_final
from bisenet_jax.publish.rows import describe_data, describe_miou, result_row
from bisenet_jax.publish.training_log import unpack_logs
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.training.logs import read_log
from bisenet_jax.weights import read_weights
from bisenet_jax.zoo.registry import find_weights, read_registry

ROOT = Path(__file__).parents[1]
HEAD = "| what | protocol | result |"
PAGE = f"# Results\n\n{HEAD}\n|---|---|---|\n| old | x | y |\n"
README = "| a | b | c |\n|---|---|---|\n\n| name | what | card |\n|---|---|---|\n"


@pytest.fixture(scope="module")
def published(tmp_path_factory, make_tiny_config) -> Path:
    """Two runs of one recipe, published by the script into a bare repository."""
    folder = tmp_path_factory.mktemp("published")
    options = make_tiny_config()
    options.train.steps, options.train.evaluate_every = 4, 2
    for seed in (0, 1):
        options.train.seed = seed
        train.train(options, folder / f"run{seed}")
    root = folder / "root"
    for part in ("bisenet_jax/zoo", "docs/models"):
        (root / part).mkdir(parents=True)
    (root / "bisenet_jax/zoo/registry.json").write_text("{}")
    (root / "docs/results.md").write_text(PAGE)
    (root / "README.md").write_text(README)
    assert "narrow.notes.md does not exist: write there" in publish(folder, code=2)
    (root / "docs/models/narrow.notes.md").write_text("## Limits\n\nDrawn, not seen.\n")
    assert "narrow: " in publish(folder)
    return folder


def publish(folder: Path, *further: object, code: int = 0) -> str:
    words = ["--name", "narrow", "--config", "configs/synthetic.py", "--root", folder / "root"]
    words += ["--device", "a test", "--commit", "abc123", *further]
    words += ["--workdir", folder / "run0", folder / "run1"]
    return run_publish(words, code)


def run_publish(words: list[object], code: int) -> str:
    """What it tells: the errors of a run that ends in one."""
    command = [sys.executable, "-m", "bisenet_jax.publish", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


def test_the_shipped_file_is_the_best_checkpoint(published):
    zoo = published / "root/bisenet_jax/zoo"
    entry = read_registry(zoo)["narrow"]
    path = find_weights("narrow", zoo)
    assert entry.bytes == len(path.read_bytes()) and entry.card == "docs/models/narrow.md"
    weights, record = read_weights(path), read_record(published)
    shipped = max(record["runs"], key=lambda run: run["miou"])
    assert weights.score.miou == shipped["miou"] == record["scores"]["miou"]
    assert shipped["is_shipped"] and sum(run["is_shipped"] for run in record["runs"]) == 1
    assert weights.training["train"]["seed"] == shipped["seed"]
    assert weights.step == shipped["step"]
    # Scored anew by what a user calls, picture by picture.
    hits, unions = np.zeros(19), np.zeros(19)
    segmenter = Segmenter(weights)
    for index in range(3):
        image, truth = synthetic_frame(published, index)
        labels = segmenter.predict(image)
        for class_id in range(19):
            here, there = labels == class_id, truth == class_id
            hits[class_id] += (here & there).sum()
            unions[class_id] += ((here | there) & (truth < 19)).sum()
    ious = hits[unions > 0] / unions[unions > 0]
    np.testing.assert_allclose(record["scores"]["miou"], ious.mean(), rtol=1e-12)


def synthetic_frame(folder: Path, index: int) -> tuple[np.ndarray, np.ndarray]:
    example = open_source(config_file.load(folder / "run0").data, "val")[index]
    return example["image"], example["label"]


def read_record(folder: Path) -> dict:
    return json.loads((folder / "root/docs/models/narrow.json").read_text())


def test_the_card_says_how_the_number_came_about(published):
    record = read_record(published)
    page = (published / "root/docs/models/narrow.md").read_text()
    mious = [100 * run["miou"] for run in record["runs"]]
    mean, deviation = statistics.mean(mious), statistics.stdev(mious)
    told = f"{mean:.2f} ± {deviation:.2f} % (2 seeds; the shipped one {max(mious):.2f} %)"
    assert told in page
    for words in (
        read_registry(published / "root/bisenet_jax/zoo")["narrow"].sha256,
        "protocol full",
        "commit `abc123`, a test",
        "MIT, as the rest",
        "--config.train.steps=4",
        "choosing by the split that is quoted",
        "Drawn, not seen.",
    ):
        assert words in page
    for name, iou in record["scores"]["class_iou"].items():
        cell = "-" if iou is None else f"{100 * iou:.2f}"
        assert re.search(rf"^\| {name} \| {cell} \|", page, re.MULTILINE)
    row = (published / "root/docs/results.md").read_text().splitlines()[4]
    assert row.startswith("| [narrow](models/narrow.md) |") and told in row
    assert "| 0, 1 |" in row
    row = (published / "root/README.md").read_text().splitlines()[5]
    assert row.startswith(
        "| `narrow` | BiSeNet V2 for the 19 classes of cityscapes, trained on"
    )
    assert f"{max(mious):.2f} % mIoU on val; MIT" in row


@pytest.fixture(scope="module")
def with_final(published, make_tiny_config) -> Path:
    """The same two runs, and one on more frames, which is shipped."""
    options = make_tiny_config()
    options.train.steps, options.train.evaluate_every, options.train.seed = 4, 2, 2
    options.data.train_split = "trainval"
    shutil.copytree(published, published.parent / "with_final")
    folder = published.parent / "with_final"
    train.train(options, folder / "all")
    publish(folder, "--final", folder / "all")
    return folder


def test_a_final_run_is_shipped_and_the_recipe_is_scored(with_final, published):
    zoo = with_final / "root/bisenet_jax/zoo"
    weights, record = read_weights(find_weights("narrow", zoo)), read_record(with_final)
    assert weights.score is None and weights.step == 4
    assert weights.training["train"]["seed"] == 2
    assert record["parameters"] == read_record(published)["parameters"]
    assert weights.training["data"]["train_split"] == "trainval"
    assert not any(run["is_shipped"] for run in record["runs"])
    assert [run["step"] for run in record["runs"]] == [4, 4]
    for run in record["runs"]:
        assert run["miou"] == pytest.approx(run["miou_last"], abs=0.005)
    mean = f"{100 * record['miou_mean']:.2f}"
    page = (with_final / "root/docs/models/narrow.md").read_text()
    for words in (
        f"**{mean} ± ",
        "(2 seeds; trained on train alone)**",
        "no labelled frame is left to score them by",
        "| 2 | 4 | - | - | - |",
        "shipped, on trainval |",
        "--config.data.train_split=trainval",
        "--config.train.seed=2",
        "--split=test",
        "this is seed 2, the scored ones are `--config.train.seed=` 0, 1 with",
    ):
        assert words in page.replace(" \\\n   ", "")
    row = (with_final / "root/README.md").read_text().splitlines()[5]
    assert f"trainval; its recipe reaches {mean} % mIoU on val from train alone" in row
    row = (with_final / "root/docs/results.md").read_text().splitlines()[4]
    assert "last checkpoint; float16 file" in row
    drawing = (with_final / "root/docs/models/narrow.svg").read_text()
    assert "seed 2" in drawing
    alone = record | {"runs": record["runs"][:1], "miou_deviation": None}
    assert describe_miou(alone) == f"{mean} % (one seed; trained on train alone)"
    assert len(read_log(with_final / "all" / "log.jsonl")) == 6


def test_another_input_scale_is_scored_shipped_and_told(with_final, published):
    folder = with_final.parent / "enlarged"
    shutil.copytree(with_final, folder)
    publish(folder, "--final", folder / "all", "--input_scale", "1.5")
    record, page = read_record(folder), (folder / "root/docs/models/narrow.md").read_text()
    assert (
        read_weights(find_weights("narrow", folder / "root/bisenet_jax/zoo")).input_scale == 1.5
    )
    assert "network input at 1.5 times full size" in record["scores"]["protocol"]
    assert record["miou_mean"] != read_record(with_final)["miou_mean"]
    before = read_record(with_final)["runs"]
    assert [run["miou_last"] for run in record["runs"]] == [run["miou_last"] for run in before]
    assert "parameters; sees images at 1.5 times their size |" in page
    assert "which sees images at 1.5 times their size. Last step:" in page
    assert "float32 %" not in page and "| 2 | 4 | - | - |" in page
    usual = (with_final / "root/docs/models/narrow.md").read_text()
    assert "float32 %" in usual and "sees images" not in usual


@pytest.fixture(scope="module")
def further(with_final, make_tiny_config) -> Path:
    """A run with another seed, in a folder whose other runs are gone."""
    folder = with_final.parent / "further"
    shutil.copytree(with_final / "root", folder / "root")
    options = make_tiny_config()
    options.train.steps, options.train.evaluate_every, options.train.seed = 4, 2, 3
    train.train(options, folder / "run3")
    return folder


def add(folder: Path, workdir: Path, *further: object, code: int = 0) -> str:
    words = ["--name", "narrow", "--root", folder / "root", "--add", "--commit", "def456"]
    words += ["--device", "another test", *further, "--workdir", workdir]
    return run_publish(words, code)


def test_a_further_seed_is_added_to_what_is_published(further, with_final):
    folder = further.parent / "added"
    shutil.copytree(further, folder)
    assert "(3 seeds; trained on train alone)" in add(folder, further / "run3")
    before, after = read_record(with_final), read_record(folder)
    assert after["runs"][:2] == before["runs"]
    run = after["runs"][2]
    (alone,) = measure_runs([further / "run3"], "latest")
    assert (run["seed"], run["miou"]) == (3, alone.summary["miou"])
    mious = [run["miou"] for run in after["runs"]]
    assert after["miou_mean"] == pytest.approx(statistics.mean(mious), rel=1e-12)
    assert after["miou_deviation"] == pytest.approx(statistics.stdev(mious), rel=1e-12)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"runs", "miou_mean", "miou_deviation", "summary"}
    # The shipped network is the same to the last byte.
    file = "root/bisenet_jax/zoo/narrow.safetensors"
    assert (folder / file).read_bytes() == (with_final / file).read_bytes()
    page = (folder / "root/docs/models/narrow.md").read_text()
    assert "Seed 3 was added later: commit `def456`, another test." in page
    assert "`--config.train.seed=` 0, 1, 3 with" in page and "commit `abc123`, a test" in page
    assert "| 0, 1, 3 |" in (folder / "root/docs/results.md").read_text()
    packed = "root/docs/models/narrow.log.jsonl.gz"
    logs = unpack_logs((folder / packed).read_bytes())
    assert list(logs) == [0, 1, 2, 3]
    kept = unpack_logs((with_final / packed).read_bytes())
    assert {seed: logs[seed] for seed in kept} == kept


def test_what_cannot_be_added(further, published, tmp_path):
    run = further / "run3"
    assert "give --name, --config FILE" in add(further, run, "--noadd", code=2)
    told = add(further, run, "--input_scale", "1.5", code=2)
    assert "--add changes nothing of the shipped network" in told
    with pytest.raises(ConfigError, match="a further one may beat: publish all runs together"):
        read_published(published / "root", "narrow")
    with pytest.raises(
        ConfigError, match=r"none.json does not exist: publish .* without --add"
    ):
        read_published(further / "root", "none")
    earlier, options = read_published(further / "root", "narrow"), config_file.load(run)
    quick = dataclasses.replace(options.optimizer, learning_rate=0.5)
    more = dataclasses.replace(options.data, train_split="trainval")
    repeated = dataclasses.replace(options.train, seed=1)
    for change, message in (
        ({"optimizer": quick}, "differs from the shipped narrow in config.optimizer.learning"),
        ({"data": more}, "was trained on trainval, the scored runs on train:"),
        ({"train": repeated}, "has seed 1, which is published; take another"),
    ):
        config_file.save(dataclasses.replace(options, **change), tmp_path / "run")
        with pytest.raises(ConfigError, match=message):
            measure_further(earlier, [tmp_path / "run"])


def test_a_final_run_is_one_of_the_recipe_on_more_frames(published):
    run = [published / "run0"]
    with pytest.raises(ConfigError, match="run1 was trained on train, as .*: a final run sees"):
        read_final(published / "run1", run)
    with pytest.raises(ConfigError, match=r"the seeds \[0, 0\]"):
        read_final(published / "run0", run)


def test_files_of_one_name_are_one_recipe(tmp_path, make_tiny_config):
    for name, file, seed in (("a", "x/s", 0), ("b", "y/s", 1), ("c", "y/t", 2)):
        options = make_tiny_config()
        options.train.seed, options.init.weights = seed, f"/{file}.safetensors"
        config_file.save(options, tmp_path / name)
    with pytest.raises(ConfigError, match="c differs from .*a in config.init.weights"):
        measure_runs([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


def test_another_optimizer_than_the_papers_is_named_wherever_the_score_is(published):
    record = read_record(published)
    entry = read_registry(published / "root/bisenet_jax/zoo")["narrow"]
    assert "Muon" not in render_card(record, entry, "") and "by SGD;" in result_row(record)
    muon = record | {"optimizer": "muon"}
    assert "crops of 64x64 by Muon |" in render_card(muon, entry, "")
    assert "trained by Muon;" in result_row(muon)
    assert describe_data(muon).startswith("synthetic streets by Muon, ")


def test_a_run_that_was_cut_short_says_so(published):
    record = read_record(published)
    entry = read_registry(published / "root/bisenet_jax/zoo")["narrow"]
    words = "was published after step 4, before its learning rate"
    assert words not in render_card(record, entry, "")
    assert words in render_card(record | {"steps": 9}, entry, "")


def test_published_twice_is_published_once(published):
    before = {path: path.read_bytes() for path in files(published)}
    publish(published)
    assert {path: path.read_bytes() for path in files(published)} == before


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "root").rglob("*") if path.is_file()]


def test_log_and_curves_are_those_of_the_runs(published):
    models = published / "root/docs/models"
    packed = (models / "narrow.log.jsonl.gz").read_bytes()
    lines = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    for seed in (0, 1):
        log = read_log(published / f"run{seed}" / "log.jsonl")
        mine = [line for line in lines if line["seed"] == seed]
        assert [line["step"] for line in mine] == [line["step"] for line in log]
        losses = [line["loss"] for line in log if line["group"] == "train"]
        kept = [line["loss"] for line in mine if line["group"] == "train"]
        np.testing.assert_allclose(kept, losses, rtol=1e-4)
    drawn = ElementTree.parse(models / "narrow.svg").getroot()
    text = " ".join(drawn.itertext())
    assert "seed 0" in text and "seed 1" in text and "learning rate" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--name", "No Name"), "'No Name' must be of small letters"),
        (("--root", "tests"), "is not the root of the repository"),
        (("--add",), "leave --config, --final"),
    ],
)
def test_what_is_refused(published, flags, message):
    assert message in publish(published, *flags, code=2)


def test_runs_of_other_recipes_are_not_averaged(tmp_path, make_tiny_config):
    for name, seed, rate in (("a", 0, 0.1), ("b", 1, 0.2), ("c", 0, 0.1)):
        options = make_tiny_config()
        options.train.seed, options.optimizer.learning_rate = seed, rate
        config_file.save(options, tmp_path / name)
    with pytest.raises(ConfigError, match="b differs from .*a in config.optimizer.learning_r"):
        measure_runs([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ConfigError, match=r"the seeds \[0, 0\]"):
        measure_runs([tmp_path / "a", tmp_path / "c"])
