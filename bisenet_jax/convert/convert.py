"""One file in, one file out, and a report of everything that was found on the way."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bisenet_jax.config_rules import LEAST_STD
from bisenet_jax.convert.checkpoint import read_checkpoint, write_checkpoint
from bisenet_jax.convert.names import LAYOUTS, classifier_name, head_prefix
from bisenet_jax.convert.tensors import (
    Comparison,
    Tensors,
    compare,
    count_classes,
    from_public,
    to_public,
)
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.classes import ClassSet
from bisenet_jax.errors import ConfigError, WeightsError
from bisenet_jax.files import write_json
from bisenet_jax.model.bisenetv2 import without_boosters
from bisenet_jax.model.presets import build_model, graph_differences
from bisenet_jax.normalization import Normalization
from bisenet_jax.weights import Weights, read_weights, write_weights

# What each repository trains with. CoinCheung measures the data set itself; mmsegmentation
# takes ImageNet's for all: 123.675, 116.28, 103.53 and 58.395, 57.12, 57.375 in units
# of 0 to 255.
_COINCHEUNG = {
    "cityscapes": Normalization((0.3257, 0.3690, 0.3223), (0.2112, 0.2148, 0.2115)),
    "coco_stuff": Normalization((0.4696, 0.4464, 0.4072), (0.2747, 0.2701, 0.2852)),
}
_MMSEG = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_USUAL_CLASSES = {19: "cityscapes", 171: "coco_stuff"}


@dataclass(frozen=True)
class Options:
    """See the flags of the program.

    Attributes:
        mean: of the normalisation, or None for the layout's own.
        std: likewise.
    """

    classes: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    keeps_boosters: bool = True
    fresh_heads: bool = False
    json_file: str | None = None


def import_from(layout: str, path: str, output: str, options: Options) -> dict[str, Any]:
    """Convert a public checkpoint into a weights file; returns the report.

    Raises:
        WeightsError: for a checkpoint that cannot be read or does not fit, with every shape
            that does not.
        ConfigError: for classes or a normalisation that are missing or do not fit.
    """
    tensors = read_checkpoint(Path(path))
    report = {"direction": "from", "layout": layout, "input": path, "written": None}
    count = count_classes(layout, tensors)
    if options.fresh_heads:
        if options.classes is None:
            raise ConfigError("--fresh_heads needs --classes, for which to draw them")
        count = len(find_class_set(options.classes))
    found = compare(layout, tensors, count or 19, fresh_heads=options.fresh_heads)
    report |= asdict(found) | {"classes": count, "fresh_heads": options.fresh_heads}
    _write_report(options, report)
    if not found.fits:
        raise WeightsError(_describe_misfit(layout, path, tensors, found))
    assert count is not None  # without a classifier nothing fits
    class_set = _choose_classes(count, options.classes)
    normalization = choose_normalization(layout, class_set.name, options.mean, options.std)
    model, variables = from_public(layout, tensors, count, fresh_heads=options.fresh_heads)
    has_boosters = found.has_boosters or options.fresh_heads
    with_boosters = has_boosters and options.keeps_boosters
    weights = Weights(
        model=model,
        variables=variables,
        class_set=class_set,
        normalization=normalization,
        preset=layout,
    )
    digest = write_weights(output, weights, with_boosters=with_boosters)
    report |= {
        "written": output,
        "class_set": class_set.name,
        "normalization": normalization._asdict(),
        "boosters": with_boosters,
        "content_hash": digest,
    }
    _write_report(options, report)
    _print_import(report, found, has_boosters)
    return report


def export_to(layout: str, path: str, output: str, options: Options) -> dict[str, Any]:
    """Convert a weights file for public code; returns the report.

    Raises:
        WeightsError: for a network that the public code cannot build, with each switch.
        ConfigError: for options that only the other direction has.
    """
    if options.classes or options.mean or options.std or options.fresh_heads:
        raise ConfigError("--classes, --mean, --std and --fresh_heads go with --from only")
    weights = read_weights(path)
    with_boosters = weights.has_boosters and options.keeps_boosters
    theirs = build_model(layout, num_classes=weights.model.num_classes)
    differing = graph_differences(weights.model, theirs, with_boosters=with_boosters)
    if differing:
        listed = "; ".join(f"{name} {a!r}, there {b!r}" for name, (a, b) in differing.items())
        raise WeightsError(
            f"{path} is another network than that of {layout} ({listed}): only weights that "
            f"were trained with --config.model.preset={layout} can go there"
        )
    variables = weights.variables if with_boosters else without_boosters(weights.variables)
    tensors = to_public(layout, variables)
    write_checkpoint(Path(output), tensors, "state_dict" if layout == "mmseg" else "")
    report = {
        "direction": "to",
        "layout": layout,
        "input": path,
        "written": output,
        "tensors": len(tensors),
        "classes": weights.model.num_classes,
        "class_set": weights.class_set.name,
        "normalization": weights.normalization._asdict(),
        "input_scale": weights.input_scale,
        "boosters": with_boosters,
    }
    _write_report(options, report)
    mean, std = (", ".join(f"{v:.4f}" for v in part) for part in weights.normalization)
    print(f"{output}: {len(tensors)} tensors for {layout}, boosters: {_yes(with_boosters)}")
    print(
        "The file cannot say how it was trained, so its reader must be told: RGB from 0 to 1, "
        f"mean {mean}, std {std}; input scale {weights.input_scale:g}; classes "
        f"{weights.class_set.name} ({', '.join(weights.class_set.names)})"
    )
    return report


def choose_normalization(
    layout: str,
    class_set: str,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Normalization:
    """The one that a repository trains with on a data set, unless both values are given.

    Raises:
        ConfigError: where the repository's own is not known, or one value is given alone.
    """
    if (mean is None) != (std is None):
        raise ConfigError("--mean and --std must be given together, or neither")
    if mean is not None and std is not None:
        # nan lies nowhere.
        if not all(0 <= value <= 1 for value in mean) or not all(
            LEAST_STD <= value <= 1 for value in std
        ):
            raise ConfigError(
                f"--mean {mean} and --std {std} must be in units of full brightness, from 0 "
                f"and from {LEAST_STD} to 1; divide values for pixels from 0 to 255 by 255"
            )
        return Normalization(mean, std)
    if layout == "mmseg":
        return _MMSEG
    if class_set not in _COINCHEUNG:
        raise ConfigError(
            f"coincheung weights of classes {class_set!r} carry their data set's own mean and "
            "std, which are not known here: give --mean and --std as in that training"
        )
    return _COINCHEUNG[class_set]


def _choose_classes(count: int, name: str | None) -> ClassSet:
    if name is None and count not in _USUAL_CLASSES:
        raise ConfigError(
            f"the checkpoint tells {count} classes apart, which are no built-in set's by "
            "default: name them with --classes, a built-in set or a class file (.json)"
        )
    class_set = find_class_set(name or _USUAL_CLASSES[count])
    if len(class_set) != count:
        raise ConfigError(
            f"--classes {name} has {len(class_set)} classes, the checkpoint tells {count} apart"
        )
    return class_set


def _describe_misfit(layout: str, path: str, tensors: Tensors, found: Comparison) -> str:
    parts = []
    for names, words in ((found.missing, "missing"), (found.unexpected, "unexpected")):
        if names:
            more = f" and {len(names) - 8} more" if len(names) > 8 else ""
            parts.append(f"{len(names)} {words}: {', '.join(names[:8])}{more}")
    if found.mismatched:
        shapes = (
            f"{name} is {list(here)}, the network has {list(wanted)}"
            for name, (here, wanted) in found.mismatched.items()
        )
        parts.append(f"{len(found.mismatched)} of another shape: {', '.join(shapes)}")
    other = next(
        (name for name in LAYOUTS if name != layout and _has_head(name, tensors)), None
    )
    if other is not None and not _has_head(layout, tensors):
        cure = f"the names are those of {other}: give --from {other}"
    elif found.old_head is not None:
        cure = f"{found.old_head}, which no preset has: {_BODY_ALONE}"
    elif any(name.startswith("params/") for name in tensors):
        cure = "the names are those of a weights file of ours, which needs no conversion"
    elif all(name.startswith(head_prefix(layout)) for name in found.missing):
        cure = f"it has no head: {_BODY_ALONE}"
    else:
        cure = "it is of another version or another network than that of the released code"
    return f"{path} does not fit {layout}: {'; '.join(parts)}. {cure[0].upper()}{cure[1:]}"


_BODY_ALONE = "to start a training from its body, add --fresh_heads --classes NAME"


def _has_head(layout: str, tensors: Tensors) -> bool:
    return classifier_name(layout) in tensors


def _print_import(report: dict[str, Any], found: Comparison, has_boosters: bool) -> None:
    mean, std = (
        ", ".join(f"{v:.4f}" for v in part) for part in report["normalization"].values()
    )
    print(
        f"{report['written']}: preset {report['layout']}, {report['classes']} classes of "
        f"{report['class_set']}, mean {mean}, std {std}, boosters: {_yes(report['boosters'])}"
    )
    if found.counters:
        print(f"left out: {found.counters} counters num_batches_tracked")
    if found.ignored_heads:
        print(f"left out: {', '.join(found.ignored_heads)}")
    if has_boosters and not report["boosters"]:
        print("left out: the boosters, as --noboosters says")
    if report["fresh_heads"]:
        print("The heads are drawn at random: train before use")
    if report["class_set"] == "cityscapes":
        print("Weights trained on Cityscapes may inherit its terms: no commercial use")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _write_report(options: Options, report: dict[str, Any]) -> None:
    if options.json_file:
        write_json(options.json_file, report)
