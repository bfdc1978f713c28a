"""Hard example mining equals a real sort."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from losses_by_loop import OHEM, PLAIN, N, random_labels, random_logits, weights_by_sort

from benchmarks import hard_pixels
from benchmarks.timing import Budget
from bisenet_jax.training.losses import hard_pixel_weights, head_loss, kth_largest

compiled_weights = jax.jit(hard_pixel_weights, static_argnums=(2, 3))
compiled_kth = jax.jit(kth_largest)


def image_of_losses(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[6, 8]` of one image and where they count; a threshold of 0.7 is 0.357."""
    random = np.random.default_rng(3)
    losses = random.uniform(0.0, 0.3, (6, 8)).astype(np.float32)
    is_labelled = np.ones((6, 8), bool)
    if case == "many hard":
        losses[1:4] += 1
    elif case == "few hard":
        losses[0, 0], losses[5, 7] = 2, 1
    elif case == "ties at the border":
        losses[0, 0], losses[1, :5] = 2, 0.35
    elif case == "all equal":
        losses[:] = 0.25
    elif case == "all zero":
        losses[:] = 0
    elif case == "rounded below zero":
        losses[:] = 0
        losses[2] = -6e-8
    elif case == "all ignored":
        is_labelled[:] = False
    elif case == "one pixel":
        is_labelled[:] = False
        is_labelled[2, 3] = True
    elif case == "all zero or ignored":
        losses[:] = 0
        is_labelled[::2] = False
    elif case == "half ignored":
        is_labelled[3:] = False
        losses[3:] = 0
    return np.where(is_labelled, losses, 0), is_labelled


CASES = (
    *("many hard", "few hard", "all easy", "ties at the border", "all equal", "all zero"),
    *("all zero or ignored", "rounded below zero", "all ignored", "one pixel", "half ignored"),
)


@pytest.mark.parametrize(
    ("threshold", "min_share"),
    [(0.7, 1 / 16), (0.7, 0.3), (0.7, 0), (0.7, 1), (0, 0.1), (1, 0)],
)
def test_mining_equals_sort(threshold, min_share):
    images = [image_of_losses(case) for case in CASES]
    losses, is_labelled = (np.stack(arrays) for arrays in zip(*images, strict=True))
    weights = np.asarray(compiled_weights(losses, is_labelled, threshold, min_share))
    expected = weights_by_sort(losses, is_labelled, threshold, min_share)
    np.testing.assert_allclose(weights, expected, atol=1e-6, err_msg=str(CASES))
    assert weights.dtype == np.float32
    assert not weights[~is_labelled].any()
    if (threshold, min_share) == (0.7, 1 / 16):
        # By hand: 48 pixels, so that at least 3 count; of five equal ones each 2/5.
        counts = dict(zip(CASES, weights.sum(axis=(1, 2)), strict=True))
        assert counts == pytest.approx(
            {case: 3 for case in CASES}
            | {"many hard": 24, "all ignored": 0, "one pixel": 1}
            | {"half ignored": 1, "all zero or ignored": 1}
        )
        tied = weights[CASES.index("ties at the border")]
        np.testing.assert_allclose(tied[1, :5], 0.4, rtol=1e-6)
        assert tied[0, 0] == 1


def test_weights_of_an_image_depend_on_no_other():
    together = [image_of_losses(case) for case in CASES]
    losses, is_labelled = (np.stack(arrays) for arrays in zip(*together, strict=True))
    weights = compiled_weights(losses, is_labelled, 0.7, 0.1)
    for image in range(len(CASES)):
        alone = compiled_weights(
            losses[image : image + 1], is_labelled[image : image + 1], 0.7, 0.1
        )
        np.testing.assert_array_equal(alone[0], weights[image])


def test_mining_options_change_the_loss():
    labels = random_labels(2, 4, 6)
    logits = random_logits(2, 4, 6, N) + 6 * (np.arange(N) == labels[..., None])
    configs = (
        PLAIN,
        replace(OHEM, ohem_min_share=0.9),
        OHEM,
        replace(OHEM, ohem_threshold=0.1),
    )
    losses = [
        float(jax.jit(partial(head_loss, config=config))(logits.astype(np.float32), labels))
        for config in configs
    ]
    assert sorted(set(losses)) == losses, losses


@pytest.mark.parametrize("seed", range(8))
def test_kth_largest_equals_sort(seed):
    random = np.random.default_rng(seed)
    rows = np.stack(
        [
            random.uniform(0, 1, 57),
            random.integers(0, 4, 57),  # duplicates
            np.zeros(57),
            random.integers(1, 1000, 57) * 1e-45,  # denormals
            10.0 ** random.uniform(-45, 38, 57),
            random.uniform(0, 2 ** random.integers(100), 57),
            np.where(random.random(57) < 0.5, np.inf, 1.0),
            random.exponential(1, 57),
        ]
    ).astype(np.float32)
    for k in (np.ones(8), np.full(8, 57), random.integers(1, 58, 8)):
        expected = -np.sort(-rows)[np.arange(8), k.astype(int) - 1]
        found = np.asarray(compiled_kth(rows, k.astype(np.int32)))
        np.testing.assert_array_equal(found.view(np.int32), np.abs(expected).view(np.int32))


def test_kth_largest_leaves_marked_pixels_out():
    values = np.array([[-1, 3, -1, 0, 2], [-1, -1, -1, -1, 7]], np.float32)
    np.testing.assert_array_equal(compiled_kth(values, np.array([3, 1], np.int32)), [0, 7])


def test_forms_of_the_kth_largest_are_timed_where_they_agree(monkeypatch):
    monkeypatch.setattr(hard_pixels, "BUDGET", Budget(calls=1, seconds=0.1))
    row = hard_pixels.measure_shape((2, 64))
    assert row["ratio"]["bisection"] == 1 and row["milliseconds"]["sort"] > 0
    wrong = {"bisection": kth_largest, "smallest": lambda values, k: values.min(axis=1)}
    monkeypatch.setattr(hard_pixels, "FORMS", wrong)
    with pytest.raises(ValueError, match="bisection, smallest differ at"):
        hard_pixels.measure_shape((2, 64))
