"""Files that are whole or not there: a reader never sees a part of one, nor one too large."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bisenet_jax.errors import OutputError, UserError

MAX_JSON_BYTES = 2**26  # a parsed document may take twenty times as much memory


def write_json(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Writes `data` indented and whole or not at all; nan and infinity raise ValueError."""
    text = json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False)
    # Half of a character, as in a file name of another encoding, becomes its JSON escape.
    write_bytes(path, (text + "\n").encode(errors="backslashreplace"))


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all, and the folder it lies in.

    A reader, or a run killed half way, sees the old file or the new one, never a part.

    Raises:
        OutputError: where the place is a folder or lies in a file, and without leave or room.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, since os.replace is atomic within one file system only.
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}); give another place, or "
            "make room there"
        ) from error


def read_json(path: str | os.PathLike[str], cure: str, kind: type[UserError]) -> Any:
    """The JSON document in a file; whatever is wrong with it is an error of this kind.

    Args:
        path: of the file.
        cure: what to do where it cannot be read; it ends the message.
        kind: of the error.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise kind(
                f"{path} has {size:,} bytes, at most {MAX_JSON_BYTES:,} are read; {cure}"
            )
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise kind(f"{path} cannot be read ({error.strerror}); {cure}") from error
    # Also what is not UTF-8, and what is nested deeper than Python's stack.
    except (ValueError, RecursionError) as error:
        raise kind(f"{path} is not JSON ({error}); {cure}") from error


def fingerprint(paths: Iterable[Path]) -> str:
    """Another text whenever a file is another, by its path, size and time of change."""
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        line = f"{path.resolve()}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
