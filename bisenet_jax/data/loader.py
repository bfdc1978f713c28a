"""Examples from any source, decoded ahead of the training step by threads or processes.

Everything random is a function of `(seed, step)`: the number of threads and workers, the
number of processes and the step a run resumes at change no batch.
"""

import atexit
import os
import signal
import threading
from collections.abc import Generator
from contextlib import suppress
from functools import partial
from multiprocessing import parent_process
from typing import Any
from weakref import WeakSet

import grain
import numpy as np
from absl import flags

from bisenet_jax.data.example import Batch, Example, Source
from bisenet_jax.errors import ConfigError, DataError


def training_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    workers: int = 0,
    threads: int = 2,
    batches_ready: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Batches without end from `start_step` on, in a new order each epoch; close it after use.

    Args:
        batch_size: examples of a batch over all processes; an epoch's end may lie within one.
        workers: processes that decode, 0 for none, which is mostly faster: decoding in threads
            runs in parallel too, and a worker's batches are copied through shared memory
            (`/dev/shm`, which containers keep small). Workers are spawned, so the main script
            needs `if __name__ == "__main__":`.
        threads: decoding threads, in each worker if there are any; 0 decodes in the caller.
        batches_ready: finished batches kept waiting, beside one in the making per thread.
        process_index: which contiguous share of each batch to read when several processes
            train together.
    """
    _check_share(process_index, process_count)
    _check_at_least(1, batch_size=batch_size, batches_ready=batches_ready)
    _check_at_least(0, seed=seed, start_step=start_step, workers=workers, threads=threads)
    if batch_size % process_count:
        raise ConfigError(
            f"batch_size {batch_size} must be divisible by {process_count} processes; choose "
            f"{batch_size - batch_size % process_count or process_count}"
        )
    if not len(source):
        raise DataError("the training split holds no examples; check its folder")
    share = batch_size // process_count
    # grain shuffles epoch e by seed + e: without spreading, seed 1 would repeat seed 0.
    order_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    order = grain.MapDataset.range(len(source)).shuffle(order_seed).repeat()
    # Nothing is dropped from an endless order, but only so does grain count it in integers.
    order = order.batch(batch_size, drop_remainder=True)
    read = partial(_read_batch, source, process_index * share, (process_index + 1) * share)
    dataset = order[start_step:].map(read).to_iter_dataset(_ahead(threads, batches_ready))
    if workers:
        return _stream(_in_workers(dataset, workers), shared=True)
    return _stream(dataset)


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
    return _stream(dataset.to_iter_dataset(_ahead(threads, examples_ready)))


def _read_batch(source: Source, start: int, stop: int, indices: np.ndarray) -> Batch:
    """Examples `indices[start:stop]`, stacked; they must have one size."""
    examples = [source[int(index)] for index in indices[start:stop]]
    first = examples[0]
    for example in examples:
        if example["image"].shape != first["image"].shape:
            raise DataError(
                f"{first['name']} is {_size(first)}, but {example['name']} is "
                f"{_size(example)}; all pictures of a batch must have one size: resize the "
                "data set to one, or use batch_size 1"
            )
    return {
        "image": np.stack([example["image"] for example in examples]),
        "label": np.stack([example["label"] for example in examples]),
        "name": [example["name"] for example in examples],
    }


def _size(example: Example) -> str:
    height, width = example["image"].shape[:2]
    return f"{width}x{height}"


def _ahead(threads: int, ready: int) -> grain.ReadOptions:
    """grain's own buffer of 500 elements would be gigabytes of pictures."""
    return grain.ReadOptions(
        num_threads=threads, prefetch_buffer_size=threads + ready if threads else 0
    )


def _in_workers(dataset: grain.IterDataset, workers: int) -> grain.IterDataset:
    # grain reads this flag, which raises where no command line was parsed, as in a notebook.
    profiling = "grain_enable_multiprocess_worker_profiling"
    if profiling in flags.FLAGS:
        flags.FLAGS[profiling].present = True
    options = grain.MultiprocessingOptions(num_workers=workers)
    return dataset.mp_prefetch(options, worker_init_fn=_follow_parent)


def _follow_parent(index: int, count: int) -> None:
    """Lets a worker end with its parent, and only then: however the parent ends, in silence."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait_for_parent() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


_OPEN_STREAMS: WeakSet[Generator[Any, None, None]] = WeakSet()


def _stream(dataset: grain.IterDataset, *, shared: bool = False) -> Generator[Any, None, None]:
    stream = _elements(dataset, shared)
    _OPEN_STREAMS.add(stream)
    return stream


def _elements(dataset: grain.IterDataset, shared: bool) -> Generator[Any, None, None]:
    iterator = iter(dataset)
    try:
        yield from map(_own, iterator) if shared else iterator
    finally:
        iterator.close()


def _own(batch: Batch) -> Batch:
    """Copies a batch out of shared memory, which is scarce and must not outlive the stream."""
    image, label = np.array(batch["image"]), np.array(batch["label"])
    return {"image": image, "label": label, "name": batch["name"]}


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
