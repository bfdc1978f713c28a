"""A split's score is its own: batch size, device count, padding and order do not change it."""

import dataclasses

import jax
import numpy as np
import pytest

from bisenet_jax import parallel
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.inference import make_label_function, without_boosters
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization

SIZES = ((64, 96), (64, 96), (50, 70), (64, 96), (50, 70))


@pytest.fixture(scope="module")
def examples():
    """Five streets of two sizes, one of them with a band that nobody scores."""
    made = []
    for index, (height, width) in enumerate(SIZES):
        image, label = draw_street(5, index, max(height, 64), max(width, 70))
        image, label = image[:height, :width], label[:height, :width].copy()
        if index == 1:
            label[:10] = IGNORE
        made.append({"image": image, "label": label, "name": str(index)})
    return made


@pytest.fixture
def network(tiny_config):
    model = build_model(**dataclasses.asdict(tiny_config.model))
    variables = initialize(
        model, jax.random.key(3), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    )
    return model, without_boosters(variables)


def test_batch_size_and_devices_change_nothing(examples, network):
    model, variables = network
    predict = make_label_function(model, variables, Normalization())
    expected = np.zeros((19, 19), np.int64)
    predictions = {}
    for example in examples:
        predictions[example["name"]] = np.asarray(predict(example["image"][None]))[0]
        counted = example["label"] != IGNORE
        np.add.at(
            expected,
            (example["label"][counted], predictions[example["name"]][counted]),
            1,
        )
    assert len(np.unique(np.concatenate([p.ravel() for p in predictions.values()]))) > 1

    for devices, batch_size in ((1, 1), (1, 3), (2, 2), (2, 4)):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        visited = {}
        result = evaluate(
            make_evaluate_step(model, Normalization(), mesh),
            variables,
            examples,
            num_classes=19,
            batch_size=batch_size,
            mesh=mesh,
            visit=lambda example, labels, seen=visited: seen.update({example["name"]: labels}),
        )
        np.testing.assert_array_equal(result.confusion, expected)
        assert result.images == 5 and result.sizes == {(64, 96): 3, (50, 70): 2}
        ignored = sum(int((example["label"] == IGNORE).sum()) for example in examples)
        assert result.ignored == ignored > 0
        assert visited.keys() == predictions.keys()
        for name, labels in visited.items():
            np.testing.assert_array_equal(labels, predictions[name])


def test_each_size_compiles_once(examples, network):
    model, variables = network
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = make_evaluate_step(model, Normalization(), mesh)
    for _ in range(2):
        evaluate(step, variables, examples, num_classes=19, batch_size=2, mesh=mesh)
    assert step._cache_size() == 2


def test_an_empty_split_counts_nothing(network):
    model, variables = network
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = make_evaluate_step(model, Normalization(), mesh)
    result = evaluate(step, variables, [], num_classes=19, batch_size=2, mesh=mesh)
    assert result.images == 0 and not result.confusion.any()
