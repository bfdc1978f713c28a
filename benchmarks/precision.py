"""Whether training in bfloat16 reaches what float32 reaches: three seeds each, in turns.

    python -m benchmarks.precision [FILE.json]

A narrow network on small synthetic streets, minutes on two CPU cores; scored on the whole
validation split in the dtype that it was trained in.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.machine import describe_machine
from bisenet_jax import parallel
from bisenet_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from bisenet_jax.data.classes import CITYSCAPES
from bisenet_jax.data.example import Example
from bisenet_jax.data.synthetic import SyntheticStreets
from bisenet_jax.evaluation.evaluate import evaluate, make_evaluate_step
from bisenet_jax.evaluation.metrics import scores
from bisenet_jax.files import write_json
from bisenet_jax.model.presets import build_model
from bisenet_jax.normalization import Normalization
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import TrainState, create_state
from bisenet_jax.training.step import Batch, make_train_step

CLASSES = len(CITYSCAPES)
DTYPES = ("float32", "bfloat16")
SEEDS = (0, 1, 2)


def make_config(dtype: str) -> Config:
    return Config(
        model=ModelConfig(
            detail_channels=(16, 16, 32),
            semantic_late_channels=(16, 32),
            semantic_repeats=(1, 1, 2),
            expansion=4,
            head_channels=32,
            booster_channels=(16, 16, 16, 16),
            dtype=dtype,
        ),
        data=DataConfig(height=64, width=128, train_images=200, val_images=60),
        augment=AugmentConfig(crop_height=64, crop_width=128, scales=(1.0, 1.25)),
        optimizer=OptimizerConfig(warmup_steps=30),
        train=TrainConfig(steps=240, batch_size=4),
    )


def draw_streets(data: DataConfig) -> tuple[list[Example], list[Example]]:
    """Training and validation frames, once for all runs."""

    def draw(images: int, seed: int) -> list[Example]:
        source = SyntheticStreets(
            images=images, height=data.height, width=data.width, seed=seed
        )
        return [source[index] for index in range(images)]

    return draw(data.train_images, seed=0), draw(data.val_images, seed=1)


def make_trainer(
    config: Config, streets: list[Example], validation: list[Example]
) -> Callable[[int], dict[str, Any]]:
    """The function from a seed to the score of a run from scratch; it compiles once."""
    model = build_model(num_classes=CLASSES, **dataclasses.asdict(config.model))
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    mesh = parallel.make_mesh(jax.devices()[:1])
    normalization = Normalization(config.data.mean, config.data.std)
    evaluate_step = make_evaluate_step(model, normalization, mesh)
    size = np.array([config.data.height, config.data.width], np.int32)
    sizes = np.tile(size, (config.train.batch_size, 1))

    def seeded_step(state: TrainState, batch: Batch, seed: Any) -> Any:
        seeded = dataclasses.replace(config.train, seed=seed)
        step = make_train_step(model, optimizer, dataclasses.replace(config, train=seeded))
        return step(state, batch)

    step = jax.jit(seeded_step, donate_argnums=0)

    def train(seed: int) -> dict[str, Any]:
        state = create_state(model, optimizer, seed)
        generator = np.random.default_rng(seed)
        losses = []
        for _ in range(config.train.steps):
            chosen = [streets[i] for i in generator.integers(0, len(streets), len(sizes))]
            images = np.stack([example["image"] for example in chosen])
            labels = np.stack([example["label"] for example in chosen])
            state, metrics = step(
                state, {"image": images, "label": labels, "size": sizes}, seed
            )
            losses.append(float(metrics["loss"]))
        evaluation = evaluate(
            evaluate_step,
            state.variables,
            validation,
            num_classes=CLASSES,
            batch_size=4,
            mesh=mesh,
        )
        result = scores(evaluation.confusion)
        return {
            "dtype": config.model.dtype,
            "seed": seed,
            "miou": result.miou,
            "pixel_accuracy": result.pixel_accuracy,
            "mean_of_last_losses": statistics.mean(losses[-20:]),
        }

    return train


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, and whether they differ by less than the seeds of float32 alone do."""
    single, half = ([row["miou"] for row in rows if row["dtype"] == dtype] for dtype in DTYPES)
    difference = statistics.mean(half) - statistics.mean(single)
    spread = max(single) - min(single)
    return {
        "mean_miou": {"float32": statistics.mean(single), "bfloat16": statistics.mean(half)},
        "difference": difference,
        "float32_spread": spread,
        "is_within_spread": abs(difference) <= spread,
    }


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    configs = {dtype: make_config(dtype) for dtype in DTYPES}
    data = draw_streets(configs["float32"].data)
    trainers = {dtype: make_trainer(configs[dtype], *data) for dtype in DTYPES}
    rows = []
    for seed in SEEDS:
        for dtype in DTYPES:
            row = trainers[dtype](seed)
            print(f"{dtype:<10}seed {seed}  mIoU {100 * row['miou']:.2f} %", flush=True)
            rows.append(row)
    found = compare(rows)
    print(
        f"bfloat16 - float32: {100 * found['difference']:+.2f} points of the mean; the seeds "
        f"of float32 span {100 * found['float32_spread']:.2f}"
    )
    if len(sys.argv) == 2:
        settings = dataclasses.asdict(configs["float32"])
        write_json(sys.argv[1], describe_machine() | found | {"config": settings, "rows": rows})


if __name__ == "__main__":
    main()
