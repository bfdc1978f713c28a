"""An ONNX file computes what the network does, in plain operators, and says what it is."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from bisenet_jax.data.classes import CAMVID
from bisenet_jax.data.synthetic import draw_street
from bisenet_jax.errors import ConfigError, DataError, ExportError
from bisenet_jax.export import onnx as onnx_export
from bisenet_jax.export.description import describe
from bisenet_jax.export.graph import Graph, Tensor
from bisenet_jax.export.onnx import export_onnx
from bisenet_jax.export.verification import Batch, image_batches, verify
from bisenet_jax.segmenter import Segmenter
from bisenet_jax.weights import read_weights, write_weights

ROOT = Path(__file__).parent.parent

# What onnxruntime and TensorRT take without a plugin, a loop or a shape that is computed.
OPERATORS = set(
    "Add ArgMax AveragePool Cast Concat Conv Gather GlobalAveragePool MatMul MaxPool Mul Pad "
    "Relu Reshape Resize Sigmoid Slice Transpose".split()
)


def streets(batch, height, width):
    return np.stack([draw_street(7, i, 64, 96)[0] for i in range(batch)])[:, :height, :width]


def run(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": images})
    return output


def check_labels(path, weights, images):
    # By way of the logits, whose program the export compiled.
    expected = Segmenter(weights).logits(images).argmax(-1)
    labels = run(path, images)
    assert labels.dtype == np.uint8 and labels.shape == images.shape[:3]
    assert len(np.unique(expected)) > 3
    assert (labels == expected).mean() >= 0.999


@pytest.mark.parametrize("preset", ["paper", "coincheung", "mmseg", "paddleseg"])
def test_presets(preset, tmp_path, random_weights):
    # The other lowering compiles in less time, and is one function with the first.
    weights = random_weights(preset, depthwise_lowering="conv")
    path = tmp_path / "out" / "network.onnx"
    found = export_onnx(path, weights, height=50, width=70, batch=2)
    assert found.images == 4 and found.equal_labels >= 0.999 and found.logit_difference < 1e-3
    check_labels(path, weights, streets(2, 50, 70))
    model = onnx.load(path)
    assert {node.op_type for node in model.graph.node} <= OPERATORS
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert all(node.name for node in model.graph.node)
    # Depth-wise convolutions are grouped ones.
    groups = [
        attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if attribute.name == "group"
    ]
    assert len(groups) > 20 and max(groups) > 8
    for tensor in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        assert all(dim.dim_value > 0 for dim in tensor.type.tensor_type.shape.dim)


@pytest.mark.parametrize(
    "fields",
    [
        {"bga_upsampling": "align_corners", "stem_fuse_kernel_size": 3, "conv_bias": True},
        {"bga_upsampling": "nearest", "expansion_place": "depthwise", "depth": 2},
        {
            "use_depthwise_relu": True,
            "context_last_form": "conv_bn_relu",
            "bga_relu": True,
            "bga_pointwise_bias": True,
            "bga_pool_counts_padding": False,
            "width": 1.5,
            "semantic_repeats": (2, 1, 3),
            "batch_norm_epsilon": 0.1,
        },
    ],
)
def test_switches(fields, tmp_path, random_weights):
    weights = random_weights("paper", depthwise_lowering="conv", **fields)
    path = tmp_path / "network.onnx"
    export_onnx(path, weights, height=64, width=96)
    check_labels(path, weights, streets(1, 64, 96))


@pytest.mark.parametrize("input_scale", [1.25, 2.0])
@pytest.mark.parametrize("io", ["uint8-labels", "float-logits"])
def test_enlarged_images(input_scale, io, tmp_path, random_weights):
    weights = random_weights("paper", depthwise_lowering="conv")
    weights = weights.with_input_scale(input_scale)
    path = tmp_path / "network.onnx"
    found = export_onnx(path, weights, height=41, width=58, io=io)
    assert found.equal_labels >= 0.999 and found.logit_difference < 1e-3


def test_halved_images_and_bfloat16(tmp_path, random_weights):
    weights = random_weights("paper", dtype="bfloat16", depthwise_lowering="conv")
    weights = dataclasses.replace(weights, input_scale=0.5)
    path = tmp_path / "network.onnx"
    export_onnx(path, weights, height=63, width=90)
    # The file computes in float32.
    single = dataclasses.replace(weights, model=weights.model.clone(dtype="float32"))
    check_labels(path, single, streets(1, 63, 90))


def test_enlarged_with_channels_last():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 1)).astype(np.float32)
    graph = Graph()
    images = Tensor("x", x.shape)
    output = graph.enlarge(images, "grow", 8)
    content = onnx_export._serialize(onnx, graph, images, output, {})
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": x})
    # Half-pixel centres, half a step of 8 on each side too much.
    rows = (np.arange(-4, 5 * 8 + 4) + 0.5) / 8 - 0.5
    columns = [np.interp(rows, np.arange(5), column) for column in x.reshape(6, 5)]
    expected = np.stack(columns).reshape(2, 3, 48, 1).repeat(16, 3).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert output.shape == found.shape == (2, 48, 16, 3)


@pytest.mark.parametrize("most, axis", [(11, 3), (10, 1)])
def test_many_classes_are_enlarged_channels_first(
    most, axis, tmp_path, random_weights, monkeypatch
):
    monkeypatch.setattr(onnx_export, "_MOST_CHANNELS_LAST", most)
    weights = random_weights("paper", depthwise_lowering="conv")
    path = tmp_path / "network.onnx"
    found = export_onnx(path, weights, height=50, width=70)
    assert found.equal_labels >= 0.999 and found.logit_difference < 1e-3
    (argmax,) = (node for node in onnx.load(path).graph.node if node.op_type == "ArgMax")
    assert [entry.i for entry in argmax.attribute if entry.name == "axis"] == [axis]
    check_labels(path, weights, streets(1, 50, 70))


def test_logits(tmp_path, random_weights):
    path = tmp_path / "network.onnx"
    weights = random_weights("paper", depthwise_lowering="conv")
    found = export_onnx(path, weights, height=50, width=70, io="float-logits")
    assert found.equal_labels >= 0.999 and found.logit_difference < 1e-3
    images = streets(1, 50, 70)
    mean, std = (np.asarray(numbers, np.float32) for numbers in weights.normalization)
    inputs = ((images / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    logits = run(path, inputs)
    assert logits.dtype == np.float32 and logits.shape == (1, 11, 50, 70)
    expected = Segmenter(weights).logits(images)
    np.testing.assert_allclose(logits.transpose(0, 2, 3, 1), expected, atol=1e-3)


def test_the_file_says_what_it_is(tmp_path, tiny_weights):
    path = tmp_path / "network.onnx"
    export_onnx(path, tiny_weights, height=64, width=96)
    told = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert tuple(told["class_names"]) == CAMVID.names
    assert told["class_colours"] == [list(colour) for colour in CAMVID.colours]
    assert told["mean"] == [0.5, 0.4, 0.3] and told["std"] == [0.25, 0.2, 0.3]
    assert told["preset"] == "coincheung" and told["io"] == "uint8-labels"
    assert told["miou"] == 0.5 and told["protocol"] == "whole images" and told["step"] == 6
    # A run and the weights file made of it are one network.
    digest = write_weights(tmp_path / "weights.safetensors", tiny_weights)
    assert told["content_hash"] == digest
    assert describe(read_weights(tmp_path / "weights.safetensors"), "uint8-labels") == told


def test_the_page_on_deploying(tmp_path, tiny_weights, monkeypatch, capsys):
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import json.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    export_onnx("network.onnx", tiny_weights, height=64, width=96)
    Image.fromarray(streets(1, 64, 96)[0]).save("photo.jpg")
    exec(example, scope := {})
    assert scope["labels"].shape == (1, 64, 96) and scope["labels"].dtype == np.uint8
    assert "'" in capsys.readouterr().out and scope["names"] == list(CAMVID.names)


def test_another_network_is_not_written(tmp_path, tiny_weights, monkeypatch):
    def fold_wrongly(model, variables):
        folded = onnx_export_fold(model, variables)
        classifier = folded.convolutions["head/classifier"]
        wrong = classifier._replace(bias=classifier.bias + np.float32(0.01))
        return folded._replace(convolutions={**folded.convolutions, "head/classifier": wrong})

    # All labels are right, the logits are not.
    onnx_export_fold = onnx_export.fold_batchnorm
    monkeypatch.setattr(onnx_export, "fold_batchnorm", fold_wrongly)
    with pytest.raises(ExportError, match="is not the network.*logits within 1.0e-02"):
        export_onnx(tmp_path / "network.onnx", tiny_weights, height=64, width=96)
    assert not list(tmp_path.iterdir())


def test_verify():
    labels, logits = np.zeros((1, 20, 50), int), np.zeros((1, 20, 50, 2))
    batches = [Batch(streets(1, 20, 50), 1)]

    def check(labels_there, logits_there):
        return verify(
            "it", lambda _: (labels_there, logits_there), lambda _: (labels, logits), batches
        )

    one_wrong, two_wrong = labels.copy(), labels.copy()
    one_wrong[0, 0, 0] = two_wrong[0, 0, :2] = 1
    assert check(one_wrong, logits + 9e-4).equal_labels == 0.999
    assert check(one_wrong, None).logit_difference is None
    assert "on 1 images: 99.900 % of" in str(check(one_wrong, None))
    assert "99.999 % of" in str(check(labels, None)._replace(equal_labels=1 - 1e-7))
    for case in ((two_wrong, None), (labels, logits - 2e-3), (labels, logits * np.nan)):
        with pytest.raises(ExportError, match="was not written"):
            check(*case)


def test_copies_that_fill_a_batch_are_not_compared():
    """Else one picture, repeated, would count as many."""
    shape = (4, 20, 50)
    labels, logits = np.zeros(shape, int), np.zeros((*shape, 2))
    there_labels, there_logits = labels.copy(), logits.copy()
    there_labels[1:], there_logits[1:] = 1, 1
    programs = lambda _: (there_labels, there_logits), lambda _: (labels, logits)
    batch = Batch(np.zeros((*shape, 3), np.uint8), 1)
    found = verify("it", *programs, [batch])
    assert found == (1, 1.0, 0.0)
    with pytest.raises(ExportError, match="verified on 2 images: 50.000 %"):
        verify("it", *programs, [batch._replace(count=2)])


def test_pictures_of_a_folder(tmp_path):
    (street,) = streets(1, 64, 96)
    for name in ("a", "b", "c"):
        Image.fromarray(street).save(tmp_path / f"{name}.png")
    first, second = image_batches(tmp_path, 2, 64, 96)
    assert (first.images == street).all() and (second.images == street).all()
    assert first.images.shape == second.images.shape == (2, 64, 96, 3)
    assert (first.count, second.count) == (2, 1)
    assert next(image_batches(tmp_path, 1, 20, 30)).images.shape == (1, 20, 30, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        next(image_batches(tmp_path / "empty", 1, 64, 96))
    with pytest.raises(ConfigError, match="is no folder"):
        next(image_batches(tmp_path / "a.png", 1, 64, 96))


def test_refusals(tmp_path, random_weights, monkeypatch):
    weights, path = random_weights("paper"), tmp_path / "network.onnx"
    with pytest.raises(ConfigError, match="io 'jpeg' is not known"):
        export_onnx(path, weights, height=64, width=96, io="jpeg")
    with pytest.raises(ConfigError, match="height 0 must be at least 1"):
        export_onnx(path, weights, height=0, width=96)
    many = dataclasses.replace(weights, model=weights.model.clone(num_classes=257))
    with pytest.raises(ConfigError, match="257 classes do not fit uint8 labels"):
        export_onnx(path, many, height=64, width=96)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'bisenet_jax\[export\]'"):
        export_onnx(path, weights, height=64, width=96)


def test_script(tmp_path, tiny_weights):
    source, output, told = (
        str(tmp_path / name) for name in ("w.safetensors", "network.onnx", "told.json")
    )
    write_weights(source, tiny_weights)

    def export(*flags):
        command = [sys.executable, "export.py", "--weights", source, "--output", output, *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    result = export("--format", "onnx")
    assert result.returncode == 2 and "give --height and --width" in result.stderr
    result = export("--height", "64")
    assert result.returncode == 2 and "--height means nothing to --format" in result.stderr
    assert not Path(output).exists()
    size = ("--height", "64", "--width", "96", "--batch", "2")
    result = export("--format", "onnx", *size, "--json", told)
    assert result.returncode == 0, result.stderr
    assert "verified on 4 images" in result.stdout
    data = json.loads(Path(told).read_text())
    assert data["program"] == {"height": 64, "width": 96, "batch": 2, "io": "uint8-labels"}
    assert data["bytes"] == Path(output).stat().st_size
    assert data["verified"]["equal_labels"] >= 0.999
    check_labels(output, tiny_weights, streets(2, 64, 96))
