"""Compiled programs are kept, in the folder that is meant."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax
from bisenet_jax.program_cache import keep_compiled_programs
keep_compiled_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x + 1)(1.0)
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("named", [False, True])
def test_programs_are_kept(tmp_path, monkeypatch, named):
    monkeypatch.setenv("HOME", str(tmp_path))
    if named:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "named"))
    else:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    folder = Path(told.stdout.strip())
    home = tmp_path / "named" if named else tmp_path / ".cache" / "bisenet_jax" / "xla"
    assert folder.is_relative_to(home) and any(folder.iterdir()), told.stderr
