"""Memory that a program gives back stays with it."""

import platform
import subprocess
import sys

import pytest

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

def work():
    use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    use()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

# As XLA does it: in a thread.
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own switches")
def test_the_second_use_faults_no_page_in():
    faults = {
        word: int(subprocess.check_output([sys.executable, "-c", PROGRAM, word], text=True))
        for word in ("keep", "give")
    }
    # Of 25,600 pages of 4 KiB; huge pages are fewer.
    assert faults["keep"] < 10 < faults["give"]
