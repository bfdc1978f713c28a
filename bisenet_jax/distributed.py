"""Several processes, on one host or many, that train or score as one.

They find each other by flags, or by what SLURM, Open MPI or Kubernetes tells. Each has its own
devices and its own share of the data; process 0 alone speaks and writes. None waits without
end: where one dies, falls silent or fails, the others stop, and the same command resumes.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from bisenet_jax import command_line, config_file, parallel
from bisenet_jax.config import Config
from bisenet_jax.errors import ConfigError, LostProcessError

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, for several processes; with the next two."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this one is, from 0 on.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Let SLURM, Open MPI or Kubernetes tell these three."
)
_JOIN_SECONDS = flags.DEFINE_integer(
    "join_seconds", 300, "How long to wait for all processes to start.", lower_bound=1
)
_HEARTBEAT_SECONDS = flags.DEFINE_integer(
    "heartbeat_seconds", 100, "Silence of a process after which all stop.", lower_bound=5
)

# May differ between hosts: where the data lies and how it is read.
HOST_KEYS = {
    *("config.data.root", "config.data.workers", "config.data.threads"),
    *("config.data.cache_dir", "config.data.prefetch_megabytes"),
}
# Of XLA's and gloo's messages, which have no class of their own.
_LOST = ("gloo", "nccl", "coordination", "connection closed", "connection reset", "barrier")
# A shared file system may show a new file late.
_PATIENCE_SECONDS = 60.0
# All may find the same fault, and jax aborts the others as soon as process 0 is gone.
_FAREWELL_SECONDS = 5.0
# Of signals: what C holds, Python must not collect.
_HANDLERS: list[Any] = []


def run(main: Callable[[], int | None], description: str) -> None:
    """Like `command_line.run`, as one of several processes where the flags say so."""
    command_line.run(partial(_run_as_member, main), description, end=_leave)


def join(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    *,
    is_detected: bool,
    join_seconds: int,
    heartbeat_seconds: int,
) -> None:
    """Become one of several processes; does nothing where nothing asks for it.

    Must come before the first use of a device.

    Args:
        coordinator: `HOST:PORT` of process 0, as all the others reach it.
        processes: how many there are.
        process: which one this is.
        is_detected: instead, the cluster's environment tells these three.
        join_seconds: how long to wait for the others.
        heartbeat_seconds: a process unheard of for longer is dead, and all the others end.

    Raises:
        ConfigError: for flags that do not fit together, or no known cluster.
    """
    given = [value for value in (coordinator, processes, process) if value is not None]
    if not given and not is_detected:
        return
    if is_detected == bool(given) or len(given) not in (0, 3):
        raise ConfigError(
            "--coordinator, --processes and --process belong together: give all three, or "
            "--distributed alone"
        )
    if coordinator is not None and processes is not None and process is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--coordinator {coordinator!r} must be HOST:PORT of process 0")
        if not 0 <= process < processes:
            raise ConfigError(
                f"--process {process} must be from 0 to {processes - 1}, one less than "
                f"--processes {processes}"
            )
    # jax's preemption service would swallow SIGTERM, by which schedulers and people end a run.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # In a SLURM job, too, the plain form means what its flags say.
            cluster_detection_method=None if is_detected else "deactivate",
            initialization_timeout=join_seconds,
            heartbeat_timeout_seconds=heartbeat_seconds,
            shutdown_timeout_seconds=heartbeat_seconds,
        )
    except ValueError as error:
        raise ConfigError(
            f"--distributed finds no cluster here ({error}): start by srun, mpirun or as an "
            "indexed Kubernetes job, or give --coordinator, --processes and --process"
        ) from error
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, as long as the process


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return jax.process_index() == 0


def require_same_run(options: Config, has_begun: bool) -> None:
    """Raise a ConfigError in every process unless all were started alike.

    Compared are the configurations, but for what may differ between hosts, and whether the
    workdir holds a checkpoint. Every process must call it.
    """
    own = json.dumps({"config": config_file.to_dict(options), "has_begun": has_begun})
    shares = parallel.gather_arrays({"run": np.frombuffer(own.encode(), np.uint8)})
    first, *others = [json.loads(share["run"].tobytes()) for share in shares]
    for process, other in enumerate(others, start=1):
        changed = config_file.differences(
            config_file.from_dict(first["config"]), config_file.from_dict(other["config"])
        )
        for key in changed.keys() - HOST_KEYS:
            here, there = changed[key]
            raise ConfigError(
                f"{key} is {here!r} in process 0 and {there!r} in process {process}: start "
                "all processes with the same flags"
            )
        if first["has_begun"] != other["has_begun"]:
            raise ConfigError(_unshared(process))


def require_shared(file: Path) -> None:
    """Raise a ConfigError unless every process sees a file that process 0 has written.

    Every process must call it.
    """
    # Until all have arrived, process 0 may not have written it yet.
    parallel.gather_arrays({})
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not file.exists() and time.monotonic() < give_up:
        time.sleep(0.2)
    if not file.exists():
        raise ConfigError(_unshared(jax.process_index()))


def _unshared(process: int) -> str:
    return (
        f"process {process} does not see in --workdir what process 0 sees: it must be a folder "
        "that all hosts share"
    )


def _run_as_member(main: Callable[[], int | None]) -> int | None:
    join(
        _COORDINATOR.value,
        _PROCESSES.value,
        _PROCESS.value,
        is_detected=_DISTRIBUTED.value,
        join_seconds=_JOIN_SECONDS.value,
        heartbeat_seconds=_HEARTBEAT_SECONDS.value,
    )
    if not jax.distributed.is_initialized():
        return main()
    try:
        return main()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        if any(word in reason.lower() for word in _LOST):
            raise LostProcessError(
                f"process {jax.process_index()} of {jax.process_count()} lost another one "
                f"({reason[:200]}): its own output says why; the same commands start all "
                "again, from the last checkpoint"
            ) from error
        traceback.print_exc()
        return 1


def _leave(code: int) -> None:
    """End the process. A failed one does not wait for the others, who would wait for it."""
    if code and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            _let_abort_end_with(code)
            time.sleep(_FAREWELL_SECONDS)
        os._exit(code)
    sys.exit(code)


def _let_abort_end_with(code: int) -> None:
    """From now on an abort of any thread ends the process with this exit code.

    In process 0, while the others hear that one is lost, jax's own thread hears it, too, and
    aborts. Python's handlers run in the main thread only, which abort does not wait for.
    """
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: os._exit(code))
    _HANDLERS.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
