"""Ship a trained network: weights, register, model card, curves, log and row of results.

    python -m bisenet_jax.publish --name bisenetv2-camvid \\
        --config configs/camvid_two_cores.py:full \\
        --device "two cores of an AMD EPYC server processor" --workdir runs/seed0 runs/seed1

In the root of the repository. Of each run the best checkpoint is stored as float16 and scored
on the run's validation split, by the protocol it was trained for; the best of them is shipped
as bisenet_jax/zoo/NAME.safetensors, and its hash goes into registry.json beside it.
docs/models/ gets NAME.md, NAME.svg, NAME.log.jsonl.gz and NAME.json, README.md and
docs/results.md a row.
With --final RUN the weights of that run are shipped, from its last checkpoint: a run by the
same recipe on more frames, such as --config.data.train_split=trainval, which leaves none to
score it by. The others tell what the recipe is worth then, each at its last step too.
With --input_scale 1.25 the network of every run is scored, and shipped, for images that it
sees at 1.25 times their size.
With --add, and without --config, the runs are further seeds of a network that was published
with --final; its weights stay, and its runs may be gone.
Limits, data and uses are written by hand first, in docs/models/NAME.notes.md, which ends the
card.

--config is the file that the runs began with; what they changed of it is found. Several runs
may differ in their seed only. Exit codes: 0 done, 2 something to mend, 130 interrupted.
"""

import re
import subprocess
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from bisenet_jax import command_line, program_cache
from bisenet_jax.errors import ConfigError
from bisenet_jax.publish.addition import add_runs, measure_further, read_published
from bisenet_jax.publish.measurement import measure_runs, read_final
from bisenet_jax.publish.publication import publish, read_notes
from bisenet_jax.publish.record import LICENCES, Record, make_record
from bisenet_jax.publish.rows import describe_miou
from bisenet_jax.publish.training_log import Logs
from bisenet_jax.weights import Weights


def define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "The file that the runs began with.")
    flags.DEFINE_string("name", None, "Of the network, such as bisenetv2-camvid.")
    flags.DEFINE_multi_string("workdir", [], "Of a train.py run; more may follow.")
    flags.DEFINE_string("final", None, "A run on all labelled frames, to be shipped instead.")
    flags.DEFINE_float(
        "input_scale", None, "How large the network sees an image; by default as in training."
    )
    flags.DEFINE_bool("add", False, "Further seeds of what is published.")
    flags.DEFINE_string("device", None, "What trained it, in words.")
    flags.DEFINE_string("commit", None, "Of the code that trained; by default git's HEAD.")
    flags.DEFINE_string("licence", None, "Of the weights; known for some data sets.")
    flags.DEFINE_string("root", ".", "Of the repository.")


def main(words: list[str]) -> None:
    values = flags.FLAGS
    workdirs = [Path(word) for word in (*values.workdir, *words)]
    is_incomplete = values.config is None and not values.add
    if not workdirs or None in (values.name, values.device) or is_incomplete:
        raise ConfigError(
            "give --name, --config FILE, --device WORDS and --workdir RUN [RUN ...]; --help "
            "shows an example"
        )
    of_the_shipped = (values.config, values.final, values.input_scale, values.licence)
    if values.add and any(value is not None for value in of_the_shipped):
        raise ConfigError(
            "--add changes nothing of the shipped network: leave --config, --final, "
            "--input_scale and --licence out"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", values.name):
        raise ConfigError(
            f"--name {values.name!r} must be of small letters, digits, dots and dashes, such "
            "as bisenetv2-camvid"
        )
    root = Path(values.root)
    notes, commit = read_notes(root, values.name), values.commit or read_commit(root)
    program_cache.keep_compiled_programs()
    if values.add:
        record, weights, logs = _with_further_runs(root, workdirs, commit)
    else:
        record, weights, logs = _of_these_runs(workdirs, commit)
    entry = publish(root, record, weights, logs, notes)
    print(f"{values.name}: {describe_miou(record)} mIoU, {entry.bytes:,} bytes, {entry.card}")


def _of_these_runs(workdirs: list[Path], commit: str) -> tuple[Record, Weights, Logs]:
    """A network as these runs have it, whatever was published under its name."""
    values = flags.FLAGS
    scale = values.input_scale
    final = read_final(Path(values.final), workdirs, scale) if values.final else None
    runs = measure_runs(workdirs, "best" if final is None else "latest", scale)
    # Of seeds that are not shipped none is chosen.
    best = max(runs, key=lambda run: run.summary["miou"]) if final is None else runs[0]
    source = best.options.data.source
    licence = values.licence or LICENCES.get(source)
    if licence is None:
        raise ConfigError(
            f"what may be done with weights trained on {source!r} is not known here; say it "
            "with --licence"
        )
    record = make_record(
        values.name,
        runs,
        best,
        final,
        config_path=config_flags.get_config_filename(flags.FLAGS["config"]),
        config=values.config,
        licence=licence,
        commit=commit,
        device=values.device,
    )
    trained = [*runs, *([final] if final else [])]
    logs = {run.options.train.seed: run.log for run in trained}
    return record, best.scored_weights() if final is None else final.weights, logs


def _with_further_runs(
    root: Path, workdirs: list[Path], commit: str
) -> tuple[Record, Weights, Logs]:
    """The published network with further seeds in its record."""
    values = flags.FLAGS
    published = read_published(root, values.name)
    runs = measure_further(published, workdirs)
    record, logs = add_runs(published, runs, commit=commit, device=values.device)
    return record, published.weights, logs


def read_commit(root: Path) -> str:
    """The commit that the repository is at."""
    command = ["git", "-C", str(root), "rev-parse", "--short=10", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"git knows no commit of {root}; give --commit") from error
    return done.stdout.strip()


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__, takes_arguments=True)
