"""How fast this machine is: the network, or the way of the training frames to it.

python bench.py                                     the paper's network, 19 classes, 512x1024
python bench.py --config configs/synthetic.py --batch 1,8 --dtype float32,bfloat16
python bench.py --workdir runs/synthetic --json speed.json
python bench.py loader --config configs/synthetic.py --workers 0,1,2
python bench.py training --config configs/synthetic.py --config.model.preset=coincheung \
    --against torch-eager,torch-compile --batch 16 --crop 512x1024

inference (the default): latency, throughput, MACs, memory. loader: images/s, waiting, decoding
and memory, for a step that takes no time and for the augmentation on the device. training: our
step against the same step in PyTorch (extra torch); without --batch and --crop 16 crops of
512x1024, on CPU 4 of 256x512.

Weights are random, since speed does not depend on them. Each row has a budget (--seconds,
--repeats), so that a slow machine ends too. --json writes every figure and the words that say
what was inside the timer.
"""

import os
import textwrap
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from benchmarks import loader, training
from benchmarks.inference import (
    COMMON_PROTOCOL,
    count_steps,
    measure_inference,
    model_of,
    padded_size,
)
from benchmarks.machine import describe_machine
from benchmarks.timing import Budget, peak_memory_bytes
from bisenet_jax import command_line
from bisenet_jax.complexity import abstract_variables, count_block_macs, count_parameters
from bisenet_jax.config import Config, validate
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json

DTYPES = ("float32", "bfloat16", "float16")

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
_SECONDS = flags.DEFINE_float(
    "seconds", 20.0, "Time for each row, half latency and half throughput.", lower_bound=0.01
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 1000, "Most calls of each row for latency, and for throughput.", lower_bound=1
)
_WORKERS = flags.DEFINE_list(
    "workers", ["0", "1", "2"], "Loader processes; one or several, with loader."
)
_AGAINST = flags.DEFINE_list(
    "against", list(training.PEERS), "Engines beside ours, with training; '' for none."
)
_CROP = flags.DEFINE_string("crop", None, "HEIGHTxWIDTH that the network trains on.")
_JSON = flags.DEFINE_string("json", None, "A file for all the figures.")


def main(arguments: list[str]) -> None:
    benchmarks = {
        "inference": bench_inference,
        "loader": bench_loader,
        "training": bench_training,
    }
    name = arguments[0] if arguments else "inference"
    if len(arguments) > 1 or name not in benchmarks:
        raise ConfigError(f"{' '.join(arguments)!r} is not one of {', '.join(benchmarks)}")
    if _JSON.value and Path(_JSON.value).is_dir():
        raise ConfigError(f"--json {_JSON.value!r} is a folder; give the name of a file")
    benchmarks[name]()


def bench_loader() -> None:
    config = command_line.read_config(_CONFIG.value, _WORKDIR.value)
    workers = _read_numbers("--workers", _WORKERS.value, least=0)
    total = len(workers) * len(loader.CONSUMERS)
    with tqdm(total=total, unit="row", disable=None, leave=False) as bar:
        rows = loader.measure_loader(config, workers, _SECONDS.value, bar.update)
    print(loader.table(rows))
    height, width = rows[0]["frame"]
    print(
        f"\nframes of {width}x{height}, batches of {rows[0]['batch']}, cache {rows[0]['cache']}"
    )
    print(textwrap.fill(loader.PROTOCOL, 100))
    if _JSON.value:
        write_json(
            _JSON.value, describe_machine() | {"protocol": loader.PROTOCOL, "rows": rows}
        )


def bench_training() -> None:
    jax.config.update("jax_enable_compilation_cache", False)
    # PyTorch needs room on the same device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    config = command_line.read_config(_CONFIG.value, _WORKDIR.value)
    unknown = [name for name in _AGAINST.value if name not in training.PEERS]
    if unknown:
        raise ConfigError(
            f"--against {','.join(unknown)!r} is not known; choose from "
            f"{', '.join(training.PEERS)}"
        )
    is_cpu = jax.default_backend() == "cpu"
    if flags.FLAGS["batch"].present:
        batches = _read_numbers("--batch", _BATCH.value, least=1)
    else:
        batches = [4 if is_cpu else 16]
    if len(batches) > 1:
        raise ConfigError(
            f"--batch {','.join(_BATCH.value)!r}: training takes one size, such as 16"
        )
    crop = _read_crop(_CROP.value or ("256x512" if is_cpu else "512x1024"))
    if _DTYPE.value:
        config.model.dtype = _read_training_dtype(_DTYPE.value)
    config = validate(training.prepare_config(config, batches[0], crop))
    total = training.count_steps(_AGAINST.value)
    with tqdm(total=total, unit="step", disable=None, leave=False) as bar:
        rows = training.measure_training(
            config, _AGAINST.value, Budget(_REPEATS.value, _SECONDS.value), bar.update
        )
    print(
        f"training, preset {config.model.preset}, {config.model.dtype}, batch {batches[0]}, "
        f"crop {crop[0]}x{crop[1]}, hard example mining {'on' if config.loss.ohem else 'off'}\n"
    )
    print(training.table(rows))
    print("\n" + textwrap.fill(training.PROTOCOL, 100))
    if _JSON.value:
        data = describe_machine() | {"peers": training.peer_versions(_AGAINST.value)}
        write_json(_JSON.value, data | {"protocol": training.PROTOCOL, "rows": rows})


def bench_inference() -> None:
    # A program taken from a cache on disk would pass for one that compiles in no time.
    jax.config.update("jax_enable_compilation_cache", False)
    has_source = _CONFIG.value is not None or _WORKDIR.value
    config = command_line.read_config(_CONFIG.value if has_source else Config(), _WORKDIR.value)
    batches, dtypes = _read_numbers("--batch", _BATCH.value, least=1), _read_dtypes(config)
    size = {"height": _HEIGHT.value, "width": _WIDTH.value}
    data = _describe_model(config, **size) | describe_machine()
    print(_heading(data), flush=True)
    # None: no bar where standard error is a file.
    with tqdm(
        total=count_steps(batches, dtypes), unit="step", disable=None, leave=False
    ) as bar:
        data["rows"] = measure_inference(
            config,
            **size,
            batches=batches,
            dtypes=dtypes,
            budget=Budget(_REPEATS.value, _SECONDS.value),
            progress=bar.update,
        )
    data["peak_memory_bytes"] = peak_memory_bytes(jax.devices()[:1])
    print(_table(data["rows"]))
    print(_footnotes(data))
    if _JSON.value:
        write_json(_JSON.value, data)


def _read_numbers(flag: str, texts: list[str], least: int) -> list[int]:
    numbers = [int(text) if text.isdecimal() else least - 1 for text in texts]
    if not numbers or min(numbers) < least:
        raise ConfigError(
            f"{flag} {','.join(texts)!r} must be one or several whole numbers from {least}, "
            "such as 1,8"
        )
    return numbers


def _read_crop(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ConfigError(f"--crop {text!r} must be HEIGHTxWIDTH, such as 512x1024")
    return int(height), int(width)


def _read_training_dtype(dtypes: list[str]) -> str:
    if len(dtypes) > 1 or dtypes[0] not in training.LARGEST_DIFFERENCES:
        raise ConfigError(
            f"--dtype {','.join(dtypes)!r}: training takes one of "
            f"{', '.join(training.LARGEST_DIFFERENCES)}"
        )
    return dtypes[0]


def _read_dtypes(config: Config) -> list[str]:
    dtypes = _DTYPE.value or [config.model.dtype]
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ConfigError(f"--dtype {dtype!r} is not known; choose from {list(DTYPES)}")
    return dtypes


def _describe_model(config: Config, height: int, width: int) -> dict[str, Any]:
    model = model_of(config, config.model.dtype)
    macs_size = padded_size(height, width)
    blocks = count_block_macs(model, *macs_size)
    return {
        "preset": config.model.preset,
        "classes": model.num_classes,
        "parameters": count_parameters(abstract_variables(model)["params"]),
        "gmacs": sum(blocks.values()) / 1e9,
        "gmacs_by_block": {name: macs / 1e9 for name, macs in blocks.items()},
        "gmacs_size": list(macs_size),
    }


def _heading(data: dict[str, Any]) -> str:
    height, width = data["gmacs_size"]
    device, versions = data["device"], data["versions"]
    kind = "" if device["kind"] == device["platform"] else f" {device['kind']},"
    blocks = ", ".join(
        f"{name.replace('_', ' ')} {gmacs:.3f}"
        for name, gmacs in data["gmacs_by_block"].items()
    )
    return "\n".join(
        (
            f"BiSeNet V2, preset {data['preset']}, {data['classes']} classes: "
            f"{data['parameters']:,} parameters, {data['gmacs']:.3f} GMAC an image of "
            f"{height}x{width}",
            f"GMAC      {blocks}",
            f"device    {device['platform']},{kind} 1 of {device['count']}; host "
            f"{device['host_processor']}, {device['host_cores']} cores",
            f"versions  {', '.join(f'{name} {text}' for name, text in versions.items())}",
            "",
        )
    )


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ("median ms", "p90", "p99", "frames/s", "images/s", "GMAC/s", "compile s", "MiB")
    lines = [
        f"{'row':<16}{'batch':>6}  {'dtype':<9}" + "".join(f"{name:>10}" for name in columns)
    ]
    lines.append("-" * len(lines[0]))
    for row in rows:
        figures = (*row["latency_ms"].values(), row["frames_per_second"])
        figures += (row["images_per_second"], row["gmacs_per_second"], row["compile_seconds"])
        memory = row["program_bytes"]
        held = f"{sum(memory.values()) / 2**20:,.1f}" if memory else "-"
        lines.append(
            f"{row['name']:<16}{row['batch']:>6}  {row['dtype']:<9}"
            + "".join(f"{figure:>10.2f}" for figure in figures)
            + f"{held:>10}"
        )
    return "\n".join(lines)


def _footnotes(data: dict[str, Any]) -> str:
    """What the columns mean, and the protocol: once for all rows, and by each kind of row."""
    peak = data["peak_memory_bytes"]
    whole = "this backend does not tell" if peak is None else f"{peak / 2**20:,.0f} MiB"
    words = [
        "MiB: arguments, results and temporaries of one call, by the compiler; peak of the "
        f"whole run on the device: {whole}.",
        COMMON_PROTOCOL,
        "Inside the timer, by row (of the first batch and dtype):",
    ]
    firsts = {row["name"]: row["inside_timer"] for row in reversed(data["rows"])}
    words += [f"{name}: {firsts[name]}" for name in reversed(firsts)]
    return "\n" + "\n".join(
        textwrap.fill(text, 100, initial_indent="- ", subsequent_indent="  ") for text in words
    )


if __name__ == "__main__":
    command_line.run(main, __doc__, takes_arguments=True)
