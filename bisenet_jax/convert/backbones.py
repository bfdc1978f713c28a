"""ImageNet weights in torchvision's names and shapes for a backbone of ours."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import traverse_util

from bisenet_jax.convert.checkpoint import read_checkpoint
from bisenet_jax.convert.names import expand, leaf_names
from bisenet_jax.convert.tensors import COUNTER, Tensors, our_layout, public_shape
from bisenet_jax.errors import WeightsError
from bisenet_jax.model.backbones.branch import BACKBONES

PyTree = Any


class Backbone(NamedTuple):
    """A converted checkpoint.

    Attributes:
        variables: `params` and `batch_stats` of a `BackboneBranch`'s `backbone`, numpy float32.
        loaded: how many tensors they are.
        unused: names of the classifier's tensors and such, left out.
        counters: how many of PyTorch's batch counters were left out.
    """

    variables: PyTree
    loaded: int
    unused: tuple[str, ...]
    counters: int


def read_backbone(backbone: str, path: str) -> Backbone:
    """Read a `.pth`, `.safetensors` or `.npz` file whole, but for what a backbone has not.

    Args:
        backbone: a name of `BACKBONES`.
        path: of the file.

    Raises:
        WeightsError: for a file that cannot be read, or whose names or shapes are not those of
            torchvision's network, with each misfit.
    """
    tensors = read_checkpoint(Path(path).expanduser())
    network = BACKBONES[backbone]
    ours = _abstract_variables(backbone)
    names = torchvision_names(backbone, ours)
    wanted = {names[name]: public_shape(leaf.shape) for name, leaf in ours.items()}
    counters = [name for name in tensors if name.endswith(COUNTER)]
    held = tensors.keys() - set(counters)
    unused = sorted(name for name in held if name.startswith(network.unused))
    _require_fit(backbone, path, {name: tensors[name] for name in held - set(unused)}, wanted)
    converted = {name: our_layout(tensors[names[name]]) for name in ours}
    tree = traverse_util.unflatten_dict(converted, sep="/")
    return Backbone(tree, len(converted), tuple(unused), len(counters))


def torchvision_names(backbone: str, names: PyTree) -> dict[str, str]:
    """torchvision's name for each tensor of ours, such as `params/stem/conv/kernel`."""
    modules = {}
    for ours, theirs in BACKBONES[backbone].torchvision_names().items():
        modules |= expand(ours, theirs)
    return leaf_names(modules, names)


def _require_fit(
    backbone: str, path: str, tensors: Tensors, wanted: dict[str, tuple[int, ...]]
) -> None:
    misfits = [
        *(f"{name} is missing" for name in sorted(wanted.keys() - tensors.keys())),
        *(f"{name} is unexpected" for name in sorted(tensors.keys() - wanted.keys())),
        *(
            f"{name} is {list(tensors[name].shape)}, the network has {list(wanted[name])}"
            for name in sorted(wanted.keys() & tensors.keys())
            if tensors[name].shape != wanted[name]
        ),
    ]
    if misfits:
        more = f" and {len(misfits) - 8} more" if len(misfits) > 8 else ""
        raise WeightsError(
            f"{path} does not fit {backbone}: {'; '.join(misfits[:8])}{more}. Give "
            "torchvision's weights of that network, or set config.model.semantic_branch to the "
            "one they are of"
        )


def _abstract_variables(backbone: str) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    module = BACKBONES[backbone]()

    def init(images: jax.Array) -> PyTree:
        return module.init(jax.random.key(0), images, is_training=False)

    return traverse_util.flatten_dict(jax.eval_shape(init, images), sep="/")
