"""evaluate.py as a user starts it: a run or a weights file, under each protocol."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import train
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.training.run import read_run
from bisenet_jax.weights import write_weights

ROOT = Path(__file__).parents[1]


@pytest.fixture
def workdir(tmp_path, tiny_config) -> Path:
    tiny_config.train.steps = 1
    train.train(tiny_config, tmp_path / "run")
    return tmp_path / "run"


def evaluate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "evaluate.py", *map(str, arguments)]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_runs_and_files_by_protocols(workdir, tmp_path):
    results = {}
    weights = tmp_path / "weights.safetensors"
    write_weights(weights, read_run(workdir))
    enlarged = tmp_path / "enlarged.safetensors"
    write_weights(enlarged, read_run(workdir).with_input_scale(1.25))
    model = ["--config", "configs/synthetic.py", "--config.data.val_images=3"]
    model += ["--config.data.height=64", "--config.data.width=128"]
    for name, arguments in {
        "run": ["--workdir", workdir, "--confusion", tmp_path / "c.png", "--boundary"],
        "file": ["--weights", weights, *model],
        # Of another configuration the data alone counts, none of the network's fields.
        "data": ["--workdir", workdir, *model, "--config.data.mean=(0.1, 0.2, 0.3)"],
        "scale": ["--workdir", workdir, "--scales", "1.25"],
        "large": ["--weights", enlarged, *model],
        "as full": ["--weights", enlarged, *model, "--protocol", "full"],
        "twice": ["--weights", enlarged, *model, "--scales", "1,2"],
        "views": ["--workdir", workdir, "--scales", "0.5,1", "--flip", "--protocol", "half"],
    }.items():
        done = evaluate(*arguments, "--json", tmp_path / f"{name}.json")
        assert done.returncode == 0, done.stderr
        assert "synthetic streets val, 3 images of 128x64, 19 classes, protocol" in done.stdout
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())
    assert results["run"]["miou"] == results["file"]["miou"]
    assert results["run"]["class_iou"] == results["data"]["class_iou"]
    assert results["run"]["protocol"] == results["file"]["protocol"]
    assert results["run"]["boundary_f1"] is not None and "boundary_f1" not in results["file"]
    # A file that sees images at another size is scored at that, and by a protocol at its own.
    assert results["large"]["class_iou"] == results["scale"]["class_iou"]
    assert results["large"]["class_iou"] != results["file"]["class_iou"]
    assert "at 1.25 times full size" in results["large"]["protocol"]
    assert results["as full"]["class_iou"] == results["file"]["class_iou"]
    assert "scales 1.25, 2.5, no flip" in results["twice"]["protocol"]
    assert results["views"]["class_iou"] != results["run"]["class_iou"]
    assert results["views"]["protocol_name"] == "half"
    assert "scales 0.5, 1, mirrored as well" in results["views"]["protocol"]
    assert np.asarray(Image.open(tmp_path / "c.png")).size


def test_objects_are_scored_by_themselves(workdir, tmp_path):
    folder = tmp_path / "gtFine" / "val" / "street"
    folder.mkdir(parents=True)
    persons = 0
    for index in range(3):
        _, label = draw_street(1, index, 64, 128)
        is_person = label == CITYSCAPES.names.index("person")
        persons += is_person.any()
        name = f"street_{index:06d}_gtFine_instanceIds.png"
        Image.fromarray(np.where(is_person, 24001, 7).astype(np.uint16)).save(folder / name)
    path = tmp_path / "scores.json"
    done = evaluate("--workdir", workdir, "--instances", tmp_path, "--json", path)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())
    assert persons and "iIoU" in done.stdout
    assert 0 <= found["class_iiou"]["person"] <= 1 and found["class_iiou"]["road"] is None


def test_windows_slide_by_two_thirds_unless_told(workdir, tmp_path):
    found = {}
    for name, words in (
        ("default", ["--sliding", "32x96"]),
        ("same", ["--sliding", "32x96", "--stride", "21x64"]),
        ("other", ["--sliding", "32x96", "--stride", "32x96"]),
    ):
        path = tmp_path / f"{name}.json"
        done = evaluate("--workdir", workdir, *words, "--json", path)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(path.read_text())
    assert found["default"] == found["same"]
    assert "sliding window 96x32, stride 64x21" in found["default"]["protocol"]
    assert found["default"]["class_iou"] != found["other"]["class_iou"]


def test_submission_and_pictures(workdir, tmp_path):
    answers, pictures = tmp_path / "answers", tmp_path / "pictures"
    done = evaluate(
        *("--workdir", workdir, "--submission", answers),
        *("--save_dir", pictures, "--pictures", 2),
    )
    assert done.returncode == 0, done.stderr
    assert (answers / "submission.zip").is_file()
    assert len(list(answers.glob("*_labelIds.png"))) == 3
    assert len(list(pictures.glob("*.png"))) == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give --workdir DIR of a train.py run, or --weights FILE"),
        (["--workdir", "a", "--weights", "b"], "give --workdir DIR of a train.py run, or"),
        (["--workdir", "{run}", "--scales", "1,big"], "--scales 1,big must be numbers"),
        (
            ["--workdir", "{run}", "--sliding", "12y"],
            "--sliding '12y' must be a size",
        ),
        (["--workdir", "{run}", "--batch_size", "-4"], "batch_size"),
        (["--workdir", "{run}", "--bucket", "20"], "--bucket 20 must be a multiple of 32"),
        (
            ["--workdir", "{run}", "--bucket", "64", "--protocol", "half"],
            "--bucket 64 has no effect unless whole images",
        ),
        (
            ["--weights", "a", "--checkpoint", "best"],
            "--checkpoint 'best' goes with --workdir; a weights file holds one",
        ),
        (["--workdir", "{run}", "--stride", "12"], "needs both, its size and its stride"),
        (["--workdir", "{run}", "--instances", "x"], "x/gtFine/val/street/.* cannot be read"),
    ],
)
def test_refusals(workdir, arguments, message):
    done = evaluate(*(text.replace("{run}", str(workdir)) for text in arguments))
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
