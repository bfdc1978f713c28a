"""The validation split in the midst of a training, scored as evaluate.py does."""

from contextlib import closing

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from bisenet_jax import distributed, parallel
from bisenet_jax.config import Config
from bisenet_jax.data.class_sets import find_class_set
from bisenet_jax.data.example import Example, Source, name_of
from bisenet_jax.data.loader import evaluation_examples
from bisenet_jax.data.sources import where
from bisenet_jax.evaluation.evaluate import EvaluateStep, evaluate
from bisenet_jax.evaluation.metrics import Scores, scores
from bisenet_jax.fast.network import FastNetwork
from bisenet_jax.panels import comparison
from bisenet_jax.protocol import protocol_of_scale
from bisenet_jax.training.pace import waiting, watch_each
from bisenet_jax.training.state import TrainState
from bisenet_jax.training.stop import Stop


def score(
    network: FastNetwork,
    step: EvaluateStep,
    state: TrainState,
    source: Source,
    options: Config,
    mesh: Mesh,
    stop: Stop,
) -> tuple[Scores, np.ndarray | None]:
    """Scores on the whole validation split, and a picture of this process's first example.

    Raises:
        Stopped: where the run is asked to end before.
    """
    class_set = find_class_set(options.data.classes)
    pictures: list[np.ndarray] = []

    def keep_first(example: Example, prediction: np.ndarray) -> None:
        if not pictures:
            image, label = example["image"], example["label"]
            pictures.append(comparison(image, prediction, label, class_set))

    parameters = network.parameters_of(parallel.local_copy(state.result))
    process, count = jax.process_index(), jax.process_count()
    examples = evaluation_examples(
        source, threads=options.data.threads, process_index=process, process_count=count
    )
    total, is_silent = len(range(process, len(source), count)), not distributed.is_first()

    def tell(place: int, seconds: float) -> None:
        name = name_of(source, process + place * count)
        tqdm.write(f"evaluation: {waiting(seconds, f'{name} of {where(options.data)}')}")

    with (
        closing(examples),
        tqdm(
            watch_each(examples, tell),
            "evaluate",
            total,
            leave=False,
            unit="image",
            disable=is_silent,
        ) as bar,
    ):
        evaluation = evaluate(
            step,
            parallel.replicate(parameters, mesh),
            stop.until_asked(bar),
            num_classes=len(class_set),
            batch_size=options.train.evaluate_batch_size,
            mesh=mesh,
            protocol=protocol_of_scale(options.augment.input_scale),
            visit=keep_first,
        )
    return scores(evaluation.confusion), pictures[0] if pictures else None
