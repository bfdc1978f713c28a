"""What holds for every input, tried on inputs that nobody thought of.

The same ones in every run: they follow from the test's own name.
"""

import dataclasses
import math
import typing
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bisenet_jax import config_file
from bisenet_jax.config import Config
from bisenet_jax.config_rules import validate
from bisenet_jax.data.class_sets import CLASS_SETS, find_labelling
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.coding import colour_coding, id_coding
from bisenet_jax.data.loader import training_batches
from bisenet_jax.errors import DataError, UserError
from bisenet_jax.evaluation.metrics import confusion_matrix, scores
from bisenet_jax.inference import make_label_function, scaled_logits, scaled_size
from bisenet_jax.model.bisenetv2 import STRIDE
from bisenet_jax.resize import METHODS, resize, upsample, upsampled_argmax
from bisenet_jax.training.losses import hard_pixel_weights, kth_largest

# The first call of a shape compiles it, which takes longer than any deadline.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.load_profile("same")
few, many = settings(max_examples=8), settings(max_examples=60)

ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    st.sampled_from([10**400, -(10**400), 2**63, math.nan, math.inf, -0.0, "none", "0", ""]),
    st.lists(st.one_of(st.integers(-2, 2), st.floats(), st.text(max_size=3)), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def fields(section: Any = None, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every field of a configuration, and every section, by its path."""
    section = Config() if section is None else section
    found = []
    for each in dataclasses.fields(section):
        found.append((*path, each.name))
        value = getattr(section, each.name)
        if dataclasses.is_dataclass(value):
            found += fields(value, (*path, each.name))
    return found


@many
@given(st.lists(st.tuples(st.sampled_from(fields()), ODD), min_size=1, max_size=3))
def test_a_config_is_kept_or_refused(changes):
    values = config_file.to_dict(Config())
    for (*sections, name), value in changes:
        table = values
        for section in sections:
            table = table[section] if isinstance(table.get(section), dict) else {}
        table[name] = value
    try:
        config = config_file.from_dict(values)
    except UserError as error:
        assert str(error).startswith("config") and "\n" not in str(error)
        return
    assert config_file.from_dict(config_file.to_dict(config)) == config
    assert all(math.isfinite(number) for number in numbers(config))


@many
@given(st.sampled_from(fields()), ODD)
def test_validation_raises_nothing_else(path, value):
    """Also where a config file has put anything in place of a section."""
    config = Config()
    section: Any = config
    for name in path[:-1]:
        section = getattr(section, name)
    setattr(section, path[-1], tuple(value) if isinstance(value, list) else value)
    try:
        validate(config)
    except UserError as error:
        assert f"config.{'.'.join(path)}" in str(error)


def numbers(value: Any) -> typing.Iterator[float]:
    if dataclasses.is_dataclass(value):
        value = tuple(vars(value).values())
    if isinstance(value, tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float):
        yield value


@many
@given(st.integers(1, 10**5), st.integers(1, 10**5), st.floats(0.01, 1))
def test_the_network_sees_some_of_every_picture(height, width, scale):
    for side, seen in zip((height, width), scaled_size(height, width, scale), strict=True):
        assert 1 <= seen <= side and abs(seen - side * scale) <= 1


@settings(max_examples=3)
@given(st.integers(1, 70), st.integers(1, 70), st.data())
def test_pictures_of_any_size_are_labelled(tiny_weights, height, width, data):
    image = data.draw(arrays.arrays(np.uint8, (1, height, width, 3)))
    weights = tiny_weights
    label = make_label_function(weights.model, weights.variables, weights.normalization)
    labels = np.asarray(label(jnp.asarray(image)))
    assert labels.shape == (1, height, width)
    # As the same picture, which the mean colour fills up, has them in its corner.
    inputs = weights.normalization.normalize(jnp.asarray(image))
    padding = ((0, 0), (0, -height % STRIDE), (0, -width % STRIDE), (0, 0))
    logits = scaled_logits(weights.model, weights.variables, jnp.pad(inputs, padding))
    logits = np.asarray(logits)[:, :height, :width]
    chosen = np.take_along_axis(logits, labels[..., None].astype(int), axis=-1)[..., 0]
    # Where rounding decides, either may be.
    assert (logits.max(axis=-1) - chosen < 1e-4).all()


@many
@given(st.dictionaries(st.integers(0, 255), st.integers(0, 254), min_size=1), st.data())
def test_stored_values_become_ids_or_errors(ids, data):
    values = data.draw(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2)))
    known = data.draw(st.booleans())
    if known:
        values = np.array(sorted(ids), np.uint8)[values % len(ids)]
    try:
        found = id_coding(ids, "rule").decode(values, "a.png")
    except DataError as error:
        assert set(values.ravel().tolist()) - ids.keys() and "a.png" in str(error)
    else:
        expected = [[ids[value] for value in row] for row in values.tolist()]
        np.testing.assert_array_equal(found, expected)


colours = st.tuples(*[st.integers(0, 255)] * 3)


@many
@given(st.dictionaries(colours, st.integers(0, 255), min_size=1, max_size=40), st.data())
def test_colours_become_the_ids_they_stand_for(ids, data):
    chosen = data.draw(st.lists(st.sampled_from(sorted(ids)), min_size=1, max_size=30))
    stranger = data.draw(colours)
    picture = np.array([[*chosen, stranger]], np.uint8)
    found = colour_coding(ids, ignores_others=True).decode(picture, "a.png")
    assert found.tolist() == [[ids.get(colour, IGNORE) for colour in (*chosen, stranger)]]


def test_every_class_set_comes_back_from_its_colours():
    for name, class_set in CLASS_SETS.items():
        if len(set(class_set.colours)) < len(class_set):
            continue  # its colours do not tell its classes apart
        ids = np.arange(len(class_set), dtype=np.uint8)[None]
        coding = colour_coding({colour: i for i, colour in enumerate(class_set.colours)})
        np.testing.assert_array_equal(coding.decode(class_set.palette[ids], name), ids)
        np.testing.assert_array_equal(find_labelling(name).coding.decode(ids, name), ids)


@many
@given(arrays.arrays(np.int64, (5, 5), elements=st.integers(0, 10**12)), st.integers(0, 31))
def test_scores_by_their_definition(confusion, absent):
    for i in range(5):
        if absent >> i & 1:
            confusion[i], confusion[:, i] = 0, 0
    found = scores(confusion)
    hits, truth, predicted = (
        np.diag(confusion).astype(float),
        confusion.sum(1).astype(float),
        confusion.sum(0).astype(float),
    )
    union = truth + predicted - hits
    iou = [hit / whole if whole else math.nan for hit, whole in zip(hits, union, strict=True)]
    np.testing.assert_allclose(found.class_iou, iou, rtol=1e-12)
    np.testing.assert_allclose(found.pixels, confusion.sum())
    if confusion.sum():
        np.testing.assert_allclose(found.miou, np.nanmean(iou), rtol=1e-12)
        assert 0 <= found.miou <= 1


@few
@given(
    arrays.arrays(np.uint8, (4, 6)),
    arrays.arrays(np.uint8, (4, 6), elements=st.integers(0, 6)),
)
def test_every_pixel_is_counted_once(labels, predictions):
    found = np.asarray(confusion_matrix(labels, predictions, 7))
    expected = np.zeros((7, 7), int)
    for truth, guess in zip(labels.ravel(), predictions.ravel(), strict=True):
        if truth < 7:
            expected[truth, guess] += 1
    np.testing.assert_array_equal(found, expected)


maps = arrays.arrays(np.float32, (1, 3, 4, 5), elements=st.floats(-100, 100, width=32))
sides = st.sampled_from([1, 2, 5, 9])


@few
@given(maps, sides, sides, st.floats(-100, 100, width=32))
def test_resizing_stays_within_bounds(x, height, width, constant):
    found = np.asarray(resize(jnp.asarray(x), height, width))
    assert found.shape == (1, height, width, 5)
    assert found.min() >= x.min() - 1e-4 and found.max() <= x.max() + 1e-4
    plain = resize(jnp.full((1, 3, 4, 1), constant), height, width)
    np.testing.assert_allclose(plain, constant, atol=1e-4)


@few
@given(maps, st.sampled_from(METHODS), st.floats(-100, 100, width=32))
def test_enlarging_stays_within_bounds(x, method, constant):
    found = np.asarray(upsample(jnp.asarray(x), 4, method))
    assert found.shape == (1, 12, 16, 5)
    assert found.min() >= x.min() - 1e-4 and found.max() <= x.max() + 1e-4
    plain = upsample(jnp.full((1, 3, 4, 1), constant), 4, method)
    np.testing.assert_allclose(plain, constant, atol=1e-4)


@few
@given(maps)
def test_the_largest_of_the_enlarged_map(x):
    enlarged = np.asarray(upsample(jnp.asarray(x), 8))
    chosen = np.asarray(upsampled_argmax(jnp.asarray(x), 8))
    # Not the first of equals always: rounding may part what is equal.
    values = np.take_along_axis(enlarged, chosen[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(values, enlarged.max(-1), atol=1e-4)


losses = arrays.arrays(np.float32, (2, 4, 6), elements=st.floats(0, 10, width=32))


@few
@given(losses, arrays.arrays(np.int32, 2, elements=st.integers(1, 24)))
def test_the_kth_largest_is_that_of_a_sort(values, k):
    rows = values.reshape(2, -1)
    found = np.asarray(kth_largest(jnp.asarray(rows), jnp.asarray(k)))
    expected = [np.sort(row)[::-1][place - 1] for row, place in zip(rows, k, strict=True)]
    np.testing.assert_array_equal(found, expected)


@few
@given(losses, arrays.arrays(bool, (2, 4, 6)), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_hard_pixels_are_those_of_a_sort(values, is_labelled, threshold):
    share = 0.25
    found = np.asarray(
        hard_pixel_weights(jnp.asarray(values), jnp.asarray(is_labelled), threshold, share)
    )
    bound = np.float32(-math.log(threshold)) if threshold else np.float32(np.inf)
    for weights, image, labelled in zip(found, values, is_labelled, strict=True):
        least = min(max(math.floor(labelled.sum() * share), 1), labelled.sum())
        hard = labelled & (image > bound)
        assert (weights[~labelled] == 0).all()
        if hard.sum() >= least:
            np.testing.assert_array_equal(weights, hard)
        else:
            largest = np.sort(image[labelled])[::-1][:least]
            np.testing.assert_allclose(weights.sum(), least, rtol=1e-5)
            np.testing.assert_allclose((weights * image).sum(), largest.sum(), rtol=1e-4)


class Numbered:
    """Frames that are their own index."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixel = np.full((1, 1), index, np.uint8)
        return {"image": np.stack([pixel] * 3, -1), "label": pixel, "name": str(index)}


def read(count: int, seed: int, start: int, **options: Any) -> np.ndarray:
    batches = training_batches(
        Numbered(count), seed=seed, start_step=start, threads=0, **options
    )
    try:
        return next(batches)["label"].ravel()
    finally:
        batches.close()


@settings(max_examples=10)
@given(
    st.integers(1, 40), st.integers(0, 2**31 - 1), st.integers(0, 50), st.integers(1, 4),
    st.integers(1, 3),
)  # fmt: skip
def test_a_batch_follows_from_seed_and_step(count, seed, step, processes, each):
    size = processes * each
    whole = read(count, seed, step, batch_size=size)
    assert len(whole) == size and whole.max() < count
    np.testing.assert_array_equal(whole, read(count, seed, step, batch_size=size))
    shares = [
        read(count, seed, step, batch_size=size, process_index=i, process_count=processes)
        for i in range(processes)
    ]
    np.testing.assert_array_equal(np.concatenate(shares), whole)
