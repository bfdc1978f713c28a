"""From a run's checkpoint to a file, and the same network on both sides."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bisenet_jax
from bisenet_jax import config_file, parallel
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.errors import CheckpointError, ConfigError
from bisenet_jax.export import verification
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import checkpoint
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.run import read_run
from bisenet_jax.training.state import create_state
from bisenet_jax.weights import read_weights

ROOT = Path(__file__).parent.parent


@pytest.fixture
def workdir(tmp_path, tiny_config):
    """A run with checkpoints 1 (mIoU 0.5), 2 (0.25) and 3 (not scored); numbers all equal."""
    tiny_config.data.root = "/home/someone/secret/streets"
    tiny_config.data.mean = (0.5, 0.4, 0.3)
    config_file.save(tiny_config, tmp_path)
    model = build_model(num_classes=19, **dataclasses.asdict(tiny_config.model))
    optimizer = make_optimizer(tiny_config.optimizer, tiny_config.train.steps)
    template = jax.eval_shape(lambda: create_state(model, optimizer, seed=0))
    mesh = parallel.make_mesh(jax.devices()[:1])
    with checkpoint.open_checkpoints(tmp_path, keep=5) as saved:
        for step, miou in ((1, 0.5), (2, 0.25), (3, None)):
            state = jax.tree.map(
                lambda leaf, step=step: np.full(leaf.shape, step, leaf.dtype), template
            )
            checkpoint.save(saved, parallel.replicate(state, mesh), step, miou)
    return tmp_path


def test_a_run_becomes_weights(workdir, tiny_config):
    weights = read_run(workdir)
    assert weights.step == 1 and {
        float(x.max()) for x in jax.tree.leaves(weights.variables)
    } == {1}
    assert weights.score.miou == 0.5 and weights.score.split == "val"
    for words in ("'val' of source 'synthetic'", "single scale", "no flip", "float32"):
        assert words in weights.score.protocol
    assert weights.class_set == CITYSCAPES and weights.normalization.mean == (0.5, 0.4, 0.3)
    assert weights.model.expansion == 2 and weights.preset == "paper"
    assert "booster_stem" in weights.variables["params"]
    # The configuration goes along, but not where the user's files lay.
    assert weights.training["train"] == dataclasses.asdict(tiny_config.train)
    assert weights.training["data"]["root"] == "streets"
    assert "secret" not in json.dumps(weights.training)


def test_a_run_on_halved_or_doubled_crops_sees_such_images(workdir, tiny_config):
    assert read_run(workdir).input_scale == 1
    assert "protocol full" in read_run(workdir).score.protocol
    tiny_config.augment.shrink = 2
    config_file.save(tiny_config, workdir)
    assert read_run(workdir).input_scale == 0.5
    assert "protocol half" in read_run(workdir).score.protocol
    tiny_config.augment.shrink, tiny_config.augment.enlarge = 1, 2
    config_file.save(tiny_config, workdir)
    assert read_run(workdir).input_scale == 2
    assert "protocol double" in read_run(workdir).score.protocol


def test_which_checkpoint(workdir):
    latest = read_run(workdir, "latest")
    assert latest.step == 3 and latest.score is None
    assert read_run(workdir, "2").score.miou == 0.25
    with pytest.raises(CheckpointError, match="no checkpoint of step 9; there are"):
        read_run(workdir, "9")
    with pytest.raises(ConfigError, match="'newest' must be best, latest or a step"):
        read_run(workdir, "newest")
    assert bisenet_jax.load(workdir, checkpoint="2").description["step"] == 2


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ConfigError, match="train.py run"):
        bisenet_jax.load(tmp_path)


def test_a_gpu_without_a_cpu_is_told(monkeypatch, tiny_weights):
    def devices(platform):
        raise RuntimeError(f"Unknown backend {platform}. Available backends are ['cuda']")

    monkeypatch.setattr(verification.jax, "devices", devices)
    with pytest.raises(ConfigError, match="leaves out the CPU, .*: set JAX_PLATFORMS=.*,cpu"):
        verification.make_reference(tiny_weights)


def test_script(workdir, tmp_path):
    def export(*flags: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "export.py", "--workdir", workdir, *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    output, told = tmp_path / "out" / "half.safetensors", tmp_path / "told.json"
    result = export(
        *("--format", "safetensors", "--output", str(output), "--json", str(told)),
        *("--checkpoint", "2", "--dtype", "float16"),
    )
    assert result.returncode == 0, result.stderr
    assert "mIoU 25.00 % on val, step 2" in result.stdout
    data = json.loads(told.read_text())
    assert data["format"] == "safetensors" and data["bytes"] == output.stat().st_size
    assert data["stored"] == {"dtype": "float16", "boosters": False}
    enlarged = tmp_path / "enlarged.safetensors"
    result = export("--input_scale", "1.25", "--checkpoint", "2", "--output", str(enlarged))
    assert result.returncode == 0, result.stderr
    # The score was that of another size.
    assert read_weights(enlarged).input_scale == 1.25 and "mIoU" not in result.stdout
    result = export("--input_scale", "3", "--checkpoint", "2", "--output", str(enlarged))
    assert result.returncode == 2 and "input scale 3 must be from 0.01 to 2" in result.stderr
    read, run = read_weights(output), read_run(workdir, "2")
    assert data["network"]["content_hash"] == read.content_hash
    jax.tree.map(np.testing.assert_array_equal, read.variables, without_boosters(run.variables))
    again = export()
    assert again.returncode == 2 and "--output FILE" in again.stderr
