"""What Cityscapes' server would stumble over in a zip, found before one of its few tries.

The rules are those of cityscapesScripts, which the server runs: it looks into all folders for
`CITY_SEQUENCE_FRAME*.png`, wants exactly one per frame, of the size of the frame, with label
ids; one value above 33 ends it.
"""

import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from bisenet_jax.data.cityscapes import labels as cityscapes
from bisenet_jax.data.cityscapes.archive import DAMAGE
from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.coding import first_few
from bisenet_jax.data.decode import MAX_BYTES, decode_label, png_kind
from bisenet_jax.errors import DataError

Size = tuple[int, int]
# Wraps items as they come, given their number too.
Progress = Callable[[Iterable[Any], int], Iterable[Any]]

LARGEST_ID = max(cityscapes.LABEL_IDS)
_NAMES = {label.label_id: label.name for label in cityscapes.LABELS}


class Rule(NamedTuple):
    """How it was broken, and the cure; `{count}` is of the files or frames concerned."""

    text: str
    is_warning: bool = False


RULES = {
    "zip": Rule("this is not a whole zip file; write or copy it again"),
    "path": Rule(
        "{count} paths leave the folder that they are extracted to; store plain file names"
    ),
    "nested": Rule(
        "{count} files lie in folders of the zip; cityscapesScripts looks into folders, but "
        "plain names are safest",
        is_warning=True,
    ),
    "not_png": Rule("{count} files are not named .png (in small letters); leave them out"),
    "name": Rule(
        "{count} names do not begin with CITY_SEQUENCE_FRAME, such as berlin_000000_000019; "
        "rename or leave out these files"
    ),
    "twice": Rule("{count} frames have several files; keep one of each"),
    "missing": Rule("{count} frames of the split have no file; predict these, too"),
    "foreign": Rule("{count} files belong to no frame of the split; leave them out"),
    "count": Rule("there are not as many frames as in the public split; predict all of it"),
    "split": Rule(
        "the split under config.data.root has not as many frames as the public one, which the "
        "server expects; complete it",
        is_warning=True,
    ),
    "damaged_in_zip": Rule("{count} files cannot be read from the zip; write or copy it again"),
    "damaged_png": Rule("{count} files cannot be decoded; write them again"),
    "kind": Rule(
        "{count} files are not 8-bit grey PNGs; write label ids into one channel of 8 bits"
    ),
    "size": Rule(
        "{count} files are not of the size of their frame; enlarge the logits before argmax"
    ),
    "values": Rule(
        "{count} files hold values above 33, which break cityscapesScripts; give each pixel a "
        "class (255 is none) and write its label id"
    ),
    "train_ids": Rule(
        "{count} files hold train ids, not label ids: no value of the submission is above 18, "
        "and some stand for what is never scored; convert them: road is 7, bicycle 33"
    ),
    "unscored": Rule(
        "{count} files hold ids that are never scored, whose pixels count as missed where the "
        "truth has a class; predict the 19 classes only",
        is_warning=True,
    ),
}


@dataclass(frozen=True)
class Finding:
    """A rule that does not hold: each file or frame concerned, to what was found there."""

    rule: str
    found: Mapping[str, str]

    @property
    def is_error(self) -> bool:
        """Whether the server would refuse or misread the submission."""
        return not RULES[self.rule].is_warning

    @property
    def text(self) -> str:
        """What is wrong, and the cure."""
        return RULES[self.rule].text.format(count=len(self.found))

    def __str__(self) -> str:
        shown = [f"{name} ({what})" if what else name for name, what in self.found.items()]
        return f"{'error' if self.is_error else 'warning'}: {self.text}: {first_few(shown)}"


class Report(NamedTuple):
    """What was found, in the order of `RULES`, and how many label maps were looked at."""

    findings: list[Finding]
    label_maps: int

    @property
    def errors(self) -> int:
        """How many rules are broken that are more than advice."""
        return sum(finding.is_error for finding in self.findings)


@dataclass(frozen=True)
class Content:
    """One file of the zip: broken rules, each with what was found, and pixels by value."""

    flaws: Mapping[str, str] = field(default_factory=dict)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))


def check_submission(
    path: str | Path,
    split: str,
    sizes: Mapping[str, Size] | None = None,
    *,
    threads: int = 2,
    progress: Progress = lambda items, _: items,
) -> Report:
    """Check names and content of all files, which are decoded in parallel.

    Args:
        path: of the zip.
        split: test, or val to rehearse: how many frames are wanted.
        sizes: height and width by image id, of all frames of the split; None where they are
            not known: then the public split's number and size of frames are expected.
        threads: that read and decode.
        progress: such as a bar.

    Raises:
        DataError: there is no such file, or the split is none of Cityscapes'.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the zip that would be sent")
    if split not in cityscapes.FRAMES:
        raise DataError(f"split {split!r} is not one of {', '.join(cityscapes.FRAMES)}")
    try:
        file = zipfile.ZipFile(path)
    except DAMAGE as error:
        return Report([Finding("zip", {str(path): str(error)})], 0)
    flaws: defaultdict[str, dict[str, str]] = defaultdict(dict)
    with file, ThreadPoolExecutor(threads) as pool:
        frames = _check_names(file.infolist(), flaws)
        _check_frames(frames, split, sizes, flaws)
        members = [info for members in frames.values() for info in members]
        wanted = [
            sizes.get(image_id) if sizes is not None else (cityscapes.HEIGHT, cityscapes.WIDTH)
            for image_id, members in frames.items()
            for _ in members
        ]
        examined = pool.map(partial(_examine, file), members, wanted)
        contents = list(progress(examined, len(members)))
    names = [info.filename for info in members]
    for name, content in zip(names, contents, strict=True):
        for rule, what in content.flaws.items():
            flaws[rule][name] = what
    _check_ids(dict(zip(names, contents, strict=True)), flaws)
    findings = [Finding(rule, flaws[rule]) for rule in RULES if flaws[rule]]
    return Report(findings, len(members))


def _check_names(
    members: list[zipfile.ZipInfo], flaws: Mapping[str, dict[str, str]]
) -> dict[str, list[zipfile.ZipInfo]]:
    """The files of each frame by its image id."""
    frames: defaultdict[str, list[zipfile.ZipInfo]] = defaultdict(list)
    for info in members:
        if not info.filename:
            flaws["name"]["(no name)"] = ""
            continue
        path = PurePosixPath(info.filename)
        leaves = path.is_absolute() or ".." in path.parts or "\\" in info.orig_filename
        if leaves or re.match("[A-Za-z]:", info.filename):
            flaws["path"][info.filename] = ""
        elif len(path.parts) > 1 and not info.is_dir():
            flaws["nested"][info.filename] = ""
        if info.is_dir():
            continue
        image_id = cityscapes.image_id_of(path.name.rpartition("\\")[2])
        if path.suffix != ".png":
            flaws["not_png"][info.filename] = ""
        elif image_id is None:
            flaws["name"][info.filename] = ""
        else:
            frames[image_id].append(info)
    return frames


def _check_frames(
    frames: Mapping[str, list[zipfile.ZipInfo]],
    split: str,
    sizes: Mapping[str, Size] | None,
    flaws: Mapping[str, dict[str, str]],
) -> None:
    """Each frame of the split once, and no other."""
    for image_id, members in frames.items():
        if len(members) > 1:
            flaws["twice"][image_id] = " and ".join(info.filename for info in members)
    public = cityscapes.FRAMES[split]
    number = len(frames) if sizes is None else len(sizes)
    if number != public:
        rule = "count" if sizes is None else "split"
        flaws[rule][split] = f"{number}, not {public}"
    if sizes is not None:
        flaws["missing"].update((image_id, "") for image_id in sorted(sizes.keys() - frames))
        for image_id in sorted(frames.keys() - sizes):
            flaws["foreign"].update((info.filename, "") for info in frames[image_id])


def _examine(file: zipfile.ZipFile, info: zipfile.ZipInfo, size: Size | None) -> Content:
    """Read and decode one file; `size` is that of its frame, if known."""
    if info.file_size > MAX_BYTES:
        return Content({"damaged_in_zip": f"{info.file_size:,} bytes are no label map"})
    try:
        data = file.read(info)  # checks the sum
    except DAMAGE as error:
        return Content({"damaged_in_zip": str(error)})
    kind = png_kind(data)
    if kind is None:
        return Content({"damaged_png": "content is no PNG"})
    if kind != "8-bit grey":
        return Content({"kind": kind})
    try:
        values = decode_label(data, info.filename)
    except DataError as error:
        return Content({"damaged_png": str(error.__cause__ or error)})
    flaws = {}
    if size is not None and values.shape != size:
        flaws["size"] = f"{values.shape[1]}x{values.shape[0]}, not {size[1]}x{size[0]}"
    counts = np.bincount(values.ravel(), minlength=256)
    above = [value for value in np.flatnonzero(counts) if value > LARGEST_ID]
    if above:
        flaws["values"] = first_few(f"{value}: {counts[value]} pixels" for value in above)
    return Content(flaws, counts)


def _check_ids(contents: Mapping[str, Content], flaws: Mapping[str, dict[str, str]]) -> None:
    """Train ids in place of label ids, or ids that are never scored."""
    is_id = np.arange(256) <= LARGEST_ID
    unscored = is_id & ~np.isin(np.arange(256), cityscapes.LABEL_IDS)
    total = np.sum([content.counts for content in contents.values()], axis=0, initial=0)
    if not np.any(total):
        return
    # 255 is what train ids have for no class.
    used = np.setdiff1d(np.flatnonzero(total), [IGNORE])
    are_train_ids = bool((used < len(cityscapes.LABEL_IDS)).all() and unscored[used].any())
    for name, content in contents.items():
        if are_train_ids and content.counts.any():
            flaws["train_ids"][name] = f"values {first_few(np.flatnonzero(content.counts), 19)}"
        elif ids := np.flatnonzero(content.counts * unscored).tolist():
            shares = content.counts / content.counts.sum()
            flaws["unscored"][name] = first_few(f"{i} {_NAMES[i]} {shares[i]:.1%}" for i in ids)
