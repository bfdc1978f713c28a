"""How fast this machine is, and beside whom.

python bench.py                                     the paper's network, 19 classes, 512x1024
python bench.py inference --against torch-eager,torch-compile,onnxruntime --batch 1,8
python bench.py layers --config configs/synthetic.py --html layers.html
python bench.py ideas --dtype float32
python bench.py suite --minutes 10 --json suite.json --html suite.html
python bench.py loader --config configs/synthetic.py --workers 0,1,2
python bench.py training --config configs/synthetic.py --config.model.preset=coincheung \
    --against torch-eager,torch-compile --batch 16 --crop 512x1024

inference (the default): uint8 images to uint8 labels, ours and its peers in turns, the labels
of all compared first; latency, throughput, ratio, share of the roofline, kernels, memory.
layers: which box of the paper the time goes to, and how near each is to its roofline.
ideas: one way of writing the network changed at a time.
suite: sizes, batches, dtypes and all peers that are installed, layers and ideas, in a set time.
loader: images/s, waiting, decoding and memory of the training frames.
training: our step against the same step in PyTorch (extra torch); without --batch and --crop 16
crops of 512x1024, on CPU 4 of 256x512.

Engines for --against, or `all` that are installed: torch-eager, torch-compile, onnxruntime,
torch-onnx (the file that PyTorch's exporter writes, in onnxruntime); and of ours bare-network
(no preprocessing, no labels) and host-to-host (with both transfers).

Weights are random, since speed does not depend on them. Each row has a budget (--seconds,
--repeats), so that a slow machine ends too. --json writes every figure and the words that say
what was inside the timer, --html a page with plots.
"""

import os
import textwrap
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from benchmarks import (
    asked,
    ceilings,
    engines,
    ideas,
    inference,
    layers,
    loader,
    roofline,
    tables,
    training,
)
from benchmarks.machine import describe_machine, share_gpu_memory
from benchmarks.page import write_page
from benchmarks.subject import Subject, draw_weights
from benchmarks.suite import Plan, Suite
from benchmarks.timing import Budget, peak_memory_bytes
from bisenet_jax import command_line
from bisenet_jax.allocation import finish_each_step
from bisenet_jax.complexity import abstract_variables, count_parameters
from bisenet_jax.config import Config
from bisenet_jax.config_rules import validate
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json
from bisenet_jax.weights import Weights

DTYPES = tuple(inference.TOLERATED)
Figures = dict[str, Any]

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file in configs/; default: the paper's network. Fields: --config.a.b=c"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "A train.py run, whose saved config is taken.")
_HEIGHT = flags.DEFINE_integer("height", 512, "Of the images, in pixels.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 1024, "Of the images, in pixels.", lower_bound=1)
_BATCH = flags.DEFINE_list("batch", ["1"], "Images a call; one or several, such as 1,8,32.")
_DTYPE = flags.DEFINE_list(
    "dtype", None, f"Of activations: one or several of {', '.join(DTYPES)}; default: config's."
)
_AGAINST = flags.DEFINE_list("against", [], "Peers, with inference; see above.")
_SECONDS = flags.DEFINE_float(
    "seconds",
    20.0,
    "Time for each row, half latency and half throughput; 2 with suite.",
    lower_bound=0.01,
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 1000, "Most calls of each row for latency, and for throughput.", lower_bound=1
)
_MINUTES = flags.DEFINE_float("minutes", 9.5, "Time for all, with suite.", lower_bound=0.01)
_WORKERS = flags.DEFINE_list(
    "workers", ["0", "1", "2"], "Loader processes; one or several, with loader."
)
_CROP = flags.DEFINE_string("crop", None, "HEIGHTxWIDTH of training; see above.")
_JSON = flags.DEFINE_string("json", None, "A file for all the figures.")
_HTML = flags.DEFINE_string(
    "html", None, "A file for a page with plots; not with loader, training."
)


def main(arguments: list[str]) -> None:
    name = arguments[0] if arguments else "inference"
    if len(arguments) > 1 or name not in BENCHMARKS:
        raise ConfigError(f"{' '.join(arguments)!r} is not one of {', '.join(BENCHMARKS)}")
    _refuse_idle_flags(name)
    for flag, path in (("json", _JSON.value), ("html", _HTML.value)):
        if path and Path(path).is_dir():
            raise ConfigError(f"--{flag} {path!r} is a folder; give the name of a file")
    data = BENCHMARKS[name]()
    if _JSON.value:
        write_json(_JSON.value, data)
    if _HTML.value:
        write_page(_HTML.value, data)


def bench_loader() -> Figures:
    config = command_line.read_config(_CONFIG.value, _WORKDIR.value)
    workers = asked.read_numbers("--workers", _WORKERS.value, least=0)
    total = len(workers) * len(loader.CONSUMERS)
    with tqdm(total=total, unit="row", disable=None, leave=False) as bar:
        rows = loader.measure_loader(config, workers, _SECONDS.value, bar.update)
    print(loader.table(rows))
    height, width = rows[0]["frame"]
    print(
        f"\nframes of {width}x{height}, batches of {rows[0]['batch']}, cache {rows[0]['cache']}"
    )
    print(textwrap.fill(loader.PROTOCOL, 100))
    return describe_machine() | {"protocol": loader.PROTOCOL, "rows": rows}


def bench_inference() -> Figures:
    config, cells = _read_cells()
    chosen = [
        engines.OURS,
        engines.PLAIN,
        *asked.read_engines(_AGAINST.value, {dtype for _, dtype in cells}),
    ]
    weights, data = _begin(config)
    data["protocol"] = _INFERENCE_PROTOCOL
    data["rows"], data["skipped"] = [], []
    total = len(cells) * inference.count_steps(chosen)
    # None: no bar where standard error is a file.
    with tqdm(total=total, unit="step", disable=None, leave=False) as bar:
        for batch, dtype in cells:
            reasons = {engine: engines.missing_for(engine, dtype) for engine in chosen}
            data["skipped"] += [reason for reason in reasons.values() if reason]
            able = [engine for engine in chosen if not reasons[engine]]
            subject = _subject(weights, batch, dtype)
            data["rows"] += inference.measure_inference(subject, able, _budget(), bar.update)
    data["peak_memory_bytes"] = peak_memory_bytes(jax.devices()[:1])
    print(tables.inference_table(data["rows"]))
    _print_notes(data)
    return data


def bench_layers() -> Figures:
    config, cells = _read_cells()
    weights, data = _begin(config)
    data |= {"protocol": f"{layers.PROTOCOL} {_CEILINGS_PROTOCOL}"}
    data["layers"] = []
    for batch, dtype in cells:
        found = layers.measure_layers(_subject(weights, batch, dtype), _budget())
        data["layers"].append(found)
        print(tables.layers_table(found))
    _print_notes(data)
    return data


def bench_ideas() -> Figures:
    config, cells = _read_cells()
    weights, data = _begin(config)
    data |= {"protocol": ideas.PROTOCOL, "ideas": []}
    for batch, dtype in cells:
        data["ideas"] += ideas.measure_ideas(_subject(weights, batch, dtype), _budget())
    print(tables.ideas_table(data["ideas"]))
    _print_notes(data)
    return data


def bench_suite() -> Figures:
    weights, data = _begin(_read_model_config())
    plan = Plan.for_backend(jax.default_backend())
    data["protocol"] = f"{_INFERENCE_PROTOCOL} {layers.PROTOCOL} {ideas.PROTOCOL}"

    def keep() -> None:
        for name in ("rows", "ideas", "layers", "skipped"):
            data[name] = getattr(suite, name)
        if _JSON.value:
            write_json(_JSON.value, data)

    # What one row takes is small, so that many fit.
    is_set = flags.FLAGS["seconds"].present
    row_seconds = _SECONDS.value if is_set else _SUITE_ROW_SECONDS
    suite = Suite(weights, _MINUTES.value * 60, row_seconds, keep=keep)
    suite.run(plan)
    keep()
    print("\n" + tables.suite_tables(data))
    _print_notes(data)
    return data


def bench_training() -> Figures:
    finish_each_step()  # as train.py does
    jax.config.update("jax_enable_compilation_cache", False)
    # PyTorch needs room on the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    config = command_line.read_config(_CONFIG.value, _WORKDIR.value)
    peers = asked.read_training_peers(
        _AGAINST.value if flags.FLAGS["against"].present else None
    )
    is_cpu = jax.default_backend() == "cpu"
    batches = [4 if is_cpu else 16]
    if flags.FLAGS["batch"].present:
        batches = asked.read_numbers("--batch", _BATCH.value, least=1)
    if len(batches) > 1:
        raise ConfigError(
            f"--batch {','.join(_BATCH.value)!r}: training takes one size, such as 16"
        )
    crop = asked.read_crop(_CROP.value or ("256x512" if is_cpu else "512x1024"))
    if _DTYPE.value:
        config.model.dtype = asked.read_training_dtype(_DTYPE.value)
    config = validate(training.prepare_config(config, batches[0], crop))
    total = training.count_steps(peers)
    with tqdm(total=total, unit="step", disable=None, leave=False) as bar:
        rows = training.measure_training(config, peers, _budget(), bar.update)
    mining = "on" if config.loss.ohem else "off"
    print(
        f"training, preset {config.model.preset}, {config.model.dtype}, batch {batches[0]}, "
        f"crop {crop[0]}x{crop[1]}, hard example mining {mining}\n"
    )
    print(training.table(rows))
    print("\n" + textwrap.fill(training.PROTOCOL, 100))
    return describe_machine() | {
        "peers": training.peer_versions(peers),
        "protocol": training.PROTOCOL,
        "rows": rows,
    }


BENCHMARKS = {
    "inference": bench_inference,
    "layers": bench_layers,
    "ideas": bench_ideas,
    "suite": bench_suite,
    "loader": bench_loader,
    "training": bench_training,
}
# The flags that each of them reads, beside --config, --workdir and --json.
_SUBJECT = {"height", "width", "batch", "dtype", "seconds", "repeats"}
_READ = {
    "inference": _SUBJECT | {"against", "html"},
    "layers": _SUBJECT | {"html"},
    "ideas": _SUBJECT | {"html"},
    "suite": {"seconds", "minutes", "html"},
    "loader": {"workers", "seconds"},
    "training": {"batch", "crop", "dtype", "against", "seconds", "repeats"},
}
_ALL_READ = set().union(*_READ.values())
_CEILINGS_PROTOCOL = f"{roofline.PROTOCOL} {ceilings.PROTOCOL}"
_INFERENCE_PROTOCOL = f"{inference.PROTOCOL} {_CEILINGS_PROTOCOL}"
_SUITE_ROW_SECONDS = 2.0


def _read_model_config() -> Config:
    # A program taken from a cache on disk would pass for one that compiles in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    share_gpu_memory(os.environ)
    has_source = _CONFIG.value is not None or _WORKDIR.value
    return command_line.read_config(_CONFIG.value if has_source else Config(), _WORKDIR.value)


def _read_cells() -> tuple[Config, list[tuple[int, str]]]:
    """The config, and each batch with each dtype."""
    config = _read_model_config()
    batches = asked.read_numbers("--batch", _BATCH.value, least=1)
    dtypes = _DTYPE.value or [config.model.dtype]
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype {dtype!r} is not known; choose from {list(DTYPES)}")
    return config, [(batch, dtype) for batch in batches for dtype in dtypes]


def _refuse_idle_flags(name: str) -> None:
    for flag in sorted(_ALL_READ - _READ[name]):
        if flags.FLAGS[flag].present:
            raise ConfigError(f"--{flag} has no effect with {name}; leave it out")


def _subject(weights: Weights, batch: int, dtype: str) -> Subject:
    return Subject(weights, _HEIGHT.value, _WIDTH.value, batch, dtype)


def _budget() -> Budget:
    return Budget(_REPEATS.value, _SECONDS.value)


def _begin(config: Config) -> tuple[Weights, Figures]:
    """Describe and print what is measured, on what; the weights are drawn."""
    weights = draw_weights(config)
    layers_of_one = roofline.count_layers(_subject(weights, 1, "float32"))
    data = {
        "preset": weights.preset,
        "classes": weights.model.num_classes,
        "parameters": count_parameters(abstract_variables(weights.model)["params"]),
        "gmacs": sum(layer.macs for layer in layers_of_one) / 1e9,
        "gmacs_size": list(_subject(weights, 1, "float32").padded_size),
    } | describe_machine()
    print(tables.heading(data), flush=True)
    if config.augment.input_scale != 1:
        data["note"] = (
            f"sizes are those of the network's input: scaling pictures by "
            f"{config.augment.input_scale:g} before it is not timed"
        )
        print(f"{data['note']}\n", flush=True)
    return weights, data


def _print_notes(data: Figures) -> None:
    skipped = [f"skipped: {reason}" for reason in dict.fromkeys(data.get("skipped", ()))]
    print(tables.notes(*skipped, *tables.engine_notes(data.get("rows", ())), data["protocol"]))


if __name__ == "__main__":
    command_line.run(main, __doc__, takes_arguments=True)
