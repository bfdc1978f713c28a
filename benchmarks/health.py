"""Memory of a long run: does it stay flat in training and in evaluation?

    python -m benchmarks.health --json benchmarks/results/cpu_health.json
    python -m benchmarks.health --steps 200 --images 500

`train.py` and `evaluate.py` run as their users start them, on benchmarks/tiny.py; their memory
(resident set size) is read every half second from outside. Time in which a machine has stopped
them, or this process, does not count: otherwise a curve has gaps.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from tqdm import tqdm

from benchmarks.machine import describe_machine
from bisenet_jax.files import write_json

ROOT = Path(__file__).parents[1]
INTERVAL = 0.5
# A longer time between two samples means that this process was stopped.
LONGEST = 5.0
# The start loads and compiles; flat means flat after it.
WARM_UP_SHARE = 0.3
POINTS = 100  # of a curve in the file


def watch(command: list[str], name: str) -> dict[str, Any]:
    """Run a script to its end; its memory in MiB over the seconds.

    Raises:
        RuntimeError: with its output, where it fails.
    """
    times, sizes = [], []
    ran, stopped, last = 0.0, 0.0, time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tqdm(desc=name, unit="s", disable=None) as bar:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=output, stderr=output, env=os.environ
        )
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(INTERVAL)
            now = time.monotonic()
            passed, last = now - last, now
            try:
                if passed > LONGEST or seen.status() == psutil.STATUS_STOPPED:
                    stopped += passed
                    continue
                size = seen.memory_info().rss / 2**20
            except psutil.Error:
                break
            ran += passed
            times.append(ran)
            sizes.append(size)
            bar.set_postfix({"MiB": f"{size:.0f}"}, refresh=False)
            bar.update(round(ran) - bar.n)
        if process.wait():
            output.seek(0)
            raise RuntimeError(output.read()[-4000:])
    # An ending process has given memory back already.
    return {"name": name, "stopped_seconds": stopped} | judge(
        np.array(times)[:-2], np.array(sizes)[:-2]
    )


def judge(times: np.ndarray, sizes: np.ndarray) -> dict[str, Any]:
    """The peak, and how memory changed between the middle and the end of what is no start.

    Args:
        times: `[N]`, seconds.
        sizes: `[N]`, MiB.
    """
    late = times > WARM_UP_SHARE * times[-1]
    first, second = np.array_split(sizes[late], 2)
    chosen = np.unique(np.linspace(0, len(times) - 1, POINTS).astype(int))
    return {
        "seconds": float(times[-1]),
        "peak_mib": float(sizes.max()),
        "first_half_mib": float(np.median(first)),
        "second_half_mib": float(np.median(second)),
        "growth_mib": float(np.median(second) - np.median(first)),
        "curve": [[round(float(times[i]), 1), round(float(sizes[i]), 1)] for i in chosen],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as plain text."""
    lines = [
        f"{'what':<28}{'s':>7}{'stopped s':>10}{'peak MiB':>10}{'1st half':>10}"
        f"{'2nd half':>10}{'growth':>9}"
    ]
    lines.append("-" * len(lines[0]))
    for row in rows:
        lines.append(
            f"{row['name']:<28}{row['seconds']:>7.0f}{row['stopped_seconds']:>10.0f}"
            f"{row['peak_mib']:>10.0f}{row['first_half_mib']:>10.1f}"
            f"{row['second_half_mib']:>10.1f}{row['growth_mib']:>9.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--images", type=int, default=5000, help="to evaluate")
    parser.add_argument("--json", help="a file for all the figures")
    arguments = parser.parse_args()
    tiny = ["--config", "benchmarks/tiny.py"]
    with tempfile.TemporaryDirectory(prefix="bisenet_jax_health_") as folder:
        run = ["--workdir", str(Path(folder) / "run")]
        every = max(arguments.steps // 10, 1)
        trained = watch(
            ["train.py", *tiny, *run, f"--config.train.steps={arguments.steps}"]
            + [f"--config.train.evaluate_every={every}", f"--config.train.log_every={every}"]
            + [f"--config.train.checkpoint_every={every}"],
            f"{arguments.steps} steps of training",
        )
        # Other frames than those of the run, whose step at its end is the same.
        scored = watch(
            ["evaluate.py", *tiny, *run, f"--config.data.val_images={arguments.images}"]
            + [f"--config.train.steps={arguments.steps}"],
            f"{arguments.images} images scored",
        )
    rows = [trained, scored]
    print(table(rows))
    if arguments.json:
        write_json(arguments.json, describe_machine() | {"rows": rows})


if __name__ == "__main__":
    main()
