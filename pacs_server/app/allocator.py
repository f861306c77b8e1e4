"""The memory allocator of the C library: large blocks that the server no longer needs go back to the system."""

import ctypes
from contextlib import suppress
from typing import Final

# mallopt(3). Unless the thresholds are set, glibc raises them up to 32 and 64 MiB as blocks are freed.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BYTES: Final = 4 * 1024 * 1024
# So much that is free stays with each arena. With less, the memory of a frame or of a file that comes in would go back
# and be fetched again for each, page by page, which takes longer than to read the bytes.
_KEPT_BYTES: Final = 2 * 1024 * 1024


def give_back_large_blocks() -> None:
    """Make glibc return memory blocks of 4 MiB and more to the system when they are freed; no effect elsewhere."""
    with suppress(OSError, AttributeError):  # the C library is not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
