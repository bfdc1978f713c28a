"""How fast training frames reach the step: images/s, waiting, decoding and memory by workers.

Two consumers: a step that takes no time, which shows the loader alone, and the augmentation of
the configuration on the device, which on a CPU competes with the loader for its cores.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import psutil

from bisenet_jax.config import Config
from bisenet_jax.data.example import Batch, Example, Source
from bisenet_jax.data.sources import open_batches, open_sampler, open_training_source
from bisenet_jax.normalization import Normalization
from bisenet_jax.processors import available_processors
from bisenet_jax.training.augment import augment

CONSUMERS = ("instant step", "scale and crop")
WARM_UP_SECONDS = 2.0
PROTOCOL = (
    "A row streams training batches in the run's own order, after a warm-up outside the timer, "
    "from files that the system has in memory as far as they fit. 'instant step' takes a batch "
    "and asks for the next; 'scale and crop' puts it on the device and runs the "
    "configuration's augmentation there, one batch in flight. wait: share of the time spent "
    "waiting for a batch. decode: share of all usable cores' time spent in reading and "
    "decoding, by each thread's own clock. MiB: peak of the proportional set size of this "
    "process and its workers."
)


class TimedSource:
    """The same examples, but each is named after the processor seconds that it took to read."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        began = time.thread_time()
        example = self.source[index]
        example["name"] = repr(time.thread_time() - began)
        return example


def measure_loader(
    config: Config, workers: list[int], seconds: float, progress: Callable[[], object]
) -> list[dict[str, Any]]:
    """One row for each consumer and number of workers, in turns; `progress` after each."""
    source = TimedSource(open_training_source(config.data))
    rows = []
    for count in workers:
        for consumer in CONSUMERS:
            config.data.workers = count
            rows.append({"workers": count} | _measure(config, source, consumer, seconds))
            progress()
    return rows


def _measure(config: Config, source: Source, consumer: str, seconds: float) -> dict[str, Any]:
    batches = open_batches(config, source, open_sampler(config.data, source))
    consume = _augmentation(config) if consumer == CONSUMERS[1] else _nothing
    memory = PeakMemory()
    try:
        started = time.monotonic()
        frame = next(batches)["image"].shape[1:3]
        while time.monotonic() - started < WARM_UP_SECONDS:
            consume(next(batches))
        images, waited, decoding = 0, 0.0, 0.0
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            consume(batch)
            images += len(batch["name"])
            decoding += sum(map(float, batch["name"]))
        took = time.monotonic() - began
    finally:
        batches.close()
    return {
        "consumer": consumer,
        "threads": config.data.threads,
        "batch": config.train.batch_size,
        "frame": list(frame),
        "cache": config.data.cache,
        "images": images,
        "seconds": took,
        "images_per_second": images / took,
        "wait_share": waited / took,
        "decode_share": decoding / took / available_processors(),
        "decode_ms": 1000 * decoding / max(images, 1),
        "memory_bytes": memory.stop(),
    }


def _nothing(batch: Batch) -> None:
    del batch


def _augmentation(config: Config) -> Callable[[Batch], None]:
    """Augments a batch, and waits for the one before."""
    normalization = Normalization(config.data.mean, config.data.std)
    view = jax.jit(
        lambda images, labels, sizes: augment(
            jax.random.key(0), images, labels, sizes, config.augment, normalization
        )
    )
    in_flight: list[Any] = []

    def consume(batch: Batch) -> None:
        arrays = jax.device_put((batch["image"], batch["label"], batch["size"]))
        in_flight.append(view(*arrays))
        if len(in_flight) > 1:
            jax.block_until_ready(in_flight.pop(0))

    return consume


class PeakMemory:
    """Watches the memory of this process and its children from its making to `stop`."""

    def __init__(self) -> None:
        self._peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        """The peak so far, in bytes."""
        self._done.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        this = psutil.Process()
        while True:
            sizes = [_proportional_bytes(each) for each in (this, *this.children(True))]
            self._peak = max(self._peak, int(np.sum(sizes)))
            if self._done.wait(0.2):
                return


def _proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process, what it shares with others divided by their number."""
    try:
        full = process.memory_full_info()
        return getattr(full, "pss", full.uss)
    except psutil.Error:
        return 0


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as plain text."""
    lines = [
        f"{'workers':>7}  {'consumer':<15}{'images/s':>9}{'wait %':>8}{'decode %':>10}"
        f"{'decode ms':>11}{'MiB':>8}"
    ]
    lines.append("-" * len(lines[0]))
    for row in rows:
        lines.append(
            f"{row['workers']:>7}  {row['consumer']:<15}{row['images_per_second']:>9.1f}"
            f"{100 * row['wait_share']:>8.1f}{100 * row['decode_share']:>10.1f}"
            f"{row['decode_ms']:>11.1f}{row['memory_bytes'] / 2**20:>8.0f}"
        )
    return "\n".join(lines)
