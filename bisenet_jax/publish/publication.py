"""The files of a published network, each to its place in the repository."""

import dataclasses
import hashlib
import tempfile
from pathlib import Path

from bisenet_jax.complexity import count_parameters
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_bytes, write_json
from bisenet_jax.publish.card import render_card
from bisenet_jax.publish.curves import draw_curves
from bisenet_jax.publish.measurement import STORED_DTYPE
from bisenet_jax.publish.record import Record
from bisenet_jax.publish.rows import describe_data, put_row, readme_row, result_row
from bisenet_jax.publish.training_log import Logs, pack_logs
from bisenet_jax.weights import Weights, write_weights
from bisenet_jax.zoo.registry import REGISTRY_FILE, Entry, enter

ZOO = Path("bisenet_jax/zoo")
MODELS = Path("docs/models")
RESULTS = Path("docs/results.md")
README = Path("README.md")
MAX_BYTES = 8_000_000  # of a file in the package


def read_notes(root: Path, name: str) -> str:
    """What was written by hand of a network; first of all, since without it nothing is done.

    Raises:
        ConfigError: where there is nothing, or the folder is no checkout of the repository.
    """
    if not (root / ZOO / REGISTRY_FILE).is_file() or not (root / RESULTS).is_file():
        raise ConfigError(f"{root} is not the root of the repository; go there, or give --root")
    path = root / MODELS / f"{name}.notes.md"
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist: write there on what data the network was trained and what "
            "its limits are, in Markdown; it ends the model card"
        )
    return path.read_text(encoding="utf-8")


def publish(
    root: Path,
    record: Record,
    weights: Weights,
    logs: Logs,
    notes: str,
) -> Entry:
    """Write weights, entry, record, curves, log, card and rows; returns the entry.

    Args:
        root: of the repository.
        record: of `make_record`.
        weights: to ship.
        logs: to keep and to draw.
        notes: of `read_notes`.

    Raises:
        ConfigError: for a file that is too large to ship.
    """
    name = record["name"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.safetensors"
        write_weights(path, weights, dtype=STORED_DTYPE)
        data = path.read_bytes()
    if len(data) >= MAX_BYTES:
        raise ConfigError(
            f"{name} has {len(data):,} bytes, a shipped file less than {MAX_BYTES:,}: train a "
            "smaller network, such as --config.model.preset=coincheung"
        )
    entry = Entry(
        file=path.name,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        card=str(MODELS / f"{name}.md"),
        summary=(
            f"BiSeNet V2 for the {len(weights.class_set)} classes of {weights.class_set.name}, "
            f"trained on {describe_data(record)}"
        ),
        licence=record["licence"],
    )
    record = record | {
        "parameters": count_parameters(weights.variables["params"]),
        **{key: value for key, value in dataclasses.asdict(entry).items() if key != "licence"},
    }
    write_bytes(root / ZOO / entry.file, data)
    enter(name, entry, root / ZOO)
    write_json(root / MODELS / f"{name}.json", record)
    write_bytes(root / MODELS / f"{name}.svg", draw_curves(logs, name).encode())
    write_bytes(root / MODELS / f"{name}.log.jsonl.gz", pack_logs(logs))
    write_bytes(root / MODELS / f"{name}.md", render_card(record, entry, notes).encode())
    for path, head, row in (
        (root / RESULTS, "| what | protocol | result |", result_row(record)),
        (root / README, "| name | what | card |", readme_row(name, entry)),
    ):
        page = path.read_text(encoding="utf-8")
        write_bytes(path, put_row(page, row, head).encode())
    return entry
