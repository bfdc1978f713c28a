"""Variants of one configuration, each trained with the same seeds, compared seed by seed.

    python -m benchmarks.seeds --workdir runs/seeds \\
        --config configs/camvid_two_cores.py:small \\
        --variant "boosters=" \\
        --variant "none=--config.loss.booster_weights=(0.0,0.0,0.0,0.0)" \\
        --seeds 0,1,2 --json benchmarks/results/cpu_boosters.json \\
        -- --config.data.root=CAMVID --config.train.steps=300

A variant is a name and the flags of train.py that make it, parted by spaces; what follows `--`
goes to all of them. `{run}` in a flag is the name of the run's folder, such as none_0: a second
stage starts from `--config.init.weights=runs/first/{run}.safetensors`. Runs of a seed follow
each other, so that what changes on the machine meets all variants, and a command that was cut
off goes on where it stopped. The number is the mIoU of the last step, whichever was the best:
nothing is chosen by the split that it is measured on. Deviations are those of a sample. Exit
codes: 0 done, 1 a run failed (its own words say why) or was stopped, 2 wrong flags.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from bisenet_jax.files import write_json

ROOT = Path(__file__).parents[1]


def read_variant(words: str) -> tuple[str, list[str]]:
    """`NAME=FLAGS` in two; raises a ValueError, which argparse turns into its own error."""
    name, is_named, flags = words.partition("=")
    if not is_named or not name.replace("_", "").isalnum():
        raise ValueError(words)
    return name, flags.split()


def read_seeds(words: str) -> list[int]:
    seeds = [int(word) for word in words.split(",")]
    if len(set(seeds)) < len(seeds):
        raise ValueError(words)
    return seeds


def train(config: str, workdir: Path, flags: Sequence[str], seed: int) -> dict[str, Any]:
    """The scores of one run, made whole if it is not yet.

    Raises:
        CalledProcessError: where train.py fails.
    """
    workdir.parent.mkdir(parents=True, exist_ok=True)
    summary = workdir.with_suffix(".json")
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}"]
    command += [f"--json={summary}", f"--config.train.seed={seed}", *flags]
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads(summary.read_text())


def compare(miou: Mapping[str, Mapping[int, float]]) -> list[dict[str, Any]]:
    """A line for each variant, by the mIoU of its seeds; all differ from the first."""
    first = next(iter(miou.values()))
    lines = []
    for name, by_seed in miou.items():
        values = list(by_seed.values())
        gains = [first[seed] - value for seed, value in by_seed.items()]
        lines.append(
            {
                "variant": name,
                "miou": dict(by_seed),
                "mean": statistics.mean(values),
                "deviation": _deviation(values),
                "first_is_ahead_by": statistics.mean(gains),
                "deviation_of_that": _deviation(gains),
            }
        )
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    seeds = list(lines[0]["miou"])
    width = max(len("variant"), *(len(line["variant"]) for line in lines)) + 2
    heads = [f"seed {seed}" for seed in seeds]
    heads += ["mean", "deviation", "below first", "deviation"]
    rows = [f"{'mIoU %':<{width}}" + "".join(f"{head:>13}" for head in heads)]
    rows.append("-" * len(rows[0]))
    for line in lines:
        numbers = [*(line["miou"][seed] for seed in seeds), line["mean"], line["deviation"]]
        numbers += [line["first_is_ahead_by"], line["deviation_of_that"]]
        shown = ["-" if number is None else f"{100 * number:.2f}" for number in numbers]
        rows.append(f"{line['variant']:<{width}}" + "".join(f"{text:>13}" for text in shown))
    return "\n".join(rows)


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.seeds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="as train.py takes it")
    parser.add_argument(
        "--workdir", required=True, type=Path, help="holds a folder for each run"
    )
    parser.add_argument("--variant", required=True, type=read_variant, action="append")
    parser.add_argument("--seeds", type=read_seeds, default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="a file for the scores")
    parser.add_argument("flags", nargs="*", help="behind `--`: flags of train.py for all runs")
    asked = parser.parse_args(arguments)
    if len({name for name, _ in asked.variant}) < len(asked.variant):
        parser.error("two variants have one name")
    return asked


def main(arguments: Sequence[str]) -> int:
    asked = parse(arguments)
    workdir = asked.workdir.absolute()
    miou: dict[str, dict[int, float]] = {name: {} for name, _ in asked.variant}
    runs = []
    for seed in asked.seeds:
        for name, own in asked.variant:
            folder = workdir / f"{name}_{seed}"
            print(f"== {name}, seed {seed}: {folder}", flush=True)
            try:
                flags = [flag.replace("{run}", folder.name) for flag in (*asked.flags, *own)]
                told = train(asked.config, folder, flags, seed)
            except subprocess.CalledProcessError as error:
                print(f"error: train.py ended with code {error.returncode}", file=sys.stderr)
                return 1
            if told["stopped_by"] or told["miou"] is None:
                reason = told["stopped_by"] or "no labelled pixel"
                print(f"error: no score of {folder}: {reason}", file=sys.stderr)
                return 1
            miou[name][seed] = told["miou"]
            if told["first_step"] != 1:
                told = told | {"seconds": None}  # those of the last start alone
            runs.append({"variant": name, "seed": seed} | told)
    lines = compare(miou)
    print(table(lines))
    if asked.json:
        # Folders are this machine's own.
        shared = [flag for flag in asked.flags if not flag.startswith("--config.data.root")]
        asked_for = {"config": asked.config, "flags": shared, "variants": dict(asked.variant)}
        write_json(asked.json, describe_machine() | asked_for | {"rows": lines, "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
