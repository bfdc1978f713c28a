"""The walls of the house, read from the imports of whatever files exist.

One table says who stands on which floor and what a room may take from outside. The parser reads
imports anywhere in a file, those inside functions as well.
"""

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "bisenet_jax"
DOORS = {"train", "evaluate", "bench", "predict", "export"}
MAX_LINES = 350

# Lower floors first; the longest prefix that fits a module decides. A module imports its own
# floor and those below.
FLOORS = [
    {
        "bisenet_jax.errors",
        "bisenet_jax.files",
        "bisenet_jax.ablations",
        "bisenet_jax.config",
        "bisenet_jax.config_checks",
        "bisenet_jax.config_file",
        "bisenet_jax.config_rules",
        "bisenet_jax.resize",
        "bisenet_jax.normalization",
        "bisenet_jax.protocol",
        "bisenet_jax.parallel",
        "bisenet_jax.distributed",
        "bisenet_jax.drawing",
        "bisenet_jax.pictures",
        "bisenet_jax.panels",
        "bisenet_jax.command_line",
        "bisenet_jax.program_cache",
        "bisenet_jax.allocation",
        "bisenet_jax.media",
        "bisenet_jax.video",
        "bisenet_jax.queues",
        "bisenet_jax.processors",
        "bisenet_jax.zoo",
        "bisenet_jax.model",
        "bisenet_jax.data",
    },
    {
        "bisenet_jax.training",
        "bisenet_jax.inference",
        "bisenet_jax.complexity",
        "bisenet_jax.fast",
        "bisenet_jax.weights",
        "bisenet_jax.weights_description",
        # A training may start from a file of others.
        "bisenet_jax.convert.backbones",
        "bisenet_jax.convert.checkpoint",
        "bisenet_jax.convert.names",
        "bisenet_jax.convert.tensors",
    },
    {
        "bisenet_jax.evaluation",
        "bisenet_jax.export",
        "bisenet_jax.segmenter",
        "bisenet_jax.prediction",
        "bisenet_jax.convert",
        "bisenet_jax.demo",
        "bisenet_jax.publish",
        # `bisenet_jax.load` opens a segmenter. What others take from the package itself is its
        # version: see `broken_walls`.
        "bisenet_jax",
        "benchmarks",
    },
    DOORS,
]

# What a room may import besides the standard library and itself; innermost room first.
ROOMS = {
    "bisenet_jax.model": {
        "jax",
        "flax",
        "numpy",
        "bisenet_jax.resize",
        "bisenet_jax.errors",
    },
    # No jax: the loader's workers must never start an accelerator.
    "bisenet_jax.data": {
        "numpy",
        "grain",
        "PIL",
        "absl",
        "tqdm",
        "ml_collections",
        "scipy",
        "imagecodecs",
        "array_record",
        "tensorflow_datasets",
        "bisenet_jax.errors",
        "bisenet_jax.config",
        "bisenet_jax.config_rules",
        "bisenet_jax.files",
        "bisenet_jax.processors",
        # For the programs of the room: prepare and check.
        "bisenet_jax.command_line",
        "bisenet_jax.drawing",
        "bisenet_jax.pictures",
        "bisenet_jax.panels",
    },
    "bisenet_jax.fast": {
        "jax",
        "flax",
        "numpy",
        "bisenet_jax.model",
        "bisenet_jax.resize",
    },
    "bisenet_jax.config_checks": {"bisenet_jax.errors"},
    "bisenet_jax.config": set(),
    # Names and hashes of files; what is in them, weights.py knows.
    "bisenet_jax.zoo": {"bisenet_jax.errors", "bisenet_jax.files"},
    "bisenet_jax.errors": set(),
}

# Outside packages that only these modules (and those under them) may import.
KEEPERS = {
    "orbax": {"bisenet_jax.training.checkpoint"},
    "onnx": {"bisenet_jax.export.onnx"},
    "onnxruntime": {"bisenet_jax.export.onnx", "benchmarks"},
    "cv2": {"bisenet_jax.video", "benchmarks.camera"},
    "safetensors": {"bisenet_jax.weights", "bisenet_jax.convert.checkpoint"},
    "torch": {"benchmarks", "bisenet_jax.convert.checkpoint"},
    "starlette": {"bisenet_jax.demo"},
    "uvicorn": {"bisenet_jax.demo"},
    "tensorflow_datasets": {"bisenet_jax.data"},
}
# Packages that a module may import inside a function only: they are optional or slow to load.
INSIDE_FUNCTIONS_ONLY = {
    *("tensorflow_datasets", "imagecodecs", "scipy", "cv2", "torch", "onnx", "onnxruntime"),
}
# But the twin is made of it, and whoever imports the twin wants it.
AT_LOAD_TIME = {
    ("benchmarks.torch_bisenetv2", "torch"),
    ("benchmarks.torch_boxes", "torch"),
    ("benchmarks.torch_backbones", "torch"),
    ("benchmarks.torch_network", "torch"),
    ("benchmarks.torch_training", "torch"),
}


class Import(NamedTuple):
    """`name` is as specific as the files allow: a module of ours, or a foreign dotted name."""

    importer: str
    name: str
    is_inside_function: bool


def find_modules() -> dict[str, Path]:
    """Every Python file of the project but tests and configs, by dotted name."""
    paths = [
        *ROOT.glob("*.py"),
        *(ROOT / PACKAGE).rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
    return {module_name(path): path for path in paths}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = find_modules()


def read_imports(importer: str, text: str, is_package: bool = False) -> list[Import]:
    imports = []

    def walk(node: ast.AST, is_inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    ancestors = importer.split(".")
                    kept = len(ancestors) - child.level + is_package
                    base = ".".join([*ancestors[:kept], *([base] if base else [])])
                # `from package import module` names the module, not the package.
                names = [
                    f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
                    for alias in child.names
                ]
            imports.extend(Import(importer, name, is_inside) for name in names)
            is_late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            # What only type checkers read is never loaded.
            is_late = is_late or (
                isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            )
            walk(child, is_inside or is_late)

    walk(ast.parse(text), False)
    return imports


IMPORTS = [
    found
    for name, path in MODULES.items()
    for found in read_imports(name, path.read_text(encoding="utf-8"), path.stem == "__init__")
]


def is_under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def floor_of(module: str) -> int | None:
    fitting = [
        (len(prefix), floor)
        for floor, prefixes in enumerate(FLOORS)
        for prefix in prefixes
        # The package's own __init__ is no prefix of its rooms.
        if (module == prefix if prefix == PACKAGE else is_under(module, prefix))
    ]
    return max(fitting)[1] if fitting else None


def broken_walls(imports: list[Import]) -> list[str]:
    """Every breach as one line, so that a single test shows them all."""
    breaches = []
    for importer, name, is_inside_function in imports:
        top = name.split(".")[0]
        arrow = f"{importer} imports {name}"
        if name in DOORS:
            breaches.append(f"{arrow}: doors are opened by people only")
        if name in MODULES and name not in DOORS and name != PACKAGE:
            here, there = floor_of(importer), floor_of(name)
            if here is not None and there is not None and there > here:
                breaches.append(f"{arrow}: floor {there} stands above floor {here}")
        for room, allowed in ROOMS.items():
            is_free = top in sys.stdlib_module_names or is_under(name, room)
            is_free = is_free or any(is_under(name, prefix) for prefix in allowed)
            if is_under(importer, room) and not is_free:
                breaches.append(f"{arrow}: {room} takes only {sorted(allowed)}")
        keepers = KEEPERS.get(top, {importer})
        if not any(is_under(importer, keeper) for keeper in keepers):
            breaches.append(f"{arrow}: only {sorted(keepers)} may")
        is_early = not is_inside_function and (importer, top) not in AT_LOAD_TIME
        if top in INSIDE_FUNCTIONS_ONLY and is_early:
            breaches.append(f"{arrow}: inside the function that needs it")
        if importer == "bisenet_jax.training.step" and is_under(name, "bisenet_jax.parallel"):
            breaches.append(f"{arrow}: the step knows nothing of devices")
    return breaches


def find_cycle(imports: list[Import]) -> list[str]:
    """Modules that import each other at load time, in order; empty where there are none."""
    graph: dict[str, set[str]] = {}
    for importer, name, is_inside_function in imports:
        if name in MODULES and name != importer and not is_inside_function:
            graph.setdefault(importer, set()).add(name)
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for target in sorted(graph.get(module, ())):
            if cycle := visit(target, [*path, module]):
                return cycle
        done.add(module)
        return []

    return next((cycle for module in sorted(graph) if (cycle := visit(module, []))), [])


def test_walls_hold():
    assert not broken_walls(IMPORTS)


def test_no_circular_imports():
    assert not find_cycle(IMPORTS)


def test_every_module_has_a_floor():
    homeless = [name for name in MODULES if floor_of(name) is None]
    assert not homeless, "give each a floor in FLOORS"


def test_no_room_without_a_noun():
    assert not [name for name in MODULES if name.split(".")[-1] in ("utils", "util", "helpers")]


def test_files_are_short_enough_to_read():
    lengths = {
        name: len(path.read_text(encoding="utf-8").splitlines())
        for name, path in MODULES.items()
        if is_under(name, PACKAGE)
    }
    assert not {name: n for name, n in lengths.items() if n > MAX_LINES}


def test_the_parser_found_the_house():
    # Were nothing found, nothing could fail.
    assert {"bisenet_jax.model.layers", "bisenet_jax.config"} <= MODULES.keys()
    found = {(found.importer, found.name) for found in IMPORTS}
    assert ("bisenet_jax.model.aggregation", "bisenet_jax.resize") in found
    assert ("bisenet_jax.command_line", "bisenet_jax.config") in found


@pytest.mark.parametrize(
    "importer, text, message",
    [
        ("bisenet_jax.model.new", "import optax", "bisenet_jax.model takes only"),
        ("bisenet_jax.model.new", "from bisenet_jax import config", "model takes only"),
        ("bisenet_jax.model.new", "from ..config import Config", "model takes only"),
        ("bisenet_jax.data.new", "def f():\n    import jax.numpy", "data takes only"),
        ("bisenet_jax.data.new", "import tensorflow_datasets", "inside the function"),
        ("bisenet_jax.training.step", "from bisenet_jax import parallel", "nothing of devices"),
        ("bisenet_jax.training.state", "import orbax.checkpoint", "only .*checkpoint"),
        ("bisenet_jax.convert.checkpoint", "import torch", "inside the function"),
        ("bisenet_jax.convert.tensors", "def f():\n    import torch", "only .*checkpoint"),
        (
            "bisenet_jax.resize",
            "from bisenet_jax.inference import predict_labels",
            "stands above",
        ),
        ("bisenet_jax.segmenter", "import starlette", "only .*demo"),
        ("bisenet_jax.export.graph", "def f():\n    import onnx", "only .*export.onnx"),
        ("bisenet_jax.export.onnx", "import onnxruntime", "inside the function"),
        ("bisenet_jax.inference", "import train", "doors are opened by people only"),
    ],
)
def test_a_breach_is_seen(importer, text, message, monkeypatch):
    monkeypatch.setitem(MODULES, importer, Path("new.py"))
    breaches = broken_walls(read_imports(importer, text))
    assert len(breaches) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(breaches[0])


def test_what_only_type_checkers_read_is_not_loaded():
    for text, is_late in (
        ("if TYPE_CHECKING:\n    import jax", True),
        ("if sys.version_info > (3, 12):\n    import jax", False),
    ):
        (found,) = read_imports("bisenet_jax.new", text)
        assert found.is_inside_function == is_late


def test_a_cycle_is_seen():
    config, errors = "bisenet_jax.config", "bisenet_jax.errors"
    there, back = Import(config, errors, False), Import(errors, config, False)
    assert find_cycle([there, back]) == [config, errors, config]
    assert find_cycle([there, back._replace(is_inside_function=True)]) == []
