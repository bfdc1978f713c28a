"""A few hundred of the files that `benchmarks.fuzz` makes by the ten thousand."""

import re
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import fuzz
from benchmarks.fuzz_files import KINDS, make_kind
from benchmarks.fuzz_mutations import mutate
from bisenet_jax.errors import UserError

NEEDS = {"video": "cv2", "pth": "torch"}
# Tracing a network takes longer than reading a picture.
FILES = {"weights": 15, "video": 20}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind])
    samples, read = make_kind(kind, tmp_path)
    contents = [path.read_bytes() for path in samples]
    for path in samples:
        read(path)
    refused = 0
    for index in range(FILES.get(kind, 40)):
        random = np.random.default_rng([7, index])
        which = int(random.integers(len(samples)))
        path = samples[which]
        path.write_bytes(mutate(path.suffix, contents[which], contents, random))
        try:
            read(path)
        except UserError as error:
            refused += 1
            assert str(error).strip() and "\n" not in str(error)
        path.write_bytes(contents[which])
    assert refused


def test_readers_in_processes_of_their_own():
    outcomes, bugs = fuzz.fuzz("statistics", seed=0, seconds=0, cases=30)
    assert sum(outcomes.values()) == 30 and not bugs
    assert outcomes[fuzz.READ] and outcomes[fuzz.REFUSED]


@pytest.mark.parametrize(
    ("reader", "outcome"),
    [
        ("os.kill(os.getpid(), 11)", "ends the process with -11"),
        ("numpy.ones(2 * fuzz.MEMORY, 'u1')", '"raises .*MemoryError'),
        ("time.sleep(60)", "hangs for 3 s"),
    ],
)
def test_bugs_are_seen(reader, outcome, tmp_path, monkeypatch):
    """A reader that reads its sample, and then does what none may."""
    program = f"""
import os, pathlib, sys, time
import numpy
from benchmarks import fuzz, fuzz_files
sample = pathlib.Path({str(tmp_path)!r}, "a.json")
sample.write_text('{{"a": 1}}')
reads = []
def read(path):
    reads.append(path)
    if len(reads) > 1:
        {reader}
fuzz_files.KINDS["buggy"] = lambda folder: ([sample], read)
fuzz.read_files("buggy", 0, 0, pathlib.Path({str(tmp_path)!r}))
"""
    start = subprocess.Popen
    monkeypatch.setattr(
        fuzz.subprocess,
        "Popen",
        lambda command, **options: start([sys.executable, "-c", program], **options),
    )
    monkeypatch.setattr(fuzz.tempfile, "tempdir", str(tmp_path))
    if "sleep" in reader:
        monkeypatch.setattr(fuzz, "CASE_SECONDS", 3.0)
    outcomes, bugs = fuzz.fuzz("buggy", seed=0, seconds=0, cases=1)
    assert outcomes == {"bug": 1}
    assert re.match(outcome, bugs[0]["outcome"])
    # Nothing is left of readers that were ended.
    assert not list(tmp_path.glob("bisenet_jax_fuzz_*"))


def test_equal_numbers_make_equal_files(tmp_path):
    (path, *_), _ = make_kind("label map", tmp_path)
    content = path.read_bytes()
    first, second = (
        mutate(".png", content, [content], np.random.default_rng([3, 4])) for _ in range(2)
    )
    assert first == second != content
