"""Starting a run from a weights file: what is taken from it, and what is not."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import traverse_util

from bisenet_jax.config import Config
from bisenet_jax.convert.backbones import read_backbone
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.errors import ConfigError, WeightsError
from bisenet_jax.model.backbones.branch import BACKBONES
from bisenet_jax.model.bisenetv2 import BiSeNetV2
from bisenet_jax.model.presets import graph_differences
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.state import TrainState
from bisenet_jax.weights import Weights, read_weights

PyTree = Any


class Start(NamedTuple):
    """Where each tensor of a network came from, by names such as `params/head/conv/bn/scale`.

    Attributes:
        loaded: taken from the file.
        skipped: in the file, with no place in the network.
        fresh: not in the file, so drawn as without it.
        mismatched: in both, with the shapes (in the file, in the network); drawn anew.
        other_classes: classifiers for other classes, drawn anew.
    """

    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    fresh: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    other_classes: tuple[str, ...]

    def describe(self) -> str:
        """One line for each kind of tensor, the parts of the network in place of each layer."""
        shapes = "; ".join(
            f"{name} {list(there)}, here {list(here)}"
            for name, (there, here) in self.mismatched.items()
        )
        lines = [
            f"loaded: {_count(self.loaded)}",
            f"not in the file, drawn at random: {_count(self.fresh)}",
            f"of other classes, drawn at random: {', '.join(self.other_classes) or 'none'}",
            f"of another shape, drawn at random: {shapes or 'none'}",
            f"in the file only, skipped: {', '.join(self.skipped) or 'none'}",
        ]
        return "\n".join(f"  {line}" for line in lines)


def read_initial_weights(options: Config, model: BiSeNetV2) -> Weights | None:
    """The weights that a configuration starts from, or None; says where inputs will differ.

    Raises:
        WeightsError: for a file that cannot be read, and for one of a network that computes
            something else with the same weights, unless `init.allow_partial` is set.
        ConfigError: for weights of a backbone where the network has none.
    """
    path = options.init.weights
    if not path:
        return None
    if options.init.part == "backbone":
        return _read_backbone(options, model)
    weights = read_weights(path)
    differing = graph_differences(weights.model, model, with_boosters=weights.has_boosters)
    listed = "; ".join(
        f"{name} {there!r}, here {here!r}" for name, (there, here) in differing.items()
    )
    if differing and not options.init.allow_partial:
        raise WeightsError(
            f"{path} is of another network than this configuration's ({listed}): give "
            f"--config.model.preset={weights.preset} and its fields, or "
            "--config.init.allow_partial to start from what fits"
        )
    if differing:
        print(f"{path} is of another network: {listed}")
    _compare_normalization(options, weights.normalization)
    if weights.input_scale != options.augment.input_scale:
        print(
            f"{path} sees images at input scale {weights.input_scale:g}, this run at "
            f"{options.augment.input_scale:g}"
        )
    return weights


def _read_backbone(options: Config, model: BiSeNetV2) -> Weights:
    """Weights that hold the backbone's tensors only, and the classes of this run."""
    path, branch = options.init.weights, model.semantic_branch
    if branch not in BACKBONES or model.fusion == "detail":
        raise ConfigError(
            f"config.init.part backbone needs a network with one, and config.model."
            f"semantic_branch is {branch!r}; choose from {', '.join(BACKBONES)}"
        )
    found = read_backbone(branch, path)
    print(
        f"{path}: {found.loaded} tensors of {branch}; left out: "
        f"{', '.join(found.unused) or 'none'}, {found.counters} batch counters"
    )
    # ImageNet's, as torchvision trains with.
    normalization = Normalization()
    _compare_normalization(options, normalization)
    return Weights(
        model=model,
        variables={
            collection: {"semantic_branch": {"backbone": tree}}
            for collection, tree in found.variables.items()
        },
        class_set=find_class_set(options.data.classes),
        normalization=normalization,
        preset=options.model.preset,
    )


def _compare_normalization(options: Config, there: Normalization) -> None:
    here = Normalization(options.data.mean, options.data.std)
    if there != here:
        print(f"{options.init.weights} was trained with {there}, this run has {here}")


def start_from(
    state: TrainState, weights: Weights, class_set: ClassSet
) -> tuple[TrainState, Start]:
    """A state with the tensors of a file in place of its own; step and optimiser stay.

    Args:
        state: at step 0.
        weights: of the file, with boosters or without.
        class_set: of the run. Classifiers are taken only where the names of all classes and
            their order are those of the file.

    Raises:
        WeightsError: when nothing of the file fits.
    """
    here, there = _flatten(state.variables), _flatten(weights.variables)
    has_same_classes = weights.class_set.names == class_set.names
    loaded, other_classes = [], []
    mismatched = {}
    variables = dict(here)
    for name in sorted(here.keys() & there.keys()):
        if "classifier" in name.split("/") and not has_same_classes:
            other_classes.append(name)
        elif here[name].shape != there[name].shape:
            mismatched[name] = (there[name].shape, here[name].shape)
        else:
            loaded.append(name)
            variables[name] = jnp.asarray(there[name], here[name].dtype)
    if not loaded:
        raise WeightsError("no tensor of config.init.weights fits this network; leave it out")
    tree = traverse_util.unflatten_dict(variables, sep="/")
    start = Start(
        loaded=tuple(loaded),
        skipped=tuple(sorted(there.keys() - here.keys())),
        fresh=tuple(sorted(here.keys() - there.keys())),
        mismatched=mismatched,
        other_classes=tuple(other_classes),
    )
    return state.with_variables(tree), start


def _flatten(variables: PyTree) -> dict[str, Any]:
    return traverse_util.flatten_dict(variables, sep="/")


def _count(names: Iterable[str]) -> str:
    """How many tensors of which part: `head 9, booster_s3 17`."""
    counts: dict[str, int] = {}
    for name in names:
        part = name.split("/")[1]
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} {count}" for part, count in counts.items()) or "none"
