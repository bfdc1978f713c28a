"""What a figure was measured on: without it, no figure counts."""

import datetime
import os
import platform
from collections.abc import MutableMapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

import bisenet_jax


def describe_machine() -> dict[str, Any]:
    """Device, versions and date, as every file of results begins."""
    device = jax.devices()[0]
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "used": 1,
            "runtime": device.client.platform_version,
            "host_processor": _processor(),
            "host_cores": os.cpu_count(),
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            # "default" lets XLA run float32 convolutions as TF32 on NVIDIA GPUs.
            "matmul_precision": getattr(jax.config, "jax_default_matmul_precision", None)
            or "default",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("jax", "jaxlib", "flax", "numpy")},
            "bisenet_jax": bisenet_jax.__version__,
        },
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def share_gpu_memory(environment: MutableMapping[str, str]) -> None:
    """Have JAX take half of a GPU's memory, where the environment does not say how much.

    By default it takes three quarters, and peers on the same GPU get the rest.
    """
    # JAX refuses the two together.
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    if not any(environment.get(name) for name in names):
        environment[names[0]] = "0.5"


def _processor() -> str:
    """The model name, which `platform.processor` leaves out on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
