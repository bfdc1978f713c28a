"""Memory that a program gives back stays with it."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """
import resource
import sys
import threading
from bisenet_jax.allocation import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
MEGABYTES = 100

def use():
    block = libc.malloc(MEGABYTES << 20)
    ctypes.memset(block, 1, MEGABYTES << 20)
    libc.free(block)

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    start = faults()
    use()
    first = faults()
    use()
    print(first - start, faults() - first)

# As XLA does it: in a thread.
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def count_faults(word: str) -> tuple[int, int]:
    """Of the first use of 100 MiB, 25,600 pages of 4 KiB, and of the second."""
    output = subprocess.check_output([sys.executable, "-c", PROGRAM, word], text=True)
    first, second = map(int, output.split())
    return first, second


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own switches")
def test_the_second_use_faults_no_page_in():
    assert count_faults("keep")[1] < 10 < count_faults("give")[1]


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="no huge pages for whom asks",
)
def test_the_first_use_asks_for_huge_pages():
    small = count_faults("give")[0]
    assert small > 20_000
    # Not one fault in 512: where memory is in pieces, Linux gives small pages.
    assert count_faults("keep")[0] < small / 2


STEPS = """
import sys
import jax
from bisenet_jax.allocation import finish_each_step

if sys.argv[1] == "each":
    finish_each_step()
import jax.numpy as jnp
product = jax.jit(lambda x: jax.lax.fori_loop(0, 60, lambda _, y: jnp.cos(y @ x), x))
x = jnp.ones((600, 600))
product(x).block_until_ready()
result = product(x)
print(result.is_ready())
"""


def test_a_cpu_ends_one_step_before_the_next():
    for word, is_ready in (("each", "True"), ("queue", "False")):
        command = [sys.executable, "-c", STEPS, word]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        told = subprocess.check_output(command, text=True, env=environment)
        assert told.strip() == is_ready


ORDER = """
import runpy
import jax
from bisenet_jax import distributed

distributed.run = lambda *_: print(jax.config.read('jax_cpu_enable_async_dispatch'))
runpy.run_path("train.py", run_name="__main__")
"""


def test_training_asks_for_it_before_it_joins_other_processes():
    # Joining starts JAX, which then takes no such wish any more.
    told = subprocess.check_output([sys.executable, "-c", ORDER], text=True, cwd=ROOT)
    assert told.strip() == "False"
