"""From runs to a shipped network in one command: each number on the card has its source."""

import dataclasses
import gzip
import hashlib
import json
import math
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
from bisenet_jax.config import Config
from bisenet_jax.errors import ConfigError
from bisenet_jax.publish.card import put_row
from bisenet_jax.publish.curves import draw_curves, ticks
from bisenet_jax.publish.measurement import measure_runs
from bisenet_jax.publish.record import confusions, training_command
from bisenet_jax.publish.training_log import MAX_BYTES, average, pack_logs, thin
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.training import checkpoint
from bisenet_jax.weights import read_weights
from bisenet_jax.zoo.registry import find_weights, read_registry

ROOT = Path(__file__).parents[1]
ROWS = "# Results\n\n| what | protocol |\n|---|---|\n| old | x |\n"


@pytest.fixture(scope="module")
def published(tmp_path_factory, request):
    """Two runs of one recipe, published by the script into a bare repository."""
    folder = tmp_path_factory.mktemp("published")
    options = _tiny(request)
    for seed in (0, 1):
        options.train.seed = seed
        train.train(options, folder / f"run{seed}")
    root = folder / "root"
    for part in ("bisenet_jax/zoo", "docs/models"):
        (root / part).mkdir(parents=True)
    (root / "bisenet_jax/zoo/registry.json").write_text("{}")
    (root / "docs/results.md").write_text(ROWS)
    arguments = ["--name", "narrow", "--config", "configs/synthetic.py", "--root", root]
    arguments += ["--device", "a test", "--commit", "abc123"]
    arguments += ["--workdir", folder / "run0", folder / "run1"]
    without_notes = _publish(arguments)
    assert without_notes.returncode == 2 and "narrow.notes.md does not exist" in (
        without_notes.stderr
    )
    (root / "docs/models/narrow.notes.md").write_text("## Limits\n\nDrawn, not seen.\n")
    done = _publish(arguments)
    assert done.returncode == 0, done.stderr
    return folder


def _tiny(request) -> Config:
    options = request.getfixturevalue("tiny_config_of_module")
    options.train.steps, options.train.evaluate_every = 4, 2
    return options


@pytest.fixture(scope="module")
def tiny_config_of_module() -> Config:
    from conftest import make_tiny_config

    return make_tiny_config()


def _publish(arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bisenet_jax.publish", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
