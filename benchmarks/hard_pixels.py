"""The k-th largest loss of each image, for hard example mining: by bisection, or by a sort.

    python -m benchmarks.hard_pixels [FILE.json]

Losses of one head at full resolution, k a sixteenth of the pixels, as the default has it; ratio
is a form's time over the bisection's, medians of synchronised calls in one run.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.machine import describe_machine
from benchmarks.timing import Budget, Case, measure
from bisenet_jax.files import write_json
from bisenet_jax.training.losses import kth_largest

BUDGET = Budget(calls=12, seconds=4.0)
SHAPES = ((4, 256 * 512), (16, 512 * 1024))
SHARE = 16


def by_sort(values: jax.Array, k: jax.Array) -> jax.Array:
    ordered = jnp.sort(values, axis=1, descending=True)
    return jnp.take_along_axis(ordered, k[:, None] - 1, axis=1)[:, 0]


def by_top_k(values: jax.Array, k: jax.Array) -> jax.Array:
    """Needs to know k when it is compiled: here it does, in training it would not."""
    return jax.lax.top_k(values, values.shape[1] // SHARE)[0][:, -1]


FORMS = {"bisection": kth_largest, "sort": by_sort, "top_k": by_top_k}


def measure_shape(shape: tuple[int, int]) -> dict[str, Any]:
    """One row; all forms give the same numbers first.

    Raises:
        ValueError: where they do not.
    """
    inputs = [-jnp.log(jax.random.uniform(jax.random.key(n), shape)) for n in range(2)]
    k = jnp.full(shape[:1], shape[1] // SHARE, jnp.int32)
    programs = [jax.jit(form) for form in FORMS.values()]
    expected, *others = [program(inputs[0], k) for program in programs]
    if not all((other == expected).all() for other in others):
        raise ValueError(f"{', '.join(FORMS)} differ at {shape}, so nothing is timed")
    cases = [Case(lambda x, f=program: f(x, k), inputs, shape[0]) for program in programs]
    medians = [result.latency_ms["median"] for result in measure(cases, BUDGET)]
    return {
        "images": shape[0],
        "pixels": shape[1],
        "milliseconds": dict(zip(FORMS, medians, strict=True)),
        "ratio": {name: ms / medians[0] for name, ms in zip(FORMS, medians, strict=True)},
    }


def main() -> None:
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    rows = []
    for shape in SHAPES:
        row = measure_shape(shape)
        times = "".join(f"  {form} {ms:.1f} ms" for form, ms in row["milliseconds"].items())
        print(f"{shape[0]} images of {shape[1]:,} pixels:{times}", flush=True)
        rows.append(row)
    if len(sys.argv) == 2:
        write_json(sys.argv[1], describe_machine() | {"protocol": __doc__, "rows": rows})


if __name__ == "__main__":
    main()
