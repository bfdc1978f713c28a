"""What each idea of the training step gains: one at a time taken back, or tried, in turns.

    python -m benchmarks.training_ideas [FILE.json]

The step of `coincheung`, float32, 4 crops of 256x512, 19 classes, compiled once for each row.
The ratio is the row's median over the default's: above 1, the default is quicker. The loss of
the first step has to be the default's; MiB is what the compiler says a step needs.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import timing
from benchmarks.machine import describe_machine
from benchmarks.timing import Budget, Case
from benchmarks.training import crop_frames, draw_frames, prepare_config
from bisenet_jax import resize
from bisenet_jax.allocation import finish_each_step, keep_freed_memory
from bisenet_jax.config import Config, ModelConfig
from bisenet_jax.errors import ConfigError
from bisenet_jax.files import write_json
from bisenet_jax.model import convolution, layers
from bisenet_jax.model.presets import build_model
from bisenet_jax.training import losses
from bisenet_jax.training.optimizer import make_optimizer
from bisenet_jax.training.state import start_state
from bisenet_jax.training.step import make_update

BATCH, CROP, CLASSES = 4, (256, 512), 19
BUDGET = Budget(calls=12, seconds=16.0)
LARGEST_DIFFERENCE = 1e-4  # of the first loss


class Idea(NamedTuple):
    """A change of the step.

    Attributes:
        patch: what replaces a function of the library while the step is traced.
        train: fields of `config.train`.
        steps: of one call of the program.
        donates: the state's memory is used anew.
        keeps_numbers: the first loss is the default's.
    """

    name: str
    patch: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    train: dict[str, Any] = {}
    steps: int = 1
    donates: bool = True
    keeps_numbers: bool = True


def whole_pixel_losses(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`pixel_losses` in its plain form: enlarged logits, and their logarithm of the softmax."""
    factor, classes = labels.shape[1] // logits.shape[1], logits.shape[-1]
    chances = jax.nn.log_softmax(resize.upsample(logits.astype(jnp.float32), factor))
    is_labelled = labels < classes
    chosen = jnp.where(is_labelled, labels, 0).astype(jnp.int32)[..., None]
    found = jnp.take_along_axis(chances, chosen, axis=-1)[..., 0]
    return jnp.where(is_labelled, -found, 0.0), is_labelled


def repeat_axis(x: jax.Array, factor: int, *, axis: int) -> jax.Array:
    return x.repeat(factor, axis=axis)


IDEAS = (
    Idea("bisenet_jax"),
    Idea(
        "gradients of kernels by convolutions",
        lambda: mock.patch.object(layers, "convolve", convolution.plain_convolve),
    ),
    Idea(
        "logits enlarged as a whole",
        lambda: mock.patch.object(losses, "pixel_losses", whole_pixel_losses),
    ),
    Idea(
        "pixels repeated by jnp.repeat",
        lambda: mock.patch.object(resize, "_repeat_axis", repeat_axis),
    ),
    Idea("state copied, not donated", donates=False),
    Idea("two steps in one call", steps=2),
    Idea("activations made anew (remat)", train={"remat": True}),
    Idea("two micro-batches", train={"micro_batches": 2}, keeps_numbers=False),
)


def measure_ideas(
    config: Config, budget: Budget, ideas: Sequence[Idea] = IDEAS
) -> list[dict[str, Any]]:
    """A row for each, ready for JSON; the first is the default."""
    crops = draw_crops(config)
    rows: list[dict[str, Any]] = []
    cases = []
    for idea in ideas:
        began = time.perf_counter()
        program, case = compile_idea(idea, config, crops)
        first_loss = float(np.ravel(case.call(case.inputs[0]))[0])
        reference = rows[0]["first_loss"] if rows else first_loss
        if idea.keeps_numbers and not np.isclose(first_loss, reference, LARGEST_DIFFERENCE):
            raise ConfigError(
                f"{idea.name!r} begins with a loss of {first_loss} instead of {reference}: "
                "another training, so nothing is timed"
            )
        memory = program.memory_analysis()
        rows.append(
            {
                "idea": idea.name,
                "first_loss": first_loss,
                "compile_seconds": time.perf_counter() - began,
                "temporary_bytes": memory.temp_size_in_bytes,
            }
        )
        cases.append(case)
    medians = [
        result.latency_ms["median"] / idea.steps
        for result, idea in zip(timing.measure(cases, budget), ideas, strict=True)
    ]
    for row, median in zip(rows, medians, strict=True):
        row["step_ms"], row["ratio"] = median, median / medians[0]
    return rows


def draw_crops(config: Config) -> list[Any]:
    frames = draw_frames(config, CLASSES)
    return [crop_frames(config, frame, jax.random.key(n)) for n, frame in enumerate(frames)]


def compile_idea(idea: Idea, config: Config, crops: list[Any]) -> tuple[Any, Case]:
    """The compiled program, and its case for the stopwatch."""
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **idea.train))
    fields = dataclasses.asdict(config.model) | {"dropout_rate": 0.0}
    model = build_model(num_classes=CLASSES, **fields)
    update = make_update(model, make_optimizer(config.optimizer, config.train.steps), config)
    key = jax.random.key(config.train.seed)

    def step(state: Any, crop: Any) -> tuple[Any, jax.Array]:
        images, labels = crop
        state, metrics = update(state, images, labels, key)
        return state, metrics["loss"]

    def call(state: Any, crops: Any) -> tuple[Any, jax.Array]:
        return jax.lax.scan(step, state, crops) if idea.steps > 1 else step(state, crops)

    inputs = crops
    if idea.steps > 1:
        inputs = [
            jax.tree.map(
                lambda *arrays: jnp.stack(arrays), *(crops[first : first + idea.steps])
            )
            for first in range(0, len(crops), idea.steps)
        ]
    state = start_state(model, config)
    donated = (0,) if idea.donates else ()
    with idea.patch():
        program = jax.jit(call, donate_argnums=donated).lower(state, inputs[0]).compile()

    def run(crop: Any) -> jax.Array:
        nonlocal state
        state, loss = program(state, crop)
        return loss

    return program, Case(run, inputs, BATCH * idea.steps)


def table(rows: Sequence[dict[str, Any]]) -> str:
    columns = ("ms a step", "ratio", "MiB", "compile s")
    lines = [f"{'step':<38}" + "".join(f"{name:>11}" for name in columns)]
    lines.append("-" * len(lines[0]))
    for row in rows:
        lines.append(
            f"{row['idea']:<38}{row['step_ms']:>11.0f}{row['ratio']:>11.3f}"
            f"{row['temporary_bytes'] / 2**20:>11,.0f}{row['compile_seconds']:>11.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    keep_freed_memory()
    finish_each_step()
    config = prepare_config(Config(model=ModelConfig(preset="coincheung")), BATCH, CROP)
    rows = measure_ideas(config, BUDGET)
    print(table(rows))
    if len(sys.argv) == 2:
        write_json(sys.argv[1], describe_machine() | {"protocol": __doc__, "rows": rows})


if __name__ == "__main__":
    main()
