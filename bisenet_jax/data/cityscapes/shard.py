"""One ArrayRecord file, written whole or not at all.

A file under its final name has been read back record by record. What is not finished has a
hidden name, which no reader looks for.
"""

import os
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from array_record.python import array_record_module

from bisenet_jax.errors import DataError

# One record a chunk, so that each can be read alone. Encoded pictures do not shrink further:
# compressing them takes four times as long and saves nothing.
OPTIONS = "group_size:1,uncompressed"


def write_shard(path: Path, records: Iterable[bytes]) -> None:
    """Write the records, read them back, then give the file its name.

    Raises:
        DataError: names the file that could not be written; nothing is left of it.
    """
    partial = partial_path(path)
    try:
        with writing(path):
            checksums = _write(partial, records)
            _sync(partial)
            if checksums != _read_checksums(partial):
                raise OSError("other bytes came back than were written")
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """The hidden name of a file until it is finished."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Turns a failure to write into a DataError that names the file."""
    try:
        yield
    # array_record knows RuntimeError only, and it may come a few records late.
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path}: cannot be written ({error}); check disk space and permissions, then run "
            "the same command again: finished files are kept"
        ) from error


def read_ends(path: Path) -> tuple[int, bytes, bytes] | None:
    """Count, first and last record of a file; None where it is missing, empty or damaged."""
    if not path.is_file():
        return None
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        count = reader.num_records()
        ends = (count, *reader.read([0, count - 1])) if count else None
        reader.close()  # raises where the file was not even opened
    except RuntimeError:
        return None
    return ends


def _write(path: Path, records: Iterable[bytes]) -> list[int]:
    """Write a file and return the checksum of each record."""
    checksums = []
    writer = array_record_module.ArrayRecordWriter(str(path), OPTIONS)
    try:
        for record in records:
            writer.write(record)
            checksums.append(zlib.crc32(record))
    finally:
        writer.close()
    return checksums


def _read_checksums(path: Path) -> list[int]:
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        count = reader.num_records()
        return [zlib.crc32(reader.read([index])[0]) for index in range(count)]
    finally:
        reader.close()


def _sync(path: Path) -> None:
    """Without it, a rename could outlive the bytes it names when the power fails."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
