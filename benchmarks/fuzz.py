"""Damaged and lying files by the thousand through every reader: none may crash, hang or swell.

    python -m benchmarks.fuzz --seconds 300 --json benchmarks/results/cpu_fuzz.json
    python -m benchmarks.fuzz --kinds picture,weights --cases 200

Each reader runs in a process of its own with little memory to spare. A file is either read or
refused with a UserError; everything else is a bug, which is printed with the number that makes
the file anew. Exit codes: 0 no bug, 1 bugs.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.fuzz_files import KINDS, make_kind
from benchmarks.fuzz_mutations import mutate
from bisenet_jax import command_line
from bisenet_jax.errors import ConfigError, UserError
from bisenet_jax.files import write_json

MEMORY = 2**31  # bytes that a reader may take beyond what the process has when it is ready
CASE_SECONDS = 60.0  # for one file; a busy machine is slow
START_SECONDS = 120.0  # for imports and samples
READ, REFUSED = "read", "refused"


def define_flags() -> None:
    flags.DEFINE_list("kinds", list(KINDS), "Which readers.")
    flags.DEFINE_float("seconds", 300, "For all together.", lower_bound=1)
    flags.DEFINE_integer("cases", None, "Instead: files for each reader.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of the damage.", lower_bound=0)
    flags.DEFINE_string("json", None, "File for the outcomes.")
    flags.DEFINE_string("child", None, "Used inside: the reader of this process.")
    flags.DEFINE_integer("first", 0, "Used inside: its first file.")
    flags.DEFINE_string("folder", None, "Used inside: where it makes them.")


def main() -> int:
    values = flags.FLAGS
    if unknown := sorted(set(values.kinds) - KINDS.keys()):
        raise ConfigError(f"--kinds {unknown[0]!r} is not known; choose from {list(KINDS)}")
    if values.child:
        read_files(values.child, values.seed, values.first, Path(values.folder))
        return 0
    # Ends like an exception, which cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = {}
    for kind in values.kinds:
        seconds = values.seconds / len(values.kinds)
        outcomes, bugs = fuzz(kind, values.seed, seconds, values.cases)
        results[kind] = {"files": sum(outcomes.values()), **outcomes, "bugs": bugs}
        print(f"{kind}: {dict(outcomes)}", flush=True)
        for bug in bugs:
            print(f"  bug in file {bug['file']}: {bug['outcome']}", flush=True)
    if values.json:
        from benchmarks.machine import describe_machine

        limits = {"memory_bytes": MEMORY, "seconds_per_file": CASE_SECONDS}
        about = describe_machine() | {"seed": values.seed, "limits": limits}
        write_json(values.json, about | {"readers": results})
    return int(any(result["bugs"] for result in results.values()))


def fuzz(
    kind: str, seed: int, seconds: float, cases: int | None = None
) -> tuple[Counter[str], list[dict[str, Any]]]:
    """How often a reader did what, and each bug: the number of its file and what it ended in.

    Args:
        kind: a name of `KINDS`.
        seed: of the damage.
        seconds: to spend once the reader is ready.
        cases: instead, how many files.
    """
    # Made here, as a reader that is ended cannot remove it.
    with tempfile.TemporaryDirectory(prefix="bisenet_jax_fuzz_") as folder:
        return _fuzz(kind, seed, seconds, cases, folder)


def _fuzz(
    kind: str, seed: int, seconds: float, cases: int | None, folder: str
) -> tuple[Counter[str], list[dict[str, Any]]]:
    outcomes: Counter[str] = Counter()
    bugs: list[dict[str, Any]] = []
    file, deadline, is_over = 0, None, False
    while not is_over:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--child", kind]
        command += ["--seed", str(seed), "--first", str(file)]
        command += ["--folder", tempfile.mkdtemp(dir=folder)]
        # Without a buffer: in one, lines would lie that select cannot see.
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        assert child.stdout is not None
        patience = START_SECONDS
        try:
            while True:
                outcome = _next_line(child, patience)
                if outcome == "ready":
                    patience = CASE_SECONDS
                    deadline = deadline or time.monotonic() + seconds
                    continue
                if patience == START_SECONDS:
                    raise RuntimeError(f"the reader of {kind} does not start: {outcome}")
                outcomes[outcome if outcome in (READ, REFUSED) else "bug"] += 1
                if outcome not in (READ, REFUSED):
                    bugs.append({"file": file, "outcome": outcome})
                file += 1
                is_over = file >= cases if cases else time.monotonic() > (deadline or 0)
                if is_over or outcome.startswith(("hangs", "ends")):
                    break
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
    return outcomes, bugs


def _next_line(child: subprocess.Popen[bytes], patience: float) -> str:
    assert child.stdout is not None
    waits = 0
    # In short waits: where this process was stopped for a while, the reader was as well.
    while not select.select([child.stdout], [], [], 1.0)[0]:
        waits += 1
        if waits >= patience:
            return f"hangs for {patience:g} s"
    line = child.stdout.readline().decode().strip()
    return line or f"ends the process with {child.wait()}"


def read_files(kind: str, seed: int, first: int, folder: Path) -> None:
    """Make and read one file after the other, and print a line of what came of each."""
    # The lines go where nothing that a library prints can get between them.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    samples, read = make_kind(kind, folder)
    for path in samples:
        read(path)  # loads whatever is loaded late
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    print("ready", file=answers)
    contents = [path.read_bytes() for path in samples]
    while True:
        random = np.random.default_rng([seed, first])
        which = int(random.integers(len(samples)))
        path = samples[which]
        path.write_bytes(mutate(path.suffix, contents[which], contents, random))
        print(_outcome(read, path), file=answers)
        path.write_bytes(contents[which])
        first += 1


def _outcome(read: Any, path: Path) -> str:
    try:
        read(path)
    except UserError as error:
        # A message without words, or of several lines, is a bug as well.
        text = str(error)
        return REFUSED if text.strip() and "\n" not in text else f"message {text!r}"[:300]
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return json.dumps(f"raises {type(error).__name__}: {error}")[:300]
    return READ


if __name__ == "__main__":
    define_flags()
    command_line.run(main, __doc__)
