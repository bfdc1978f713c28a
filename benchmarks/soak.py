"""Kill a run again and again; it must end with the bits and the log of one left alone.

    python benchmarks/soak.py --kills 50 --json benchmarks/results/cpu_soak.json
    python -m benchmarks.soak --kills 3

Each start of `train.py` on benchmarks/tiny.py is ended at a random moment, aimed at by turns:
while it starts, between steps, while a checkpoint is written, within an evaluation; by SIGKILL
(as the kernel does for lack of memory), SIGTERM or Ctrl-C. What was hit is read afterwards from
what the run left. At times a bit of its newest checkpoint is flipped before the next start. A
run that ends before it was killed often enough is compared, and the next one begun. Exit codes:
0 equal, 1 not.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Run as a file, Python looks beside it alone.
sys.path.append(str(Path(__file__).parents[1]))

import jax
import numpy as np
from tqdm import tqdm

from benchmarks import tiny
from benchmarks.machine import describe_machine
from bisenet_jax import config_file, parallel
from bisenet_jax.files import write_json
from bisenet_jax.training import checkpoint
from bisenet_jax.training.logs import LOG_FILE, read_log
from bisenet_jax.training.run import restore_run

ROOT = Path(__file__).parents[1]
MOMENTS = ("start", "steps", "write", "evaluation")
# How long a step, a write and an evaluation about last: the delay within one is random.
LENGTHS = {"steps": 0.1, "write": 0.3, "evaluation": 0.5}
SIGNALS = {signal.SIGKILL: 0.6, signal.SIGTERM: 0.2, signal.SIGINT: 0.2}
FLIPS = 0.1  # of the kills after which a bit is flipped
COMPARED = ("same_final_bits", "same_log", "same_best")
CLOCKS = ("images_per_second", "step_seconds", "wait_share", "teraflops_per_second")
PATIENCE = 3600.0  # this process may have been stopped for a while, with its runs


class Kill(NamedTuple):
    """What was done to one start, and what came of it."""

    aimed: str
    hit: str
    signal: str
    code: int
    step: int  # the last one in the log
    is_flipped: bool


def start(workdir: Path, steps: int, cache: str) -> subprocess.Popen:
    """One start of the run; its words go to `output.txt` beside the workdir."""
    command = [sys.executable, "train.py", "--config", "benchmarks/tiny.py"]
    command += ["--workdir", str(workdir), f"--config.train.steps={steps}"]
    # The same programs for all, compiled once: seconds a start instead of a minute.
    environment = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    with workdir.with_suffix(".txt").open("ab") as output:
        return subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output
        )


def kill_once(
    process: subprocess.Popen, workdir: Path, moment: str, rng: random.Random, seconds: float
) -> Kill | None:
    """End a start at a random moment of a kind; None where it was done before.

    Args:
        process: the start.
        workdir: its run's.
        moment: one of MOMENTS.
        rng: chooses the signal, the delay, and whether a bit is flipped.
        seconds: how long a start about takes.
    """
    number = rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    began, before = time.monotonic(), last_line(workdir)
    first = step_of(before)
    target, delay = first + rng.randint(1, 4), rng.random() * LENGTHS.get(moment, seconds)

    def has_come() -> bool:
        if moment == "start":
            return time.monotonic() - began > delay
        line = last_line(workdir)
        if moment == "evaluation":
            return step_of(line) > first and is_scoring(line)
        if moment == "write":
            return bool(half_written(workdir))
        return step_of(line) >= target

    if not wait_until(has_come, process):
        return None
    if moment != "start":
        time.sleep(delay)
    process.send_signal(number)
    code = process.wait(PATIENCE)
    line = last_line(workdir)
    hit = "steps"
    if half_written(workdir):
        hit = "write"
    elif step_of(line) <= first:
        hit = "start"
    elif is_scoring(line):
        hit = "evaluation"
    is_flipped = rng.random() < FLIPS and flip(workdir, rng)
    return Kill(moment, hit, signal.Signals(number).name, code, step_of(line), is_flipped)


def wait_until(has_come: Callable[[], bool], process: subprocess.Popen) -> bool:
    """Whether that comes before the process ends."""
    give_up = time.monotonic() + PATIENCE
    while not has_come():
        if process.poll() is not None:
            return False
        if time.monotonic() > give_up:
            process.kill()
            raise TimeoutError(f"the run made no step in {PATIENCE:.0f} s")
        time.sleep(0.001)
    return True


def flip(workdir: Path, rng: random.Random) -> bool:
    """One bit of one file of the newest checkpoint, if there is any."""
    newest = checkpoint.steps_made(workdir)
    files = [p for p in (workdir / checkpoint.FOLDER / str(newest)).rglob("*") if p.is_file()]
    # A byte of the whole checkpoint, not of a file: most of it is the numbers.
    sizes = [path.stat().st_size for path in files]
    if not newest or not sum(sizes):
        return False
    path = rng.choices(sorted(files), [path.stat().st_size for path in sorted(files)])[0]
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return True


def last_line(workdir: Path) -> dict[str, Any]:
    """The log's last whole line, or nothing."""
    path = workdir / LOG_FILE
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 8192, 0))
        for text in reversed(file.read().splitlines()):
            try:
                line = json.loads(text)
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
            # The end of a line that was cut off in front may be a number.
            if isinstance(line, dict):
                return line
    return {}


def step_of(line: Mapping[str, Any]) -> int:
    return line.get("step", 0)


def is_scoring(line: Mapping[str, Any]) -> bool:
    """Whether an evaluation follows this line of the log."""
    every = tiny.get_config().train.evaluate_every
    return line.get("group") == "train" and not step_of(line) % every


def half_written(workdir: Path) -> list[Path]:
    """Checkpoints that are being written, or were when the run ended."""
    folder = workdir / checkpoint.FOLDER
    return [p for p in folder.iterdir() if "tmp" in p.name] if folder.is_dir() else []


def soak(folder: Path, kills: int, steps: int, seed: int, seconds: float) -> dict[str, Any]:
    """Run once alone, then killed ones; every figure, and whether all are equal."""
    rng, cache = random.Random(seed), str(folder / "xla")
    alone = folder / "alone"
    began = time.monotonic()
    leave_alone(alone, steps, cache)
    seconds_alone = time.monotonic() - began
    # In turns, each as often as the others.
    moments = [MOMENTS[place % len(MOMENTS)] for place in range(kills)]
    rng.shuffle(moments)
    done: list[Kill] = []
    runs: list[dict[str, Any]] = []
    start_seconds, text = 10.0, ""
    began = time.monotonic()

    def is_going_on() -> bool:
        return len(done) < kills and time.monotonic() - began < seconds

    with tqdm(total=kills, unit="kill", disable=None) as bar:
        while is_going_on():
            workdir = folder / f"killed_{len(runs)}"
            while is_going_on():
                process = start(workdir, steps, cache)
                started = time.monotonic()
                kill = kill_once(process, workdir, moments[len(done)], rng, start_seconds)
                if kill is None:
                    if process.returncode == 0:
                        break
                    require_start_over(workdir)
                    continue
                done.append(kill)
                if kill.aimed == "steps":
                    start_seconds = time.monotonic() - started
                bar.set_postfix({"run": len(runs), "step": kill.step})
                bar.update()
            # Its last start is left alone.
            leave_alone(workdir, steps, cache)
            runs.append(compare(alone, workdir))
            text += words(workdir)
    return {
        "seed": seed,
        "steps": steps,
        "runs": len(runs),
        "kills": len(done),
        "seconds": time.monotonic() - began,
        "seconds_alone": seconds_alone,
        "aimed": dict(Counter(kill.aimed for kill in done)),
        "hit": dict(Counter(kill.hit for kill in done)),
        "signals": dict(Counter(kill.signal for kill in done)),
        "exit_codes": {
            name: dict(Counter(str(kill.code) for kill in done if kill.signal == name))
            for name in sorted({kill.signal for kill in done})
        },
        "bits_flipped": sum(kill.is_flipped for kill in done),
        "checkpoints_set_aside": text.count("skipping the checkpoint"),
        "resumed": text.count("resuming "),
        "arrays": min(run["arrays"] for run in runs),
        "log_rows": runs[0]["log_rows"],
        "best": runs[0]["best"],
        **{name: sum(run[name] for run in runs) for name in COMPARED},
        "rows": [kill._asdict() for kill in done],
    }


def leave_alone(workdir: Path, steps: int, cache: str) -> None:
    """Start until the run is done."""
    while start(workdir, steps, cache).wait(PATIENCE):
        require_start_over(workdir)


def require_start_over(workdir: Path) -> None:
    """Raise unless the run said that it begins anew, as all its checkpoints were damaged."""
    if "good checkpoint left" not in (text := words(workdir)):
        raise RuntimeError(text[-4000:])


def words(workdir: Path) -> str:
    return workdir.with_suffix(".txt").read_text(errors="replace")


def compare(alone: Path, killed: Path) -> dict[str, Any]:
    """What a user can see of two runs, bit by bit."""
    ends = [_final(workdir) for workdir in (alone, killed)]
    logs = [
        [
            {k: v for k, v in line.items() if k not in CLOCKS}
            for line in read_log(path / LOG_FILE)
        ]
        for path in (alone, killed)
    ]
    return {
        "arrays": len(ends[0]["arrays"]),
        "same_final_bits": ends[0]["arrays"] == ends[1]["arrays"],
        "same_log": logs[0] == logs[1],
        "log_rows": len(logs[0]),
        "same_best": ends[0]["best"] == ends[1]["best"],
        "best": ends[0]["best"],
    }


def _final(workdir: Path) -> dict[str, Any]:
    options = config_file.load(workdir)
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = restore_run(workdir, options, "latest", mesh).state
    with checkpoint.open_checkpoints(workdir) as saved:
        best = checkpoint.best_step(saved)
        miou = None if best is None else checkpoint.miou_of(saved, best)
    arrays = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return {"arrays": arrays, "best": [best, miou]}


def is_equal(result: Mapping[str, Any]) -> bool:
    return all(result[name] == result["runs"] for name in COMPARED)


def table(result: Mapping[str, Any]) -> str:
    """The result as plain text."""

    def listed(counts: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {number}" for name, number in counts.items())

    def judged(name: str) -> str:
        number, runs = result[name], result["runs"]
        return f"equal in all {runs} runs" if number == runs else f"equal in {number} of {runs}"

    codes = "; ".join(f"{name}: {listed(c)}" for name, c in result["exit_codes"].items())
    rows = {
        "kills": f"{result['kills']} in {result['seconds']:.0f} s, seed {result['seed']}",
        "runs": f"{result['runs']} of {result['steps']} steps",
        "aimed at": listed(result["aimed"]),
        "hit": listed(result["hit"]),
        "exit codes": codes,
        "bits flipped": f"{result['bits_flipped']}, checkpoints set aside: "
        f"{result['checkpoints_set_aside']}",
        "final state": f"{result['arrays']} arrays, {judged('same_final_bits')}",
        "log": f"{result['log_rows']} rows, {judged('same_log')}",
        "best": f"step {result['best'][0]}, {judged('same_best')}",
    }
    return "\n".join(f"{name:<14}{text}" for name, text in rows.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=36, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="after which no more kills")
    parser.add_argument("--json", help="a file for all the figures")
    # A shell in the background ignores Ctrl-C, and so would all starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bisenet_jax_soak_") as folder:
        result = soak(
            Path(folder), arguments.kills, arguments.steps, arguments.seed, arguments.seconds
        )
    print(table(result))
    if arguments.json:
        write_json(arguments.json, describe_machine() | result)
    return 0 if is_equal(result) else 1


if __name__ == "__main__":
    sys.exit(main())
