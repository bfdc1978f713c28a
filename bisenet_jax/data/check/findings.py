"""What is wrong with a data set: errors that forbid a training, and warnings."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from bisenet_jax.config import Config
from bisenet_jax.data.classes import IGNORE, ClassSet
from bisenet_jax.data.coding import first_few
from bisenet_jax.data.statistics import FrameCounts, add_up


@dataclass
class Survey:
    """One split, read to its end.

    Attributes:
        role: "train" or "val".
        split: its name in the data set.
        images: how many examples it has; 0 where it could not be opened.
        indices: the places of `frames` in the source.
        errors: why it could not be opened, or what could not be read.
    """

    role: str
    split: str
    images: int = 0
    frames: list[FrameCounts] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def sizes(self) -> Counter[tuple[int, int]]:
        """How many frames have each height and width."""
        return Counter((frame.height, frame.width) for frame in self.frames)


@dataclass
class Findings:
    """Each one a line that names what was found and the cure."""

    errors: list[str]
    warnings: list[str]

    @property
    def exit_code(self) -> int:
        return 2 if self.errors else 0


def judge(surveys: list[Survey], class_set: ClassSet, config: Config) -> Findings:
    """All that is wrong with the splits, for a training of this configuration."""
    errors, warnings = [], []
    for survey in surveys:
        errors += [f"{survey.role}: {message}" for message in survey.errors]
        warnings += _doubles_within(survey)
        warnings += _without_labels(survey)
    by_role = {survey.role: survey for survey in surveys if survey.frames}
    if train := by_role.get("train"):
        errors += _misfits_of_canvas(train, config)
        warnings += _large_crops(train, config)
        warnings += _flat_channels(train, class_set)
    if train and (val := by_role.get("val")):
        errors += _doubles_between(train, val)
        warnings += _classes_on_one_side(train, val, class_set)
    else:
        for survey in by_role.values():
            warnings += _absent_classes(survey, class_set)
    return Findings(errors, warnings)


def canvas_of(survey: Survey) -> tuple[int, int] | None:
    """Height and width that hold every frame, or None where all have one size."""
    sizes = survey.sizes()
    if len(sizes) < 2:
        return None
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _misfits_of_canvas(train: Survey, config: Config) -> Iterator[str]:
    data, canvas = config.data, canvas_of(train)
    if not data.canvas_height:
        if canvas is not None and config.train.batch_size > 1:
            yield (
                f"train: frames have {len(train.sizes())} sizes, but a batch must "
                f"have one: set config.data.canvas_height={canvas[0]} and "
                f"canvas_width={canvas[1]}"
            )
        return
    allowed = data.canvas_height, data.canvas_width
    larger = [
        frame.name
        for frame in train.frames
        if frame.height > allowed[0] or frame.width > allowed[1]
    ]
    if larger:
        height, width = canvas or next(iter(train.sizes()))
        yield (
            f"train: {len(larger)} of {len(train.frames)} frames are larger than the canvas of "
            f"{allowed[1]}x{allowed[0]}: {first_few(larger)}; set "
            f"config.data.canvas_height={height} and canvas_width={width}"
        )


def _large_crops(train: Survey, config: Config) -> Iterator[str]:
    height, width = config.augment.crop_height, config.augment.crop_width
    smaller = sum(
        count for size, count in train.sizes().items() if size[0] < height or size[1] < width
    )
    if smaller:
        yield (
            f"train: {smaller} of {len(train.frames)} frames are smaller than the crop of "
            f"{width}x{height}, the rest of which is ignored padding; make "
            "config.augment.crop_height and crop_width smaller"
        )


def _flat_channels(train: Survey, class_set: ClassSet) -> Iterator[str]:
    std = add_up(train.frames, class_set).std
    flat = [name for name, each in zip(("red", "green", "blue"), std, strict=True) if not each]
    if flat:
        yield (
            f"train: {first_few(flat)} is the same in every pixel, so that there is nothing to "
            "divide by; look whether these are the right pictures"
        )


def _without_labels(survey: Survey) -> Iterator[str]:
    bare = [frame.name for frame in survey.frames if frame.label_pixels.keys() == {IGNORE}]
    if bare:
        yield (
            f"{survey.role}: {len(bare)} of {len(survey.frames)} frames have no labelled "
            f"pixel: {first_few(bare)}; they teach nothing: remove them, or check the class set"
        )


def _doubles_within(survey: Survey) -> Iterator[str]:
    for same in _by_digest(survey.frames).values():
        if len(same) > 1:
            yield (
                f"{survey.role}: {first_few(frame.name for frame in same)} show the same "
                f"picture{_labels_too(same)}; keep one"
            )


def _doubles_between(train: Survey, val: Survey) -> Iterator[str]:
    theirs = _by_digest(val.frames)
    for digest, ours in _by_digest(train.frames).items():
        if same := theirs.get(digest):
            yield (
                f"{first_few(frame.name for frame in ours)} of train and "
                f"{first_few(frame.name for frame in same)} of val show the same picture"
                f"{_labels_too(ours + same)}; remove it from one, or val scores what was "
                "learnt by heart"
            )


def _by_digest(frames: list[FrameCounts]) -> dict[bytes, list[FrameCounts]]:
    groups = defaultdict(list)
    for frame in frames:
        groups[frame.image_digest].append(frame)
    return groups


def _labels_too(frames: list[FrameCounts]) -> str:
    are_equal = len({frame.label_digest for frame in frames}) == 1
    return "" if are_equal else ", with different labels"


def _absent_classes(survey: Survey, class_set: ClassSet) -> Iterator[str]:
    if absent := [name for name in class_set.names if name not in _present(survey, class_set)]:
        yield f"{survey.role}: these classes never occur: {', '.join(absent)}"


def _classes_on_one_side(train: Survey, val: Survey, class_set: ClassSet) -> Iterator[str]:
    learnt, scored = _present(train, class_set), _present(val, class_set)
    for names, message in (
        (scored - learnt, "occur in val but never in train, where none can learn them"),
        (learnt - scored, "occur in train but never in val: they have no score"),
        (set(class_set.names) - learnt - scored, "never occur in train or val"),
    ):
        if names:
            ordered = [name for name in class_set.names if name in names]
            yield f"classes that {message}: {', '.join(ordered)}"


def _present(survey: Survey, class_set: ClassSet) -> set[str]:
    ids = {label_id for frame in survey.frames for label_id in frame.label_pixels}
    return {class_set.names[label_id] for label_id in ids if label_id != IGNORE}
