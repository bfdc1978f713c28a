"""Compiled programs kept on disk, so that a script compiles at its first start only."""

import os
import platform
from pathlib import Path

import jax


def keep_compiled_programs() -> None:
    """Turn on JAX's own cache in `~/.cache/bisenet_jax/xla`; only scripts call this.

    `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false`
    turns it off. Nothing is ever deleted from it; the folder may be, at any time.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        # One folder per machine: a program for a CPU that another one reads from a shared home
        # may hold instructions that the other CPU lacks, which JAX's key does not tell apart.
        folder = Path("~/.cache/bisenet_jax/xla").expanduser() / (platform.node() or "machine")
        jax.config.update("jax_compilation_cache_dir", str(folder))
