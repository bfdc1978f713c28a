"""The check of a data set: walk its splits, judge what was met, print and write it."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from bisenet_jax.config import Config
from bisenet_jax.data import statistics
from bisenet_jax.data.check.contact_sheet import draw_contact_sheet
from bisenet_jax.data.check.findings import Survey, judge
from bisenet_jax.data.check.report import json_report, text_report
from bisenet_jax.data.check.survey import survey
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.example import Source
from bisenet_jax.data.sources import open_source
from bisenet_jax.drawing import write_picture
from bisenet_jax.errors import ConfigError, DataError
from bisenet_jax.files import write_json

ROLES = ("train", "val")


def check(
    options: Config,
    *,
    roles: Sequence[str] = ROLES,
    save_dir: str | None = None,
    statistics_file: str | None = None,
    json_file: str | None = None,
    processes: int | None = None,
) -> int:
    """Check, print and write; returns the exit code. `processes` is that of `survey`."""
    if statistics_file and "train" not in roles:
        raise ConfigError(
            f"--statistics {statistics_file} needs the training split; leave out --split"
        )
    class_set = find_class_set(options.data.classes)
    names = {"train": options.data.train_split, "val": options.data.val_split}
    surveys = []
    for role in roles:
        found = Survey(role, names[role])
        surveys.append(found)
        try:
            source = open_source(options.data, found.split)
        except DataError as error:
            found.errors.append(str(error))
            continue
        read_split(source, found, processes)
        if save_dir and found.frames:
            sheet = draw_contact_sheet(source, found.indices, class_set)
            write_picture(Path(save_dir) / f"{role}.png", sheet)

    findings = judge(surveys, class_set, options)
    if statistics_file:
        train = surveys[roles.index("train")]
        if train.errors:
            findings.errors.append(
                f"--statistics {statistics_file} is not written, since not every training "
                "frame could be counted; mend the errors of train first"
            )
        else:
            statistics.write(statistics_file, train.frames, class_set, train.split)
    title = f"{class_set.name}, {options.data.source} {options.data.root}".strip()
    print(text_report(surveys, class_set, findings, title=title))
    if json_file:
        write_json(json_file, json_report(surveys, class_set, findings))
    return findings.exit_code


def read_split(source: Source, found: Survey, processes: int | None) -> None:
    """Read every example of a source into a survey, with a progress bar."""
    found.images = len(source)
    with (
        closing(survey(source, processes)) as results,
        tqdm(results, found.role, found.images, unit="image") as bar,
    ):
        for index, result in enumerate(bar):
            if isinstance(result, statistics.FrameCounts):
                found.frames.append(result)
                found.indices.append(index)
            else:
                found.errors.append(result.message)
