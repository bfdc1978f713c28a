"""Data parallelism on paper: what a step sends between GPUs, and what share of its speed stays.

    python -m benchmarks.scaling --step_seconds 0.2 --images 16 [--preset paper] [--classes 19]

The bytes are exact: `tests/test_scaling.py` finds the same number in the compiled program. The
times are a model, not a measurement: a ring all-reduce of b bytes over n GPUs moves
2 (n - 1) / n b through the slowest link, and none of it is hidden behind arithmetic.
"""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bisenet_jax.complexity import count_parameters
from bisenet_jax.model.bisenetv2 import STRIDE, BiSeNetV2
from bisenet_jax.model.presets import PRESETS, build_model

PyTree = Any

BYTES = 4  # parameters, their gradients and all sums of batch norm are float32
GPUS = (1, 8, 64, 256)


class Traffic(NamedTuple):
    """Numbers that one step adds up over all devices; each takes four bytes.

    Attributes:
        gradients: one for each parameter, boosters included.
        statistics: of batch norm, three for each channel: the sums of x and of x squared going
            forward and one more sum going back. The two others of the gradient are those of
            scale and bias, and counted there.
        losses: two for each head, the sum and how many pixels are in it.
        norms: how many batch norms there are; each is a pair of all-reduces that cannot wait.
    """

    gradients: int
    statistics: int
    losses: int
    norms: int

    @property
    def bytes(self) -> int:
        """Of one step, before any of them is sent."""
        return BYTES * (self.gradients + self.statistics + self.losses)


class Link(NamedTuple):
    """What joins the GPUs: an assumption.

    Attributes:
        bandwidth: bytes per second that one GPU sends and receives in an all-reduce.
        latency: seconds that one step of a ring takes at least.
    """

    bandwidth: float
    latency: float


# Assumptions, to be replaced by what nccl-tests' all_reduce_perf shows on the machine.
NVLINK = Link(bandwidth=200e9, latency=3e-6)  # H100, 450 GB/s each way in the data sheet
INFINIBAND = Link(bandwidth=20e9, latency=6e-6)  # one NDR200 port for a GPU, 25 GB/s
GPUS_OF_HOST = 8


def count_traffic(variables: PyTree, heads: int) -> Traffic:
    """From the shapes of parameters and batch statistics of a training network.

    Args:
        variables: `params` and `batch_stats`, arrays or `jax.ShapeDtypeStruct`.
        heads: how many there are, boosters included.
    """
    statistics = jax.tree.leaves(variables["batch_stats"])
    # Each batch norm holds mean and variance, of all its channels.
    channels = count_parameters(statistics) // 2
    return Traffic(
        gradients=count_parameters(variables["params"]),
        statistics=3 * channels,
        losses=2 * heads,
        norms=len(statistics) // 2,
    )


def describe_model(model: BiSeNetV2) -> Traffic:
    """The traffic of a network whose boosters are trained."""
    images = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, 3), jnp.float32)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables = jax.eval_shape(lambda x: model.init(keys, x, is_training=True), images)
    return count_traffic(variables, heads=1 + len(model.booster_channels))


def all_reduce_seconds(traffic: Traffic, gpus: int) -> float:
    """Time on the links alone: inside a host NVLink, between hosts InfiniBand.

    Hosts of eight reduce inside, then over the hosts, each GPU its eighth, then share inside.
    Gradients go as one large message; each batch norm waits for its two small ones.
    """
    inside = min(gpus, GPUS_OF_HOST)
    hosts = -(-gpus // GPUS_OF_HOST)
    seconds = _ring(traffic.bytes, inside, NVLINK)
    seconds += _ring(traffic.bytes / inside, hosts, INFINIBAND)
    small = _latency(inside, NVLINK) + _latency(hosts, INFINIBAND)
    return seconds + (2 * traffic.norms + 1) * small


def efficiency(traffic: Traffic, step_seconds: float, gpus: int) -> float:
    """The share of `gpus` times one GPU's speed that is left, at the same batch per GPU."""
    return step_seconds / (step_seconds + all_reduce_seconds(traffic, gpus))


def rows(
    traffic: Traffic, step_seconds: float, images: int, gpus: Iterable[int] = GPUS
) -> list[Mapping[str, float]]:
    """One row for each number of GPUs.

    Args:
        traffic: of a step.
        step_seconds: of one GPU alone; measured, or assumed.
        images: that one GPU takes in a step.
    """
    table: list[Mapping[str, float]] = []
    for count in gpus:
        share = efficiency(traffic, step_seconds, count)
        in_host = min(count, GPUS_OF_HOST)
        table.append(
            {
                "gpus": count,
                "milliseconds": 1e3 * all_reduce_seconds(traffic, count),
                "efficiency": share,
                "images_per_second": count * images * share / step_seconds,
                "images_per_second_and_host": in_host * images * share / step_seconds,
            }
        )
    return table


def _ring(size: float, members: int, link: Link) -> float:
    return 2 * (members - 1) / members * size / link.bandwidth


def _latency(members: int, link: Link) -> float:
    # Small messages go along a tree: up and down, one step for each doubling.
    return 2 * (members - 1).bit_length() * link.latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=list(PRESETS), default="paper")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--step_seconds", type=float, required=True, help="of one GPU")
    parser.add_argument("--images", type=int, default=16, help="of one GPU in a step")
    arguments = parser.parse_args()
    traffic = describe_model(build_model(arguments.preset, num_classes=arguments.classes))
    print(
        f"{arguments.preset}, {arguments.classes} classes: {traffic.bytes / 1e6:.2f} MB a step "
        f"({traffic.gradients:,} gradients, {traffic.statistics:,} sums of {traffic.norms} "
        f"batch norms, {traffic.losses} of losses, 4 bytes each)\n"
        f"if one GPU takes {arguments.step_seconds} s for {arguments.images} images:"
    )
    print("GPUs  all-reduce ms  efficiency  images/s  images/s of each host")
    for row in rows(traffic, arguments.step_seconds, arguments.images):
        print(
            f"{row['gpus']:4d}  {row['milliseconds']:13.2f}  {row['efficiency']:9.1%}  "
            f"{row['images_per_second']:8.0f}  {row['images_per_second_and_host']:21.0f}"
        )


if __name__ == "__main__":
    main()
