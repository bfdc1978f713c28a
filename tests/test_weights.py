"""A weights file gives back what went in, and refuses whatever is not itself."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load, save

from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import ConfigError, WeightsError
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.weights import Score, content_hash, model_fields, read_weights, write_weights


@pytest.fixture
def path(tmp_path, tiny_weights):
    path = tmp_path / "weights.safetensors"
    write_weights(path, tiny_weights)
    return path


def read_metadata(path) -> dict:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["bisenet_jax"])


def rewrite(path, tensors=None, is_honest=True, **changes):
    """Write the file anew with other tensors or another description, hashed anew if honest."""
    tensors = load(path.read_bytes()) if tensors is None else tensors
    metadata = read_metadata(path) | changes
    if is_honest:
        metadata["content_hash"] = content_hash(tensors)
        # As in files of older versions, which must be read for good.
        del metadata["description_hash"]
    path.write_bytes(save(tensors, metadata={"bisenet_jax": json.dumps(metadata)}))


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_round_trip(path, tiny_weights):
    read = read_weights(path)
    assert_same(read.variables, without_boosters(tiny_weights.variables))
    assert {leaf.dtype for leaf in jax.tree.leaves(read.variables)} == {np.dtype("float32")}
    plain = {"variables": None, "content_hash": ""}
    assert dataclasses.replace(read, **plain) == dataclasses.replace(tiny_weights, **plain)
    assert read.content_hash == content_hash(load(path.read_bytes()))


def test_input_scale_and_categories_survive(tmp_path, tiny_weights):
    halved = dataclasses.replace(
        tiny_weights,
        input_scale=0.5,
        class_set=dataclasses.replace(tiny_weights.class_set, categories={"sky": (0,)}),
    )
    write_weights(tmp_path / "half.safetensors", halved)
    read = read_weights(tmp_path / "half.safetensors")
    assert read.input_scale == 0.5 and tiny_weights.input_scale == 1.0
    assert read.class_set == halved.class_set and read.class_set.categories == {"sky": (0,)}


def test_another_input_scale_leaves_the_score_behind(tiny_weights):
    scored = dataclasses.replace(tiny_weights, score=Score(0.5, "val", "protocol full"))
    assert scored.with_input_scale(1.0) == scored
    enlarged = scored.with_input_scale(1.25)
    assert enlarged.input_scale == 1.25 and enlarged.score is None
    assert enlarged.variables is scored.variables
    for scale in (0.0, 2.5, float("nan")):
        with pytest.raises(ConfigError, match="must be from 0.01 to 2"):
            scored.with_input_scale(scale)


def test_the_file_describes_itself(path, tiny_weights):
    metadata = read_metadata(path)
    assert metadata["model"] == json.loads(json.dumps(model_fields(tiny_weights.model)))
    assert metadata["model"]["use_depthwise_relu"] and metadata["model"]["num_classes"] == 11
    assert metadata["class_set"]["names"][0] == "sky" and metadata["preset"] == "coincheung"
    assert metadata["class_set"]["colours"][1] == [128, 0, 0]
    assert metadata["normalization"]["mean"] == [0.5, 0.4, 0.3]
    assert metadata["score"] == {"miou": 0.5, "split": "val", "protocol": "whole images"}
    assert metadata["training"] == {"train": {"steps": 6}} and metadata["step"] == 6
    names = load(path.read_bytes()).keys()
    assert "params/head/classifier/kernel" in names
    assert not any("booster" in name for name in names)


def test_equal_weights_give_equal_files(path, tmp_path, tiny_weights):
    again = tmp_path / "again.safetensors"
    write_weights(again, tiny_weights)
    assert again.read_bytes() == path.read_bytes()


def test_what_is_unknown_is_null(tmp_path, tiny_weights):
    bare = dataclasses.replace(tiny_weights, score=None, step=None, training=None)
    write_weights(tmp_path / "bare", bare)
    read = read_weights(tmp_path / "bare")
    assert read.score is None and read.step is None and read.training is None


def test_boosters_on_demand(tmp_path, tiny_weights):
    write_weights(tmp_path / "all", tiny_weights, with_boosters=True)
    assert_same(read_weights(tmp_path / "all").variables, tiny_weights.variables)
    pruned = dataclasses.replace(
        tiny_weights, variables=without_boosters(tiny_weights.variables)
    )
    assert tiny_weights.has_boosters and not pruned.has_boosters
    with pytest.raises(WeightsError, match="no boosters"):
        write_weights(tmp_path / "none", pruned, with_boosters=True)


def test_float16_halves_parameters_but_not_statistics(path, tmp_path, tiny_weights):
    half = tmp_path / "half"
    write_weights(half, tiny_weights, dtype="float16")
    stored, full = load(half.read_bytes()), load(path.read_bytes())
    for name, array in stored.items():
        is_parameter = name.startswith("params/")
        assert array.dtype == ("float16" if is_parameter else "float32")
        np.testing.assert_array_equal(array, full[name].astype(array.dtype))
    read = read_weights(half).variables
    assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype("float32")}


@pytest.mark.parametrize("number", [7e4, -np.inf, np.nan, 1e-6])
def test_what_float16_cannot_hold_stays_float32(tmp_path, tiny_weights, number):
    variables = jax.tree.map(np.array, tiny_weights.variables)
    bias = variables["params"]["head"]["classifier"]["bias"]
    bias[1:], bias[0] = 0, number
    odd = dataclasses.replace(tiny_weights, variables=variables)
    write_weights(tmp_path / "odd", odd, dtype="float16")
    read = read_weights(tmp_path / "odd").variables
    np.testing.assert_array_equal(read["params"]["head"]["classifier"]["bias"], bias)
    stored = read_metadata(tmp_path / "odd")["stored"]
    assert stored["dtype"] == "float16"
    kept = [name for name in stored["float32"] if name.startswith("params/")]
    assert kept == ["params/head/classifier/bias"]


def test_float16_changes_hardly_a_label(tmp_path):
    """On a trained network, which prefers one class; the last digits lost in storage drawn."""
    shipped, random = read_weights("bisenetv2-synthetic"), np.random.default_rng(0)

    def with_digits(array: np.ndarray) -> np.ndarray:
        return array * (1 + random.uniform(-1, 1, array.shape) * 2.0**-11).astype("f4")

    params = jax.tree.map(with_digits, shipped.variables["params"])
    full = dataclasses.replace(shipped, variables=shipped.variables | {"params": params})
    write_weights(tmp_path / "half", full, dtype="float16")
    images = np.stack([draw_street(2, index, 96, 192)[0] for index in range(2)])
    ours, half = (
        Segmenter(weights).logits(images) for weights in (full, read_weights(tmp_path / "half"))
    )
    assert not np.array_equal(ours, half)
    assert (ours.argmax(-1) == half.argmax(-1)).mean() >= 0.999


def test_another_dtype_is_refused(tmp_path, tiny_weights):
    with pytest.raises(WeightsError, match="'int8' is not known"):
        write_weights(tmp_path / "none", tiny_weights, dtype="int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-5], "truncated or damaged"),
        (lambda data: data[:200], "truncated or damaged"),
        (lambda data: data[:4], "truncated or damaged"),
        (lambda data: b"", "truncated or damaged"),
        (lambda data: data + b"more", "truncated or damaged"),
        (lambda data: b"\x89PNG\r\n\x1a\n and so on", "not a safetensors file"),
        (lambda data: b"\x80\x04\x95 a pickle, say", "not a safetensors file"),
        (lambda data: save({"a": np.zeros(3)}), "of another project"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "changed after it was written"),
    ],
)
def test_damaged_files(path, change, message):
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=message):
        read_weights(path)


def test_missing_file(tmp_path):
    with pytest.raises(WeightsError, match="neither a file nor"):
        read_weights(tmp_path / "nowhere")


def test_tensors_that_do_not_fit(path):
    original = path.read_bytes()
    name = "params/head/classifier/kernel"
    for change, message in (
        (lambda tensors: tensors.pop(name), f"tensor {name} is missing"),
        (lambda tensors: tensors.update(extra=np.zeros(1, "f4")), "tensor extra is unexpected"),
        (lambda tensors: tensors.update({name: np.zeros((1, 1, 8, 5), "f4")}), "8, 5.*8, 11"),
        (lambda tensors: tensors.update({name: np.zeros((1, 1, 8, 11))}), "float64"),
    ):
        path.write_bytes(original)
        tensors = load(original)
        change(tensors)
        rewrite(path, tensors)
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


def test_descriptions_that_do_not_fit(path):
    original = path.read_bytes()
    metadata = read_metadata(path)
    fewer_classes = {"name": "two", "names": ["a", "b"], "colours": [[0, 0, 0], [1, 1, 1]]}
    fewer_fields = {k: v for k, v in metadata["model"].items() if k != "bga_relu"}
    for change, message in (
        ({"format_version": 2}, "format version 2.*reads 1"),
        ({"class_set": fewer_classes}, "11 classes and names 2"),
        ({"model": fewer_fields}, "field bga_relu"),
        ({"model": metadata["model"] | {"gates": 3}}, "field gates"),
        ({"model": metadata["model"] | {"expansion": 3}}, "does not fit the network"),
        ({"normalization": {"median": 1}}, "cannot be read"),
    ):
        path.write_bytes(original)
        rewrite(path, **change)
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


def test_a_changed_description_is_seen(path):
    content = path.read_bytes()
    mean = rb"mean\": [0.5"
    assert content.count(mean) == 1
    path.write_bytes(content.replace(mean, mean.replace(b"5", b"7")))
    with pytest.raises(WeightsError, match="its description is not the one"):
        read_weights(path)
    # Files of older versions, which lack that hash, are read as ever.
    path.write_bytes(content)
    rewrite(path)
    assert "description_hash" not in read_metadata(path)
    assert read_weights(path).normalization.mean[0] == 0.5


def test_a_description_is_not_believed(path):
    original, model = path.read_bytes(), read_metadata(path)["model"]
    for change, message in (
        ({"input_scale": 1e9}, "input_scale is 1000000000.0"),
        ({"input_scale": True}, "input_scale is True"),
        ({"score": {"miou": "high", "split": "val", "protocol": ""}}, "score is"),
        ({"step": -1}, "step is -1"),
        ({"normalization": {"mean": [0, 0, 0], "std": [0, 1, 1]}}, "normalization is"),
        ({"model": model | {"expansion": "6"}}, "expansion is '6'"),
        ({"model": model | {"dtype": "adamantine"}}, "adamantine"),
        # A few digits that would be traced for days.
        ({"model": model | {"semantic_repeats": [10**9, 1, 1]}}, "more layers than"),
        ({"model": model | {"depth": 10**9}}, "more layers than"),
        ({"model": 5}, "cannot be read"),
    ):
        path.write_bytes(original)
        rewrite(path, **change)
        with pytest.raises(WeightsError, match=message):
            read_weights(path)


def test_the_hash_covers_names_dtypes_shapes_and_bytes():
    tensors = {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2, np.float32)}
    hashes = {
        content_hash(tensors),
        content_hash({"c": tensors["a"], "b": tensors["b"]}),
        content_hash(tensors | {"a": tensors["a"].reshape(2, 2)}),
        content_hash(tensors | {"b": np.zeros(2, np.int32)}),
        content_hash(tensors | {"b": np.ones(2, np.float32)}),
    }
    assert len(hashes) == 5
    assert content_hash(dict(reversed(tensors.items()))) in hashes
