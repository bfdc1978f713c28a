"""The folder of a run: one process writes to it, and one configuration belongs to it."""

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bisenet_jax import config_file, distributed
from bisenet_jax.config import Config
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.errors import ConfigError, OutputError
from bisenet_jax.training import checkpoint
from bisenet_jax.training.trained_classes import keep_classes, require_classes, trained_classes

LOCK_FILE = "lock"

# What may differ between two starts of one run: nothing that changes its weights.
FREE_KEYS = distributed.HOST_KEYS | {
    *("config.train.log_every", "config.train.evaluate_every", "config.train.checkpoint_every"),
    *("config.train.keep_checkpoints", "config.train.evaluate_batch_size"),
}
# Of a file system that knows no locks.
_UNKNOWN = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def claim(workdir: Path, options: Config, start_step: int) -> Generator[None]:
    """Within the block the workdir is this run's; every process must enter it.

    Args:
        workdir: made if absent.
        options: one that differs from what the workdir holds is refused.
        start_step: of the newest checkpoint, as found before.

    Raises:
        ConfigError: where another run is at work or has just ended, or another configuration,
            or where the class file names other classes than when the run began.
        OutputError: where nothing can be written.
    """
    with _lock(workdir) if distributed.is_first() else _nothing():
        if (workdir / config_file.CONFIG_FILE).exists():
            _require_same(workdir, options)
            known = trained_classes(workdir, options.data)
            require_classes(str(workdir), known, options.data)
        distributed.require_same_run(options, start_step > 0)
        if distributed.is_first():
            if checkpoint.steps_made(workdir) != start_step:
                raise ConfigError(
                    f"another run in {workdir} has ended this moment; start again to go on "
                    "after its last checkpoint"
                )
            config_file.save(options, workdir)
            keep_classes(workdir, find_class_set(options.data.classes))
            checkpoint.tidy(workdir)
        distributed.require_shared(workdir / config_file.CONFIG_FILE)
        yield


def _require_same(workdir: Path, options: Config) -> None:
    changed = config_file.differences(config_file.load(workdir), options)
    changed = {key: pair for key, pair in changed.items() if key not in FREE_KEYS}
    if changed:
        listed = "; ".join(f"{key} {old!r}, now {new!r}" for key, (old, new) in changed.items())
        raise ConfigError(
            f"{workdir} holds a run with another configuration ({listed}): repeat its "
            "flags to resume it, or give another --workdir"
        )


@contextmanager
def _lock(workdir: Path) -> Generator[None]:
    """Held until the block or this process ends, whichever is first: the kernel sees to it."""
    path = workdir / LOCK_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); give another --workdir"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"another run is at work in {workdir} ({file.read().strip() or 'unknown'}): "
                "wait for its end, or give another --workdir"
            ) from error
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
            print(f"{workdir} cannot be locked ({error.strerror}): start no second run in it")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


@contextmanager
def _nothing() -> Generator[None]:
    yield
