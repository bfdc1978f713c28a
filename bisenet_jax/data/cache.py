"""Training frames repacked once into what is quick to read; evaluation reads the originals.

jpeg   pictures as JPEG of quality 95 without colour subsampling, label maps as PNG, in one
       ArrayRecord file: much smaller than the PNGs, not bit for bit the same
array  pixels and ids as they are decoded, in two files that are mapped into memory: exact,
       nothing is left to decode, 4 bytes a pixel on disk

A cache lies in a folder named after the fingerprint of what it was made from, so that a changed
file, coding or format never meets an old cache. The folder appears under its name when it is
whole; what a killed run leaves behind has another name and is never read. The next run that
makes a cache there removes it, an hour after its last write. Of several processes that want one
cache, one makes it while the others wait.
"""

import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import struct
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import grain
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tqdm import tqdm

from bisenet_jax.data.decode import decode_label, decode_whole_jpeg
from bisenet_jax.data.example import Example, Source
from bisenet_jax.errors import DataError
from bisenet_jax.files import write_json

JPEG_QUALITY = 95
FORMAT_VERSION = 1

# Seconds after which a cache that nobody writes to is nobody's: every frame is a write.
ABANDONED = 3600.0

_INDEX_FILE = "index.json"
_RECORD_FILE = "frames.array_record"
_LENGTH = struct.Struct("<I")  # of the picture, before picture and label map


class CacheableSource(Source, Protocol):
    """A source that can say whether it still gives the same examples."""

    def fingerprint(self) -> str:
        """Another text whenever the examples may be others."""
        ...


def open_cache(source: CacheableSource, kind: str, folder: str, *, threads: int = 2) -> Source:
    """The examples of the source from its cache, which is made first where there is none.

    Args:
        kind: jpeg or array.
        folder: of all caches; `~` is the home folder.
        threads: that read and encode while the cache is made.

    Raises:
        DataError: when the folder cannot be written, its disk is full, what lies there is no
            whole cache, or array is asked for frames of several sizes. Nothing half-written
            is left under a cache's name.
    """
    identity = f"{FORMAT_VERSION} {kind} {JPEG_QUALITY} {source.fingerprint()}"
    path = Path(folder).expanduser() / hashlib.sha256(identity.encode()).hexdigest()[:20]
    if not (path / _INDEX_FILE).is_file():
        with _turn(path):
            if not (path / _INDEX_FILE).is_file():
                _make(source, kind, path, threads)
    try:
        index = json.loads((path / _INDEX_FILE).read_text(encoding="utf-8"))
        if kind == "jpeg":
            return JpegSource(path, index["names"])
        return ArraySource(path, index["names"], index["height"], index["width"])
    except (OSError, RuntimeError, ValueError, LookupError) as error:
        raise DataError(
            f"{path}: the cache cannot be read ({error}); remove this folder, it is made anew"
        ) from error


class JpegSource:
    """Frames of a jpeg cache. Can be pickled, and read by many threads."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.names = names
        self._records = grain.sources.ArrayRecordDataSource(str(path / _RECORD_FILE))
        if len(self._records) != len(names):
            raise DataError(
                f"{path}: holds {len(self._records)} frames, not {len(names)}; remove this "
                "folder, it is made anew"
            )

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Of example `index`."""
        return self.names[index]

    def __getitem__(self, index: int) -> Example:
        """Example `index`: `image [H, W, 3] uint8`, `label [H, W] uint8`, `name`."""
        record, name = self._records[index], self.names[index]
        (length,) = _LENGTH.unpack_from(record)
        # Whole, as each record has a checksum.
        image = decode_whole_jpeg(record[_LENGTH.size :][:length], f"cache of {name}")
        label = decode_label(record[_LENGTH.size + length :], f"cache of {name}")
        return {"image": image, "label": label, "name": name}


class ArraySource:
    """Frames of an array cache. Can be pickled, and read by many threads."""

    def __init__(self, path: Path, names: list[str], height: int, width: int) -> None:
        self.path, self.names, self.height, self.width = path, names, height, width
        shape = (len(names), height, width)
        self._images = np.memmap(path / "images", np.uint8, "r", shape=(*shape, 3))
        self._labels = np.memmap(path / "labels", np.uint8, "r", shape=shape)

    def __reduce__(self) -> tuple:
        # A memory map would be pickled as the gigabytes that it shows.
        return ArraySource, (self.path, self.names, self.height, self.width)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Of example `index`."""
        return self.names[index]

    def __getitem__(self, index: int) -> Example:
        """Example `index`: `image [H, W, 3] uint8`, `label [H, W] uint8`, `name`."""
        image, label = np.asarray(self._images[index]), np.asarray(self._labels[index])
        return {"image": image, "label": label, "name": self.names[index]}


@contextmanager
def _turn(path: Path) -> Generator[None]:
    """Held by one process at a time, so that of several one makes a cache and others take it.

    Where the file system knows no locks, or nothing can be written, nobody waits.
    """
    lock = path.with_name(f"{path.name}.lock")
    with ExitStack() as stack:
        with suppress(OSError):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lock.open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{path}: waiting for another process to make this cache", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # Who waits has it open, and finds the cache; at worst two make one.
            with suppress(OSError):
                lock.unlink()


def _make(source: Source, kind: str, path: Path, threads: int) -> None:
    # By chance and not by process number: in containers that share a disk all can be number 1.
    partial_path = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    try:
        _remove_abandoned(path.parent)
        partial_path.mkdir(parents=True)
        packed = _packed(source, kind, threads)
        bar = tqdm(packed, f"cache {kind} {path}", len(source), unit="image", disable=None)
        index = {"jpeg": _write_jpeg, "array": _write_array}[kind](partial_path, bar)
        write_json(partial_path / _INDEX_FILE, index)
        os.rename(partial_path, path)
    except OSError as error:
        # Another run may have been quicker: then its cache serves both.
        if not (path / _INDEX_FILE).is_file():
            raise DataError(
                f"{path}: the cache cannot be written ({error.strerror or error}); make room, "
                "set config.data.cache_dir to a folder on another disk, or config.data.cache "
                "to none"
            ) from error
    finally:
        shutil.rmtree(partial_path, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """What killed runs have left, which can be gigabytes."""
    # Another run may end or tidy up meanwhile.
    for partial_path in folder.glob(f"{'?' * 20}.{'?' * 16}.partial"):
        with suppress(OSError):
            times = [path.stat().st_mtime for path in (partial_path, *partial_path.iterdir())]
            if time.time() - max(times) > ABANDONED:
                shutil.rmtree(partial_path)
    for lock in folder.glob(f"{'?' * 20}.lock"):
        with suppress(OSError):
            # One that is held so long may go as well: at worst two make one cache.
            if time.time() - lock.stat().st_mtime > ABANDONED:
                lock.unlink()


def _packed(source: Source, kind: str, threads: int) -> Iterator[tuple[Example, bytes]]:
    """Every example in order with its JPEG record, read and encoded in parallel."""
    dataset = grain.MapDataset.range(len(source)).map(partial(_pack, source, kind))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(dataset.to_iter_dataset(options))
    try:
        yield from iterator
    finally:
        iterator.close()


def _pack(source: Source, kind: str, index: int) -> tuple[Example, bytes]:
    example = source[index]
    if kind != "jpeg":
        return example, b""
    image, label = io.BytesIO(), io.BytesIO()
    picture = Image.fromarray(example["image"])
    picture.save(image, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    Image.fromarray(example["label"]).save(label, "PNG")
    return example, _LENGTH.pack(image.tell()) + image.getvalue() + label.getvalue()


def _write_jpeg(folder: Path, packed: Iterable[tuple[Example, bytes]]) -> dict:
    # One record a group: any frame is read without its neighbours.
    writer = ArrayRecordWriter(str(folder / _RECORD_FILE), "group_size:1")
    names = []
    for example, record in packed:
        try:
            writer.write(record)
        except RuntimeError as error:
            raise OSError(str(error)) from error
        names.append(example["name"])
    try:
        writer.close()
    except RuntimeError as error:
        raise OSError(str(error)) from error
    with open(folder / _RECORD_FILE, "rb") as file:
        os.fsync(file.fileno())
    return {"names": names}


def _write_array(folder: Path, packed: Iterable[tuple[Example, bytes]]) -> dict:
    names: list[str] = []
    height = width = 0
    with open(folder / "images", "wb") as images, open(folder / "labels", "wb") as labels:
        for example, _ in packed:
            height, width = (height, width) if names else example["label"].shape
            if example["label"].shape != (height, width):
                rows, columns = example["label"].shape
                raise DataError(
                    f"{example['name']} is {columns}x{rows}, the frames before it {width}x"
                    f"{height}; an array cache needs one size: set config.data.cache to jpeg"
                )
            _append(images, example["image"])
            _append(labels, example["label"])
            names.append(example["name"])
        for file in (images, labels):
            file.flush()
            os.fsync(file.fileno())
    return {"names": names, "height": height, "width": width}


def _append(file: BinaryIO, array: np.ndarray) -> None:
    # By plain writes: a memory map on a full disk would end the process with a signal.
    file.write(np.ascontiguousarray(array).data)
