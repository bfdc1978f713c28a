"""Shipped weights by name: where the file lies, and whether it is still what was published.

registry.json beside this file holds one entry for each name; `python -m bisenet_jax.publish`
writes it. Reading it needs no network and no jax.
"""

import dataclasses
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bisenet_jax.errors import WeightsError
from bisenet_jax.files import read_json, write_json

FOLDER = Path(__file__).parent
REGISTRY_FILE = "registry.json"
_REINSTALL = (
    "reinstall it: pip install --force-reinstall --no-deps, or git checkout, bisenet_jax"
)


@dataclass(frozen=True)
class Entry:
    """What is known of one file without opening it.

    Attributes:
        file: its name in this folder.
        sha256: of its bytes, in hexadecimal.
        bytes: how many there are.
        card: the model card, from the root of the repository.
        summary: one line.
        licence: what may be done with the weights, in one line.
    """

    file: str
    sha256: str
    bytes: int
    card: str
    summary: str
    licence: str


def read_registry(folder: Path = FOLDER) -> dict[str, Entry]:
    """All entries by name, in the order of the names.

    Raises:
        WeightsError: where the register cannot be read.
    """
    path = folder / REGISTRY_FILE
    values = read_json(path, _REINSTALL, WeightsError)
    try:
        return {name: Entry(**entry) for name, entry in sorted(values.items())}
    except (AttributeError, TypeError) as error:
        raise WeightsError(f"{path} is no register ({error}); {_REINSTALL}") from error


def enter(name: str, entry: Entry, folder: Path = FOLDER) -> None:
    """Add an entry to the register, or put it in the place of the one of that name."""
    entries = read_registry(folder) | {name: entry}
    values = {name: dataclasses.asdict(entry) for name, entry in sorted(entries.items())}
    write_json(folder / REGISTRY_FILE, values)


def find_weights(name: str | os.PathLike[str], folder: Path = FOLDER) -> Path:
    """The file of a shipped network, or the path as it was given, `~` being home.

    A name in the register comes before a path: a file of that name is reached as `./NAME`.

    Args:
        name: such as `bisenetv2-synthetic`, or a path, which need not exist.
        folder: with the register.

    Raises:
        WeightsError: for a registered file that is missing or not the one published.
    """
    entry = read_registry(folder).get(os.fspath(name))
    if entry is None:
        return Path(name).expanduser()
    path = folder / entry.file
    if not path.is_file():
        raise WeightsError(f"{name}: {path} is missing; {_REINSTALL}")
    status = path.stat()
    digest = _sha256(path, status.st_size, status.st_mtime_ns)
    if digest != entry.sha256:
        raise WeightsError(
            f"{name}: {path} is damaged: its SHA-256 is {digest}, the register says "
            f"{entry.sha256}; {_REINSTALL}"
        )
    return path


def describe_names(folder: Path = FOLDER) -> str:
    """The names that `find_weights` knows, for messages."""
    return ", ".join(read_registry(folder))


@functools.lru_cache
def _sha256(path: Path, size: int, changed: int) -> str:
    # Read once for each state of the file: a script opens the same weights in several places.
    return hashlib.sha256(path.read_bytes()).hexdigest()
