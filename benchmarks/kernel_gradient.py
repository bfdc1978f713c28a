"""The gradient of a convolution's kernel, by XLA's convolution and by matrix products.

    python -m benchmarks.kernel_gradient [FILE.json]

One row for each of the larger layers of the `coincheung` preset, four crops of 256x512; ratio
is the time of the convolution over that of the products; medians of calls that are waited for.
"""

import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.machine import describe_machine
from benchmarks.timing import Budget, Case, measure
from bisenet_jax.files import write_json
from bisenet_jax.model.convolution import kernel_gradient

BUDGET = Budget(calls=12, seconds=2.0)
# Height, width and channels of the input, channels of the result, stride, kernel size.
LAYERS = {
    "detail s1_2": (128, 256, 64, 64, 1, 3),
    "detail s2_2": (64, 128, 64, 64, 1, 3),
    "detail s3_1": (64, 128, 64, 128, 2, 3),
    "head": (32, 64, 128, 1024, 1, 3),
    "head classifier": (32, 64, 1024, 19, 1, 1),
    "stem booster 1": (64, 128, 16, 128, 1, 3),
    "stem booster 2": (128, 256, 128, 16, 1, 3),
}
BATCH = 4


def by_convolution(x: jax.Array, gradient: jax.Array, *, size: int, stride: int) -> jax.Array:
    def convolve(kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    kernel = jnp.zeros((size, size, x.shape[-1], gradient.shape[-1]), x.dtype)
    return jax.vjp(convolve, kernel)[1](gradient)[0]


def measure_layer(name: str) -> dict[str, Any]:
    height, width, channels, features, stride, size = LAYERS[name]
    inputs = [
        (
            jax.random.normal(jax.random.key(n), (BATCH, height, width, channels)),
            jax.random.normal(
                jax.random.key(n + 9), (BATCH, height // stride, width // stride, features)
            ),
        )
        for n in range(2)
    ]
    forms = {"convolution": by_convolution, "products": kernel_gradient}
    programs = [jax.jit(partial(form, size=size, stride=stride)) for form in forms.values()]
    cases = [Case(lambda pair, f=program: f(*pair), inputs, BATCH) for program in programs]
    medians = [result.latency_ms["median"] for result in measure(cases, BUDGET)]
    return {
        "layer": name,
        "input": [BATCH, height, width, channels],
        "features": features,
        "stride": stride,
        "size": size,
        "milliseconds": dict(zip(forms, medians, strict=True)),
        "ratio": medians[0] / medians[1],
    }


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    rows = []
    for name in LAYERS:
        row = measure_layer(name)
        times = "".join(f"{form} {ms:>7.1f} ms  " for form, ms in row["milliseconds"].items())
        print(f"{name:<18}{times}ratio {row['ratio']:.2f}", flush=True)
        rows.append(row)
    if len(sys.argv) == 2:
        write_json(sys.argv[1], describe_machine() | {"rows": rows})


if __name__ == "__main__":
    main()
