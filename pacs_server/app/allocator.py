"""The memory allocator of the C library: large blocks that the server no longer needs go back to the system."""

import ctypes
from contextlib import suppress
from typing import Final

# mallopt(3). Unless the threshold is set, glibc raises it up to 32 MiB as blocks are freed, and keeps smaller blocks.
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 4 * 1024 * 1024


def give_back_large_blocks() -> None:
    """Make glibc return memory blocks of 4 MiB and more to the system when they are freed; no effect elsewhere."""
    with suppress(OSError, AttributeError):  # the C library is not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
