"""Examples from any source, decoded ahead of the training step by threads or processes.

Everything random is a function of `(seed, step)`: the number of threads and workers, the
number of processes and the step a run resumes at change no batch.
"""

import atexit
import signal
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakSet

import grain
import numpy as np
from absl import flags

from bisenet_jax.data.classes import IGNORE
from bisenet_jax.data.example import Batch, Example, Source, name_of
from bisenet_jax.data.workers import follow_parent
from bisenet_jax.errors import ConfigError, DataError

# From a seed to an endless order of indices.
Sampler = Callable[[int], grain.MapDataset]

LARGEST_PREFETCH = 16  # batches; more only take memory


def training_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    threads: int = 2,
    prefetch_bytes: int = 1 << 30,
    canvas: tuple[int, int] | None = None,
    sampler: Sampler | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Batches without end from `start_step` on, in a new order each epoch; close it after use.

    Args:
        batch_size: examples of a batch over all processes; an epoch's end may lie within one.
        workers: processes that decode, 0 for none, which is mostly faster: threads decode in
            parallel too and spare the copies through shared memory (`/dev/shm`, which
            containers keep small). Workers are spawned, so that the main script needs
            `if __name__ == "__main__":`.
        threads: decoding threads, in each worker if there are any; 0 decodes in the caller.
        prefetch_bytes: of decoded batches, finished or in the making; one batch at least.
        canvas: height and width that every frame is laid on, its rest ignored; None if all
            frames of a batch have one size.
        sampler: which example stands at which place; by default each once per epoch.
        process_index: which contiguous share of each batch to read when several processes
            train together.
    """
    _check_share(process_index, process_count)
    _check_at_least(1, batch_size=batch_size, prefetch_bytes=prefetch_bytes)
    _check_at_least(0, seed=seed, start_step=start_step, workers=workers, threads=threads)
    if batch_size % process_count:
        raise ConfigError(
            f"batch_size {batch_size} must be divisible by {process_count} processes; choose "
            f"{batch_size - batch_size % process_count or process_count}"
        )
    if not len(source):
        raise DataError("the training split holds no examples; check its folder")
    order = shuffled(len(source), seed) if sampler is None else sampler(seed)
    share = batch_size // process_count
    reader = _BatchReader(source, process_index * share, share, canvas, threads)

    def open_dataset() -> grain.IterDataset:
        in_all = prefetch_bytes // reader.batch_bytes() // max(workers, 1)
        ahead = min(max(in_all, 1), LARGEST_PREFETCH) if threads else 0
        # Nothing is dropped from an endless order, but only so does grain count in integers.
        batches = order.batch(batch_size, drop_remainder=True)[start_step:].map(reader)
        # Two in the making, so that the decoding threads do not idle at the end of one.
        options = grain.ReadOptions(num_threads=min(2, ahead), prefetch_buffer_size=ahead)
        dataset = batches.to_iter_dataset(options)
        return _in_workers(dataset, workers) if workers else dataset

    return _stream(open_dataset, shared=workers > 0)


def batch_names(
    source: Source,
    order: grain.MapDataset,
    step: int,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> list[str]:
    """The names in this process's share of the batch of a step, from 1 on; reads nothing.

    Args:
        order: a sampler's, of the seed that the batches have.
    """
    share = batch_size // process_count
    first = (step - 1) * batch_size + process_index * share
    indices = np.array([order[first + place] for place in range(share)], int)
    return [name_of(source, int(index)) for index in indices]


def shuffled(count: int, seed: int) -> grain.MapDataset:
    """Indices below `count` without end: each once per epoch, every epoch in another order."""
    # grain shuffles epoch e by seed + e: without spreading, seed 1 would repeat seed 0.
    order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    return grain.MapDataset.range(count).shuffle(order_seed).repeat()


def evaluation_examples(
    source: Source,
    *,
    start: int = 0,
    threads: int = 2,
    examples_ready: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Example, None, None]:
    """Each example from `start` on once and in order, decoded ahead; close it after use.

    With several processes, each reads every `process_count`-th example.
    """
    _check_share(process_index, process_count)
    _check_at_least(1, examples_ready=examples_ready)
    _check_at_least(0, start=start, threads=threads)
    dataset = grain.MapDataset.source(source)[start + process_index :: process_count]
    # grain's own buffer of 500 elements would be gigabytes of pictures.
    ahead = threads + examples_ready if threads else 0
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return _stream(lambda: dataset.to_iter_dataset(options))


@dataclass(frozen=True)
class _BatchReader:
    """Reads this process's share of a batch; a function of the indices alone."""

    source: Source
    start: int
    count: int
    canvas: tuple[int, int] | None
    threads: int

    def __call__(self, indices: np.ndarray) -> Batch:
        chosen = [int(index) for index in indices[self.start : self.start + self.count]]
        run = _decoding_threads(self.threads).map if self.threads else map
        examples = list(run(self.source.__getitem__, chosen))
        height, width = self.canvas or self._common_size(examples)
        image = np.zeros((self.count, height, width, 3), np.uint8)
        label = np.full((self.count, height, width), IGNORE, np.uint8)
        size = np.zeros((self.count, 2), np.int32)

        def lay(place: int, example: Example) -> None:
            rows, columns = size[place] = example["label"].shape
            if rows > height or columns > width:
                raise DataError(
                    f"{example['name']} is {_size(example)}, larger than the canvas of "
                    f"{width}x{height}; raise config.data.canvas_height and canvas_width"
                )
            image[place, :rows, :columns] = example["image"]
            label[place, :rows, :columns] = example["label"]

        list(run(lay, range(self.count), examples))
        names = [example["name"] for example in examples]
        return {"image": image, "label": label, "size": size, "name": names}

    def batch_bytes(self) -> int:
        """What one batch holds in memory, from the canvas or the first example."""
        height, width = self.canvas or self.source[0]["label"].shape
        return self.count * height * width * 4

    def _common_size(self, examples: list[Example]) -> tuple[int, int]:
        first = examples[0]
        for example in examples:
            if example["image"].shape != first["image"].shape:
                raise DataError(
                    f"{first['name']} is {_size(first)}, but {example['name']} is "
                    f"{_size(example)}; all pictures of a batch must have one size: set "
                    "config.data.canvas_height and canvas_width to the largest (data.check "
                    "prints it), or resize the data set to one"
                )
        height, width = first["label"].shape
        return height, width


@lru_cache(maxsize=1)
def _decoding_threads(count: int) -> ThreadPoolExecutor:
    """One pool for each process, since all batches in the making share its processors."""
    return ThreadPoolExecutor(count, "decode")


def _size(example: Example) -> str:
    height, width = example["image"].shape[:2]
    return f"{width}x{height}"


def _in_workers(dataset: grain.IterDataset, workers: int) -> grain.IterDataset:
    # grain reads this flag, which raises where no command line was parsed, as in a notebook.
    profiling = "grain_enable_multiprocess_worker_profiling"
    if profiling in flags.FLAGS:
        flags.FLAGS[profiling].present = True
    options = grain.MultiprocessingOptions(num_workers=workers)
    return dataset.mp_prefetch(options, worker_init_fn=_follow_parent)


def _follow_parent(index: int, count: int) -> None:
    del index, count
    follow_parent()
    # Schedulers send these to all processes; the run decides when its frames end.
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


_OPEN_STREAMS: WeakSet[Generator[Any, None, None]] = WeakSet()


def _stream(
    open_dataset: Callable[[], grain.IterDataset], *, shared: bool = False
) -> Generator[Any, None, None]:
    stream = _elements(open_dataset, shared)
    _OPEN_STREAMS.add(stream)
    return stream


def _elements(
    open_dataset: Callable[[], grain.IterDataset], shared: bool
) -> Generator[Any, None, None]:
    iterator = iter(open_dataset())
    try:
        yield from map(_own, iterator) if shared else iterator
    except RuntimeError as error:
        # grain's own words: it has no class for the end of a worker.
        if "Worker process was terminated" not in str(error):
            raise
        raise DataError(
            f"a loader process was ended from outside ({error}): often for lack of memory; "
            "lower config.data.workers or config.data.prefetch_megabytes"
        ) from error
    finally:
        iterator.close()


def _own(batch: Batch) -> Batch:
    """Copies a batch out of shared memory, which is scarce and must not outlive the stream."""
    image, label, size = (np.array(batch[name]) for name in ("image", "label", "size"))
    return {"image": image, "label": label, "size": size, "name": batch["name"]}


@atexit.register
def _close_open_streams() -> None:
    """A stream left open must end before the modules that it needs for its end do."""
    for stream in list(_OPEN_STREAMS):
        # A generator that another thread is inside of cannot be closed; it ends with us.
        with suppress(ValueError):
            stream.close()


def _check_share(process_index: int, process_count: int) -> None:
    _check_at_least(1, process_count=process_count)
    if not 0 <= process_index < process_count:
        raise ConfigError(
            f"process_index {process_index} must be from 0 to process_count - 1 = "
            f"{process_count - 1}"
        )


def _check_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{name} {value} must be at least {least}; raise it")
