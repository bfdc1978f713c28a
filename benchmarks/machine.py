"""What a figure was measured on: without it, no figure counts."""

import datetime
import os
import platform
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


def _processor() -> str:
    """The model name, which `platform.processor` leaves out on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
