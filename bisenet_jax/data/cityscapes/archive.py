"""Files in a zip, which is never extracted, or in a folder extracted from it by others."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bisenet_jax.data.decode import MAX_BYTES
from bisenet_jax.errors import DataError

# What zipfile raises on damaged, encrypted or strangely packed files.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError),
    *(RuntimeError, NotImplementedError),
)


@dataclass(frozen=True)
class Archive:
    """Files by their path in the zip, such as `gtFine/train/aachen/....png`.

    Attributes:
        path: of the zip or the folder.
        sizes: of every file, uncompressed, in bytes.
        open_file: opens one of them for reading.
    """

    path: Path
    sizes: Mapping[str, int]
    open_file: Callable[[str], IO[bytes]]

    def read(self, name: str, count: int = -1) -> bytes:
        """The first `count` bytes of a file, or all; a DataError names a damaged one."""
        if count < 0 and self.sizes[name] > MAX_BYTES:
            raise DataError(
                f"{self.path}: {name} has {self.sizes[name]:,} bytes, pictures have at most "
                f"{MAX_BYTES:,}; download it again"
            )
        try:
            with self.open_file(name) as file:
                return file.read(count)
        except DAMAGE as error:
            raise DataError(
                f"{self.path}: {name} cannot be read ({error}); download or extract it again"
            ) from error


@contextmanager
def open_zip(path: Path) -> Generator[Archive, None, None]:
    """The files of a zip; a DataError where it is none."""
    try:
        file = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(
            f"{path}: is not a whole zip file ({error}, {path.stat().st_size} bytes); download "
            "it again: without a login the server answers with a web page"
        ) from error
    with file:
        # A name may be empty, which is_dir cannot bear.
        members = [info for info in file.infolist() if info.filename and not info.is_dir()]
        sizes = {info.filename: info.file_size for info in members}
        yield Archive(path, sizes, file.open)


@contextmanager
def open_folder(path: Path) -> Generator[Archive, None, None]:
    """The files of a folder, named from its parent on, as in the zip that it came from."""
    files = {
        found.relative_to(path.parent).as_posix(): found
        for found in path.rglob("*")
        if found.is_file()
    }
    sizes = {name: found.stat().st_size for name, found in files.items()}
    yield Archive(path, sizes, lambda name: files[name].open("rb"))
