"""What each idea gains: one at a time taken back, or tried, against the network as it is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engines import OURS
from benchmarks.inference import TOLERATED
from benchmarks.jax_engines import street_program
from benchmarks.kernels import count_kernels
from benchmarks.subject import Subject
from benchmarks.timing import PAUSE_SECONDS, ROUNDS, Budget, measure
from bisenet_jax.errors import ConfigError, UserError
from bisenet_jax.fast.description import is_described
from bisenet_jax.fast.network import Lowerings, fasten
from bisenet_jax.inference import Network, predict_labels, predict_logits
from bisenet_jax.normalization import Normalization

PyTree = Any

PROTOCOL = (
    "Each row is the default network with one thing changed, in turns with the default in "
    f"{ROUNDS} rounds; ratio is the row's median latency over the default's: above 1, the "
    "default is quicker. Labels are compared with the default's first."
)
# What the fields of `Lowerings` can be; of true and false nobody needs a list.
CHOICES = {
    "depthwise": ("shifts", "conv"),
    "pointwise": ("conv", "dot"),
    "pool": ("window", "shifts"),
}


class DifferentNetworkError(UserError):
    """An idea that computes something else: its time would say nothing."""


class Idea(NamedTuple):
    """A change, and how to build the network with it."""

    name: str
    build: Callable[[Subject], tuple[Network, PyTree]]
    street: Callable[..., jax.Array] = predict_labels


def list_ideas(dtype: str) -> list[Idea]:
    """The default first.

    Raises:
        ValueError: for a field of `Lowerings` whose other values are not listed here.
    """
    default = Lowerings.for_backend(jax.default_backend())
    ideas = [Idea(OURS, _fast(default))]
    for entry in dataclasses.fields(default):
        value = getattr(default, entry.name)
        others = (not value,) if isinstance(value, bool) else CHOICES.get(entry.name)
        if others is None:
            raise ValueError(f"CHOICES lacks the values of Lowerings.{entry.name}")
        if entry.name == "uses_winograd" and dtype != "float32":
            continue  # it changes nothing there
        for other in others:
            if other != value:
                name = f"{entry.name}: {other}, not {value}"
                change: dict[str, Any] = {entry.name: other}
                changed = dataclasses.replace(default, **change)
                ideas.append(Idea(name, _fast(changed)))
    return [
        *ideas,
        Idea("none of all: the plain model", lambda s: (s.model, s.weights.variables)),
        Idea("labels: argmax of enlarged logits", _fast(default), _argmax_of_logits),
    ]


def measure_ideas(
    subject: Subject, budget: Budget, progress: Callable[[], Any] = lambda: None
) -> list[dict[str, Any]]:
    """A row for each idea, ready for JSON.

    Args:
        budget: of one row.
        progress: called after each program that is compiled and after each turn.

    Raises:
        DifferentNetworkError: when an idea changes more labels than rounding explains.
        ConfigError: for a network that runs as it is, so that none of them touches it.
    """
    if not is_described(subject.model):
        raise ConfigError(
            f"config.model.semantic_branch {subject.model.semantic_branch!r} runs as it is "
            "written: ideas need the paper's branch, gather_expansion"
        )
    ideas = list_ideas(subject.dtype)
    image = jax.device_put(subject.draw_images()[-1])
    cases, rows, labels = [], [], []
    for idea in ideas:
        program, case = street_program(*idea.build(subject), subject, idea.street)
        cases.append(case)
        labels.append(np.asarray(case.call(image)))
        progress()
        share = float(np.mean(labels[-1] != labels[0]))
        if share > TOLERATED[subject.dtype]:
            raise DifferentNetworkError(
                f"{idea.name!r} gives {share:.2%} of the pixels another label, more than the "
                f"{TOLERATED[subject.dtype]:.1%} that rounding explains: mend it first"
            )
        rows.append(
            {
                "idea": idea.name,
                "batch": subject.batch,
                "dtype": subject.dtype,
                "height": subject.height,
                "width": subject.width,
                "labels_differ": share,
                "kernels": count_kernels(program.hlo),
                "compile_seconds": program.compile_seconds,
            }
        )
    measurements = measure(cases, budget, pause=PAUSE_SECONDS, progress=progress)
    default_ms = measurements[0].latency_ms["median"]
    return [
        row
        | {
            "latency_ms": measurement.latency_ms,
            "images_per_second": measurement.images_per_second,
            "default_ms": default_ms,
            "ratio": measurement.latency_ms["median"] / default_ms,
        }
        for row, measurement in zip(rows, measurements, strict=True)
    ]


def _fast(lowerings: Lowerings) -> Callable[[Subject], tuple[Network, PyTree]]:
    return lambda subject: fasten(subject.model, subject.weights.variables, lowerings)


def _argmax_of_logits(
    network: Network, variables: PyTree, images: jax.Array, normalization: Normalization
) -> jax.Array:
    logits = predict_logits(network, variables, images, normalization)
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)
