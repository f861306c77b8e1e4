"""The C library's memory allocator: what peers make the server hold for a moment goes back to the system."""

import ctypes
from contextlib import suppress
from typing import Final

# mallopt(3). Unless it is set, glibc raises it to 32 MiB with the blocks that are freed, and keeps those below it.
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 4 * 1024 * 1024


def give_back_large_blocks() -> None:
    """Have memory blocks of 4 MiB and more returned to the system when they are freed, if it is glibc."""
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
