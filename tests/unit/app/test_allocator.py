import ctypes
import subprocess
import sys

import pytest

_WORK = """
import os, sys
from pacs_server.app.allocator import give_back_large_blocks

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "give":
    give_back_large_blocks()
bytearray(16 << 20)
before = resident()
blocks, between = [], []
for _ in range(8):
    blocks.append(bytearray(b"x" * (8 << 20)))
    between.append(bytearray(b"x" * 100_000))
del blocks
print((resident() - before) >> 20)
"""


def _kept(mode: str) -> int:
    """How many MiB of 64 freed ones, in blocks of 8, the process still has."""
    done = subprocess.run([sys.executable, "-c", _WORK, mode], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_large_blocks_go_back_to_the_system() -> None:
    assert _kept("give") < 8 <= _kept("keep")


_AGAIN = """
import resource
from pacs_server.app.allocator import give_back_large_blocks

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

give_back_large_blocks()
for _ in range(3):
    b"x" * (1 << 20)
before = faults()
for _ in range(50):
    b"x" * (1 << 20)
print(faults() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_the_memory_of_a_frame_serves_for_the_next_one() -> None:
    """Otherwise each MiB costs 256 page faults, again and again."""
    done = subprocess.run([sys.executable, "-c", _AGAIN], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) < 1000
