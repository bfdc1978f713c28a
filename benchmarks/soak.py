"""Kill a run again and again; it must end with the bits and the log of one left alone.

    python -m benchmarks.soak --kills 50 --json benchmarks/results/cpu_soak.json
    python -m benchmarks.soak --kills 3 --steps 60

Each start of `train.py` on benchmarks/tiny.py is ended at a random moment: while it starts,
between steps, inside a checkpoint's write, or inside an evaluation; by SIGKILL (as the kernel
does for lack of memory), SIGTERM or Ctrl-C; and at times a bit of its newest checkpoint is
flipped before the next start. Exit codes: 0 equal, 1 not.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
SIGNALS = {signal.SIGKILL: 0.6, signal.SIGTERM: 0.2, signal.SIGINT: 0.2}
FLIPS = 0.1  # of the kills after which a bit is flipped
CLOCKS = ("images_per_second", "step_seconds", "wait_share", "teraflops_per_second")
PATIENCE = 600.0


class Kill(NamedTuple):
    """What was done to one start, and what came of it."""

    moment: str
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
    process: subprocess.Popen, workdir: Path, rng: random.Random, start_seconds: float
) -> Kill | None:
    """End a start at a random moment; None where it was done before."""
    moment = rng.choice(MOMENTS)
    number = rng.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    began, first = time.monotonic(), last_step(workdir)
    target, delay = first + rng.randint(1, 8), rng.random()
    every = tiny.get_config().train.evaluate_every

    def has_come() -> bool:
        if moment == "start":
            return time.monotonic() - began > delay * start_seconds
        step = last_step(workdir)
        if moment == "evaluation":
            return step > first and step % every == 0
        if moment == "write":
            folder = workdir / checkpoint.FOLDER
            return folder.is_dir() and any("tmp" in path.name for path in folder.iterdir())
        return step >= target

    while not has_come():
        if process.poll() is not None:
            return None
        if time.monotonic() - began > PATIENCE:
            process.kill()
            raise TimeoutError(f"the run made no step in {PATIENCE:.0f} s: {workdir}")
        time.sleep(0.001)
    if moment != "start":
        time.sleep(delay * (0.01 if moment == "write" else 0.05))
    process.send_signal(number)
    code = process.wait(PATIENCE)
    is_flipped = rng.random() < FLIPS and flip(workdir, rng)
    name = signal.Signals(number).name
    return Kill(moment, name, code, last_step(workdir), is_flipped)


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


def last_step(workdir: Path) -> int:
    """The step of the log's last whole line, or 0."""
    path = workdir / LOG_FILE
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 8192, 0))
        for line in reversed(file.read().splitlines()):
            try:
                return int(json.loads(line)["step"])
            except (json.JSONDecodeError, TypeError, KeyError):
                continue
    return 0


def soak(folder: Path, kills: int, steps: int, seed: int, seconds: float) -> dict[str, Any]:
    """Run once alone and once killed; every figure, and whether both are equal."""
    rng, cache = random.Random(seed), str(folder / "xla")
    alone, killed = folder / "alone", folder / "killed"
    began = time.monotonic()
    process = start(alone, steps, cache)
    if process.wait(PATIENCE):
        raise RuntimeError(alone.with_suffix(".txt").read_text())
    alone_seconds = time.monotonic() - began
    done: list[Kill] = []
    start_seconds = 10.0
    is_done = False
    began = time.monotonic()
    with tqdm(total=kills, unit="kill", disable=None) as bar:
        while len(done) < kills and not is_done and time.monotonic() - began < seconds:
            process = start(killed, steps, cache)
            kill = kill_once(process, killed, rng, start_seconds)
            is_done = kill is None and process.returncode == 0
            if kill is not None:
                done.append(kill)
                bar.set_postfix({"step": kill.step})
                bar.update()
            elif not is_done and "good checkpoint left" not in (
                text := killed.with_suffix(".txt").read_text(errors="replace")
            ):
                raise RuntimeError(text[-4000:])
    # Its last start is left alone.
    while not is_done:
        process = start(killed, steps, cache)
        is_done = process.wait(PATIENCE) == 0
        if not is_done and process.returncode != 2:
            raise RuntimeError(killed.with_suffix(".txt").read_text(errors="replace")[-4000:])
    text = killed.with_suffix(".txt").read_text(errors="replace")
    return {
        "seed": seed,
        "steps": steps,
        "kills": len(done),
        "seconds": time.monotonic() - began,
        "seconds_alone": alone_seconds,
        "moments": dict(Counter(kill.moment for kill in done)),
        "signals": dict(Counter(kill.signal for kill in done)),
        "exit_codes": {
            name: dict(Counter(str(kill.code) for kill in done if kill.signal == name))
            for name in sorted({kill.signal for kill in done})
        },
        "bits_flipped": sum(kill.is_flipped for kill in done),
        "checkpoints_set_aside": text.count("skipping the checkpoint"),
        "resumed": text.count("resuming "),
        "rows": [kill._asdict() for kill in done],
    } | compare(alone, killed)


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
    left = [path for path in (killed / checkpoint.FOLDER).iterdir() if "tmp" in path.name]
    return {
        "arrays": len(ends[0]["arrays"]),
        "same_final_bits": ends[0]["arrays"] == ends[1]["arrays"],
        "same_log": logs[0] == logs[1],
        "log_rows": len(logs[0]),
        "same_best": ends[0]["best"] == ends[1]["best"],
        "best": ends[0]["best"],
        "half_written_left": len(left),
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
    return result["same_final_bits"] and result["same_log"] and result["same_best"]


def table(result: Mapping[str, Any]) -> str:
    """The result as plain text."""

    def listed(counts: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {number}" for name, number in counts.items())

    codes = "; ".join(f"{name}: {listed(c)}" for name, c in result["exit_codes"].items())
    rows = {
        "kills": f"{result['kills']} in {result['seconds']:.0f} s, seed {result['seed']}",
        "moments": listed(result["moments"]),
        "exit codes": codes,
        "bits flipped": f"{result['bits_flipped']}, checkpoints set aside: "
        f"{result['checkpoints_set_aside']}",
        "final state": f"{result['arrays']} arrays, "
        + ("equal" if result["same_final_bits"] else "NOT EQUAL"),
        "log": f"{result['log_rows']} rows, "
        + ("equal" if result["same_log"] else "NOT EQUAL"),
        "best": f"step {result['best'][0]}, "
        + ("equal" if result["same_best"] else "NOT EQUAL"),
    }
    return "\n".join(f"{name:<14}{text}" for name, text in rows.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, help="of the run; default: 15 a kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600, help="after which no more kills")
    parser.add_argument("--json", help="a file for all the figures")
    # A shell in the background ignores Ctrl-C, and so would all starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = parser.parse_args()
    steps = arguments.steps or 15 * arguments.kills
    with tempfile.TemporaryDirectory(prefix="bisenet_jax_soak_") as folder:
        result = soak(Path(folder), arguments.kills, steps, arguments.seed, arguments.seconds)
    print(table(result))
    if arguments.json:
        write_json(arguments.json, describe_machine() | result)
    return 0 if is_equal(result) else 1


if __name__ == "__main__":
    sys.exit(main())
