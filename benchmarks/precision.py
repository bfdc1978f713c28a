"""Whether training in bfloat16 reaches what float32 reaches: three seeds each, side by side.

    python -m benchmarks.precision [FILE.json]

A narrow network on small synthetic streets, minutes on two CPU cores; scored on the whole
validation split in the dtype that it was trained in.
"""

import dataclasses
import statistics
import sys
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
from bisenet_jax.training.state import create_state
from bisenet_jax.training.step import make_train_step

CLASSES = len(CITYSCAPES)
DTYPES = ("float32", "bfloat16")
SEEDS = (0, 1, 2)


def make_config(dtype: str, seed: int) -> Config:
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
        data=DataConfig(height=64, width=128, train_images=400, val_images=100),
        augment=AugmentConfig(crop_height=64, crop_width=128, scales=(1.0, 1.25)),
        optimizer=OptimizerConfig(warmup_steps=30),
        train=TrainConfig(steps=400, batch_size=8, seed=seed),
    )


def draw_streets(data: DataConfig) -> tuple[list[Example], list[Example]]:
    """Training and validation frames, once for all runs."""
    sizes = {"height": data.height, "width": data.width}
    return tuple(
        list(
            map(SyntheticStreets(images=images, seed=seed, **sizes).__getitem__, range(images))
        )
        for seed, images in enumerate((data.train_images, data.val_images))
    )


def train(config: Config, streets: list[Example], validation: list[Example]) -> dict[str, Any]:
    """One run from scratch to its score."""
    model = build_model(num_classes=CLASSES, **dataclasses.asdict(config.model))
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = parallel.compile_train_step(make_train_step(model, optimizer, config), mesh)
    state = parallel.replicate(create_state(model, optimizer, config.train.seed), mesh)
    generator = np.random.default_rng(config.train.seed)
    sizes = np.tile(
        np.array([config.data.height, config.data.width], np.int32),
        (config.train.batch_size, 1),
    )
    loss = float("nan")
    for _ in range(config.train.steps):
        chosen = [streets[i] for i in generator.integers(0, len(streets), len(sizes))]
        batch = {name: np.stack([e[name] for e in chosen]) for name in ("image", "label")}
        state, metrics = step(state, parallel.split_batch(batch | {"size": sizes}, mesh))
        loss = float(metrics["loss"])

    normalization = Normalization(config.data.mean, config.data.std)
    evaluation = evaluate(
        make_evaluate_step(model, normalization, mesh),
        state.variables,
        validation,
        num_classes=CLASSES,
        batch_size=4,
        mesh=mesh,
    )
    result = scores(evaluation.confusion)
    return {
        "dtype": config.model.dtype,
        "seed": config.train.seed,
        "miou": result.miou,
        "pixel_accuracy": result.pixel_accuracy,
        "last_loss": loss,
    }


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
    config = make_config("float32", 0)
    streets, validation = draw_streets(config.data)
    rows = []
    # Dtypes in turns, so that what disturbs the machine meets both.
    for seed in SEEDS:
        for dtype in DTYPES:
            rows.append(train(make_config(dtype, seed), streets, validation))
            row = rows[-1]
            print(f"{dtype:<10}seed {seed}  mIoU {100 * row['miou']:.2f} %", flush=True)
    found = compare(rows)
    print(
        f"bfloat16 - float32: {100 * found['difference']:+.2f} points of the mean; the seeds of "
        f"float32 span {100 * found['float32_spread']:.2f}"
    )
    if len(sys.argv) == 2:
        settings = dataclasses.asdict(config)
        write_json(sys.argv[1], describe_machine() | found | {"config": settings, "rows": rows})


if __name__ == "__main__":
    main()
