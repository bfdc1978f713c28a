"""A split's score is its own: batch size, device count, padding and order do not change it."""

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from bisenet_jax import parallel
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.synthetic import SyntheticStreets, draw_street
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.inference import make_label_function
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.protocol import Protocol

ROOT = Path(__file__).parents[1]
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
        for counts, example in zip(result.image_counts, examples, strict=True):
            labels = predictions[example["name"]]
            counted = example["label"] != IGNORE
            hits = counted & (labels == example["label"])
            np.testing.assert_array_equal(
                counts[0], np.bincount(example["label"][hits], minlength=19)
            )
        hits, unions = result.image_counts.sum(axis=0)
        np.testing.assert_array_equal(hits, np.diagonal(expected))
        np.testing.assert_array_equal(unions, expected.sum(0) + expected.sum(1) - hits)
        for name, labels in visited.items():
            np.testing.assert_array_equal(labels, predictions[name])


def run(network, examples, **options):
    model, variables = network
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = make_evaluate_step(model, Normalization(), mesh, options.get("protocol"))
    options = {"num_classes": 19, "batch_size": 2, "mesh": mesh} | options
    return evaluate(step, variables, examples, **options), step


def test_each_bucket_compiles_once_and_the_stride_changes_no_number(examples, network):
    # 50x70 and 64x96 share the bucket 64x96.
    result, step = run(network, examples)
    assert step._cache_size() == result.programs == 1
    exact, step = run(network, examples, bucket=1)
    assert step._cache_size() == exact.programs == 2
    np.testing.assert_array_equal(result.confusion, exact.confusion)
    wide, _ = run(network, examples, bucket=128)
    assert wide.images == 5 and (wide.confusion != exact.confusion).any()
    assert wide.confusion.sum() == exact.confusion.sum()


def test_many_shapes_are_told(examples, network, monkeypatch):
    monkeypatch.setattr("bisenet_jax.evaluation.evaluate.MANY_PROGRAMS", 1)
    run(network, examples)
    with pytest.warns(UserWarning, match="more than 1 shapes.*--bucket than 1 makes them"):
        run(network, examples, bucket=1)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol("half"),
        Protocol("double"),
        Protocol(scales=(0.5, 1.25)),
        Protocol(flips=True),
        Protocol(crop=(32, 64), stride=(32, 32)),
    ],
)
def test_every_protocol_counts_every_pixel_once_and_is_another(examples, network, protocol):
    plain, _ = run(network, examples)
    other, _ = run(network, examples, protocol=protocol)
    np.testing.assert_array_equal(other.confusion.sum(1), plain.confusion.sum(1))
    assert (other.confusion != plain.confusion).any()


def test_an_empty_split_counts_nothing(network):
    model, variables = network
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = make_evaluate_step(model, Normalization(), mesh)
    result = evaluate(step, variables, [], num_classes=19, batch_size=2, mesh=mesh)
    assert result.images == 0 and not result.confusion.any()
    assert result.image_counts.shape == (0, 2, 19)


PROCESS = """
import sys
import jax
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
from bisenet_jax import parallel
from bisenet_jax.data.loader import evaluation_examples
from bisenet_jax.data.synthetic import SyntheticStreets
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.initialization import initialize
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization

model = build_model("paper", num_classes=19, width=0.25, head_channels=8)
shape = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
variables = without_boosters(initialize(model, jax.random.key(3), shape))
mesh = parallel.make_mesh(jax.local_devices())
examples = evaluation_examples(
    SyntheticStreets(images=5, height=64, width=64),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
)
step = make_evaluate_step(model, Normalization(), mesh)
result = evaluate(step, variables, examples, num_classes=19, batch_size=2, mesh=mesh)
np.savez(sys.argv[3], confusion=result.confusion, image_counts=result.image_counts)
"""


def test_two_processes_count_every_image_once(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(i), str(tmp_path / f"{i}.npz")],
            cwd=ROOT,
            env=environment,
        )
        for i in range(2)
    ]
    assert [process.wait(timeout=240) for process in started] == [0, 0]
    model = build_model("paper", num_classes=19, width=0.25, head_channels=8)
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = without_boosters(initialize(model, jax.random.key(3), shape))
    streets = SyntheticStreets(images=5, height=64, width=64)
    alone, _ = run((model, variables), streets)
    for i in range(2):
        with np.load(tmp_path / f"{i}.npz") as result:
            np.testing.assert_array_equal(result["confusion"], alone.confusion)
            np.testing.assert_array_equal(result["image_counts"], alone.image_counts)
