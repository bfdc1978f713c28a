"""Ours as engines: the fast network, the plain model, and two other stretches of the street."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engines import BARE, HOST, PLAIN, STREET, Prepared
from benchmarks.kernels import count_kernels
from benchmarks.subject import Subject
from benchmarks.timing import Case, Program, compile_program
from bisenet_jax.fast.network import Lowerings, fasten
from bisenet_jax.inference import Network, predict_labels
from bisenet_jax.model.bisenetv2 import Outputs

PyTree = Any


def prepare(engine: str, subject: Subject) -> Prepared:
    """One of ours, compiled ahead of time."""
    network, variables, settings = _network(engine, subject)
    if engine == BARE:
        return _prepare_bare(network, variables, settings, subject)
    program, case = street_program(network, variables, subject)
    street = case.call

    def labels(image: np.ndarray) -> np.ndarray:
        return np.asarray(street(jax.device_put(image)))

    words = f"{STREET}, both on the device, no transfer"
    if engine == HOST:

        def call(image: np.ndarray) -> jax.Array:
            result = street(jax.device_put(image))
            result.copy_to_host_async()
            return result

        case = Case(call, subject.draw_images(), subject.batch, wait=np.asarray)
        words = f"numpy -> transfer -> {STREET} -> transfer -> numpy; no decoding"
    return _prepared(engine, case, labels, program, words, settings)


def street_program(
    network: Network,
    variables: PyTree,
    subject: Subject,
    street: Callable[..., jax.Array] = predict_labels,
    options: dict[str, Any] | None = None,
) -> tuple[Program, Case]:
    """The compiled way from images to labels, and its case.

    Args:
        street: called as `predict_labels` is.
        options: XLA's.
    """
    variables = jax.device_put(variables)
    images = [jax.device_put(image) for image in subject.draw_images()]
    normalization = subject.weights.normalization

    def run(variables: PyTree, images: jax.Array) -> jax.Array:
        return street(network, variables, images, normalization)

    program = compile_program(run, variables, images[0], options=options)
    return program, Case(partial(program.run, variables), images, subject.batch)


def _network(engine: str, subject: Subject) -> tuple[Network, PyTree, str]:
    if engine == PLAIN:
        words = "BiSeNetV2 with its batch norms, float32 parameters"
        return subject.model, jax.device_put(subject.weights.variables), words
    lowerings = Lowerings.for_backend(jax.default_backend())
    network, parameters = fasten(subject.model, subject.weights.variables, lowerings)
    return network, jax.device_put(parameters), f"FastNetwork, {lowerings}"


def _prepare_bare(
    network: Network, variables: PyTree, settings: str, subject: Subject
) -> Prepared:
    padding = [
        (0, large - small)
        for large, small in zip(
            subject.padded_size, (subject.height, subject.width), strict=True
        )
    ]
    normalize = jax.jit(
        lambda image: jnp.pad(
            subject.weights.normalization.normalize(image).astype(subject.dtype),
            ((0, 0), *padding, (0, 0)),
        )
    )
    inputs = [normalize(image) for image in subject.draw_images()]

    def logits(variables: PyTree, inputs: jax.Array) -> jax.Array:
        return cast(Outputs, network.apply(variables, inputs, is_training=False)).logits

    program = compile_program(logits, variables, inputs[0])
    case = Case(partial(program.run, variables), inputs, subject.batch)
    words = "normalised images -> network -> logits at 1/8, both on the device"
    return _prepared(BARE, case, None, program, words, settings)


def _prepared(
    engine: str, case: Case, labels: Any, program: Program, words: str, settings: str
) -> Prepared:
    memory = program.memory_bytes
    return Prepared(
        engine,
        case,
        labels,
        program.compile_seconds,
        memory_bytes=sum(memory.values()) if memory else None,
        kernels=count_kernels(program.hlo),
        inside_timer=words,
        settings=settings,
    )
