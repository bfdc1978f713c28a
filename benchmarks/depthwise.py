"""The two lowerings of a depth-wise convolution, forward and with its gradient, side by side.

    python -m benchmarks.depthwise [FILE.json]

One row for each shape that the paper's network meets in a batch of 8 crops of 128x256; ratio is
the time of `conv` over that of `shifts`, medians of synchronised calls in one run.
"""

import sys
from typing import Any, cast

import jax
import jax.numpy as jnp

from benchmarks.machine import describe_machine
from benchmarks.timing import Budget, Case, measure
from bisenet_jax.files import write_json
from bisenet_jax.model.layers import DEPTHWISE_LOWERINGS, DepthwiseConv, LayerOptions

BUDGET = Budget(calls=50, seconds=2.0)
# Batch, height, width, channels, multiplier, stride.
SHAPES = (
    (8, 32, 64, 96, 1, 2),
    (8, 16, 32, 192, 1, 1),
    (8, 8, 16, 384, 1, 1),
    (8, 4, 8, 768, 1, 1),
    (8, 16, 32, 128, 1, 1),
    (8, 16, 32, 32, 6, 1),  # expansion in the depth-wise convolution, as the ports do
)


def measure_shape(shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Two rows: the forward pass alone, and with the gradients of input and kernel."""
    *image_shape, multiplier, stride = shape
    images = [jax.random.normal(jax.random.key(index), image_shape) for index in range(4)]
    forward, gradient = [], []
    for lowering in DEPTHWISE_LOWERINGS:
        layer = DepthwiseConv(
            multiplier, stride=stride, options=LayerOptions(depthwise_lowering=lowering)
        )
        variables = layer.init(jax.random.key(9), images[0])

        def energy(variables: Any, x: jax.Array, layer: DepthwiseConv = layer) -> jax.Array:
            return jnp.square(cast(jax.Array, layer.apply(variables, x))).sum()

        run, differentiate = jax.jit(layer.apply), jax.jit(jax.grad(energy, (0, 1)))
        forward.append(Case(lambda x, f=run, v=variables: f(v, x), images, image_shape[0]))
        gradient.append(
            Case(lambda x, f=differentiate, v=variables: f(v, x), images, image_shape[0])
        )
    rows = []
    for name, cases in (("forward", forward), ("forward and gradient", gradient)):
        medians = [result.latency_ms["median"] for result in measure(cases, BUDGET)]
        milliseconds = dict(zip(DEPTHWISE_LOWERINGS, medians, strict=True))
        rows.append(
            {
                "name": name,
                "shape": image_shape,
                "multiplier": multiplier,
                "stride": stride,
                "milliseconds": milliseconds,
                "ratio": milliseconds["conv"] / milliseconds["shifts"],
            }
        )
    return rows


def main() -> None:
    print(
        f"{'input, multiplier, stride':<28}{'pass':<22}{'shifts':>12}{'conv':>12}{'ratio':>8}"
    )
    rows = []
    for shape in SHAPES:
        for row in measure_shape(shape):
            rows.append(row)
            size = "x".join(map(str, row["shape"]))
            times = "".join(f"{time:>9.2f} ms" for time in row["milliseconds"].values())
            print(
                f"{size + ', ' + str(row['multiplier']) + ', ' + str(row['stride']):<28}"
                f"{row['name']:<22}{times}{row['ratio']:>8.1f}",
                flush=True,
            )
    if len(sys.argv) > 1:
        write_json(sys.argv[1], describe_machine() | {"rows": rows})


if __name__ == "__main__":
    main()
