"""The network as an ONNX file that holds its preprocessing and is checked before it is written.

A direct writer over the folded network: static shapes, plain operators, float32 inside.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from bisenet_jax import __version__
from bisenet_jax.errors import ConfigError, ExportError
from bisenet_jax.export.description import FLOAT_LOGITS, IOS, UINT8_LABELS, describe
from bisenet_jax.export.graph import Graph, Tensor
from bisenet_jax.export.verification import (
    Program,
    Verification,
    image_batches,
    in_float32,
    make_reference,
    verify,
)
from bisenet_jax.fast.description import compute_logits, is_described
from bisenet_jax.fast.folding import ScaleShift, fold_batchnorm
from bisenet_jax.files import write_bytes
from bisenet_jax.inference import LOGITS_STRIDE, logits_stride, scaled_size
from bisenet_jax.model.bisenetv2 import STRIDE
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import Weights

OPSET = 17  # read by TensorRT from 8.5 and onnxruntime from 1.12 on
IR_VERSION = 8  # the one of that opset

# More channels cost more in the matrix products that enlarge them than ArgMax gains.
_MOST_CHANNELS_LAST = 64


def export_onnx(
    path: str | os.PathLike[str],
    weights: Weights,
    *,
    height: int,
    width: int,
    batch: int = 1,
    io: str = UINT8_LABELS,
    pictures: str | os.PathLike[str] | None = None,
) -> Verification:
    """Write the network for images of one size, if onnxruntime computes the same from it.

    The file computes in float32, whatever the dtype of the network's activations.

    Args:
        path: of the file.
        weights: what to write; boosters are left behind.
        height, width, batch: of the images, any numbers above 0.
        io: `uint8-labels`: `images [B, H, W, 3] uint8`, red first -> `labels [B, H, W] uint8`,
            everything between them inside; `float-logits`: `images [B, 3, H, W] float32`,
            normalised -> `logits [B, classes, H, W] float32`.
        pictures: folder of images to compare on; None draws streets.

    Raises:
        ConfigError: for sizes, an io or a number of classes that cannot be, and without onnx
            and onnxruntime.
        ExportError: for a network that has no description, and when the file would compute
            something else; none is written then.
    """
    onnx, _ = _import_libraries()
    if io not in IOS:
        raise ConfigError(f"io {io!r} is not known; choose from {IOS}")
    for name, size in (("height", height), ("width", width), ("batch", batch)):
        if size < 1:
            raise ConfigError(f"{name} {size} must be at least 1")
    if not is_described(weights.model):
        raise ExportError(
            f"a network with semantic_branch {weights.model.semantic_branch!r} cannot be "
            "written as ONNX: export it with --format stablehlo or safetensors, or train the "
            "paper's own branch, gather_expansion"
        )
    weights = in_float32(weights)
    if io == UINT8_LABELS and weights.model.num_classes > 256:
        raise ConfigError(
            f"{weights.model.num_classes} classes do not fit uint8 labels; choose io "
            f"{FLOAT_LOGITS!r}"
        )
    # The network looks at its own switches before anything is made of them.
    reference = make_reference(weights)
    graph = Graph()
    images, logits = _add_network(graph, weights, (batch, height, width), io)
    # Beyond the logits' border, where they are enlarged with channels last.
    margin = _label_margin(weights) if io == UINT8_LABELS else None
    if margin is None:
        logits = _add_logits(graph, weights, logits, height, width)
    else:
        logits = graph.enlarge(logits, "postprocessing/grow", 2 * margin)
    output = logits
    if io == UINT8_LABELS:
        output = _add_labels(graph, logits, height, width, margin)
    properties = describe(weights, io)
    content = _serialize(onnx, graph, images, output, properties)
    # Logits are compared where the file tells none, too.
    observed = _serialize(onnx, graph, images, logits, properties)

    def arrange(logits: np.ndarray) -> np.ndarray:
        if margin is None:
            return logits.transpose(0, 2, 3, 1)
        return logits[:, margin : margin + height, margin : margin + width]

    program = _make_program(content, observed, weights.normalization, io, arrange)
    batches = image_batches(pictures, batch, height, width)
    found = verify(f"{path} in onnxruntime", program, reference, batches)
    write_bytes(path, content)
    return found


def _label_margin(weights: Weights) -> int | None:
    """Half the factor of `Graph.enlarge`, where that is the best way to labels; else None.

    It is, where few logits go at once to the images' size.
    """
    stride = logits_stride(weights.input_scale)
    if stride is None or stride % 2 or weights.model.num_classes > _MOST_CHANNELS_LAST:
        return None
    return stride // 2


def _add_network(
    graph: Graph, weights: Weights, size: tuple[int, int, int], io: str
) -> tuple[Tensor, Tensor]:
    """The input of the graph, and logits at 1/8 of what the network sees."""
    batch, height, width = size
    if io == UINT8_LABELS:
        images = Tensor("images", (batch, height, width, 3), "uint8")
        x = graph.channels_first(
            graph.cast(images, "preprocessing/cast", "float32"), "preprocessing/channels_first"
        )
        x = graph.scale_shift(x, "preprocessing", _normalization_layer(weights.normalization))
    else:
        x = images = Tensor("images", (batch, 3, height, width))
    seen_height, seen_width = scaled_size(height, width, weights.input_scale)
    x = graph.resize(x, "preprocessing/resize", seen_height, seen_width, "bilinear")
    padded = (seen_height + -seen_height % STRIDE, seen_width + -seen_width % STRIDE)
    # Zeros after normalisation are the mean colour.
    x = graph.pad(x, "preprocessing/pad", *padded)
    folded = fold_batchnorm(weights.model, weights.variables)
    return images, compute_logits(graph, weights.model, folded, x)


def _add_logits(
    graph: Graph, weights: Weights, logits_8: Tensor, height: int, width: int
) -> Tensor:
    """`[B, classes, H, W]`, as `inference.predict_logits` has them."""
    stride = logits_stride(weights.input_scale)
    size = (height, width)
    if stride is None:
        stride, size = LOGITS_STRIDE, scaled_size(height, width, weights.input_scale)
    x = graph.upsample(logits_8, "postprocessing/grow", stride, "bilinear")
    x = graph.cut(x, "postprocessing/cut", *size)
    x = graph.resize(x, "postprocessing/resize", height, width, "bilinear")
    return graph.rename(x, "logits")


def _add_labels(
    graph: Graph, logits: Tensor, height: int, width: int, margin: int | None
) -> Tensor:
    """Labels of logits `[B, classes, H, W]`; with a margin, as `Graph.enlarge` has them."""
    x = graph.argmax(logits, "postprocessing/argmax", axis=1 if margin is None else 3)
    if margin is not None:
        x = graph.cut(x, "postprocessing/cut", height, width, margin=margin, axis=1)
    # By way of float32: TensorRT makes uint8 of nothing else.
    return graph.cast(graph.cast(x, "postprocessing/cast", "float32"), "labels", "uint8")


def _normalization_layer(normalization: Normalization) -> ScaleShift:
    """`Normalization.normalize` as one scale and shift."""
    mean, std = (np.asarray(numbers, np.float64) for numbers in normalization)
    return ScaleShift((1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32))


def _serialize(
    onnx: Any, graph: Graph, image: Tensor, output: Tensor, properties: dict[str, Any]
) -> bytes:
    helper = onnx.helper

    def element_type(dtype: Any) -> int:
        return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def value_info(tensor: Tensor) -> Any:
        return helper.make_tensor_value_info(
            tensor.name, element_type(tensor.dtype), tensor.shape
        )

    nodes = []
    for operator, inputs, name, attributes in graph.nodes:
        numbers = {
            key: element_type(value) if isinstance(value, np.dtype) else value
            for key, value in attributes.items()
        }
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **numbers))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "bisenetv2",
            [value_info(image)],
            [value_info(output)],
            [
                onnx.numpy_helper.from_array(array, key)
                for key, array in graph.constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bisenet_jax",
        producer_version=__version__,
    )
    helper.set_model_props(
        model,
        {key: json.dumps(value, ensure_ascii=False) for key, value in properties.items()},
    )
    # Every tensor gets its shape, and a contradiction among them is an error.
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _make_program(
    content: bytes,
    observed: bytes,
    normalization: Normalization,
    io: str,
    arrange: Callable[[np.ndarray], np.ndarray],
) -> Program:
    _, onnxruntime = _import_libraries()
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, providers=providers)
    observer = onnxruntime.InferenceSession(observed, providers=providers)

    def program(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if io == UINT8_LABELS:
            (labels,) = session.run(None, {"images": images})
            (logits,) = observer.run(None, {"images": images})
            return labels, arrange(logits)
        inputs = np.asarray(normalization.normalize(jnp.asarray(images))).transpose(0, 3, 1, 2)
        (logits,) = session.run(None, {"images": inputs})
        return logits.argmax(1), arrange(logits)

    return program


def _import_libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "the format onnx needs onnx and onnxruntime: pip install 'bisenet_jax[export]'"
        ) from error
    return onnx, onnxruntime
