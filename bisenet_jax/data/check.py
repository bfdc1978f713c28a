"""Check a data set before training: every file read, every pixel counted.

    python -m bisenet_jax.data.check --config configs/synthetic.py
    python -m bisenet_jax.data.check --config FILE --save_dir DIR --statistics FILE

Prints sizes, ids, classes, mean, std and class weights (as flags to be pasted), and all that is
wrong. --save_dir draws some frames of each split beside their labels; --statistics keeps the
classes of each training frame, for config.data.sampling=balanced. Exit codes: 0 fit to train,
with warnings or without; 2 errors in the data or the flags, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from io import TextIOWrapper
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from tqdm import tqdm

from bisenet_jax import command_line
from bisenet_jax.config import Config, validate
from bisenet_jax.data import statistics
from bisenet_jax.data.check_report import json_report, text_report
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.contact_sheet import draw_contact_sheet
from bisenet_jax.data.example import Source
from bisenet_jax.data.findings import Survey, judge
from bisenet_jax.data.sources import open_source
from bisenet_jax.data.survey import survey
from bisenet_jax.drawing import write_picture
from bisenet_jax.errors import ConfigError, DataError
from bisenet_jax.files import write_json

ROLES = ("train", "val")


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "Python file with get_config().")
    flags.DEFINE_enum("split", "all", ("all", *ROLES), "Which splits of the config to check.")
    flags.DEFINE_string("save_dir", None, "Folder for a contact sheet of each split.")
    flags.DEFINE_string("statistics", None, "File for the classes of each training frame.")
    flags.DEFINE_string("json", None, "File for all results.")


def main() -> int:
    values = flags.FLAGS
    if values.config is None:
        raise ConfigError("give --config FILE; --help shows an example")
    # A file name may hold bytes that no terminal can show.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return check(
        validate(values.config),
        roles=ROLES if values.split == "all" else (values.split,),
        save_dir=values.save_dir,
        statistics_file=values.statistics,
        json_file=values.json,
    )


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
            if isinstance(result, statistics.Frame):
                found.frames.append(result)
                found.indices.append(index)
            else:
                found.errors.append(result.message)


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__)
