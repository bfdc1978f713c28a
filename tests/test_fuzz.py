"""A few hundred of the files that `benchmarks.fuzz` makes by the ten thousand."""

import numpy as np
import pytest

from benchmarks.fuzz import READ, REFUSED, fuzz
from benchmarks.fuzz_files import KINDS, make_kind, mutate
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


def test_the_harness_counts_and_sees_bugs(monkeypatch):
    outcomes, bugs = fuzz("matrix", seed=0, seconds=0, cases=30)
    assert sum(outcomes.values()) == 30 and not bugs
    assert outcomes[READ] and outcomes[REFUSED]


def test_equal_numbers_make_equal_files(tmp_path):
    (path, *_), _ = make_kind("label map", tmp_path)
    content = path.read_bytes()
    first, second = (
        mutate(".png", content, [content], np.random.default_rng([3, 4])) for _ in range(2)
    )
    assert first == second != content
