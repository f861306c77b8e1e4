"""What a server's processes use, as the kernel counts it: CPU time, memory, threads. Children that it forked included.

A server that is measured leads a process group of its own.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# A server rests if it uses less than this part of a core for so many seconds.
_REST_SECONDS, _RESTING = 3.0, 0.02
# Fields of /proc/PID/stat, counted from the one after the name, which is the state.
_GROUP, _CPU, _THREADS = 2, slice(11, 15), 17


def cpu_seconds(group: int) -> float:
    """User and system time of the processes of a group, and of their children that have ended."""
    return sum(sum(map(int, fields[_CPU])) for _, fields in _processes(group)) / _TICKS


def wait_for_rest(group: int) -> None:
    """Wait until the processes of a group have done what they do behind their answers, a minute at most."""
    for _ in range(20):
        before = cpu_seconds(group)
        time.sleep(_REST_SECONDS)
        if cpu_seconds(group) - before < _RESTING * _REST_SECONDS:
            return


def threads(group: int) -> int:
    """How many threads the processes of a group have."""
    return sum(int(fields[_THREADS]) for _, fields in _processes(group))


def resident(group: int, *, peak: bool = False) -> float:
    """Resident memory of the processes of a group in MiB, at present or at its peak, summed."""
    name = "VmHWM" if peak else "VmRSS"
    return sum(_kilobytes(process / "status", name) for process, _ in _processes(group)) / 1024


def forget_peaks(group: int) -> None:
    """Let the peaks of the memory of a group's processes begin at present."""
    for process, _ in _processes(group):
        with suppress(OSError):
            (process / "clear_refs").write_text("5")


def _processes(group: int) -> Iterator[tuple[Path, list[str]]]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[_GROUP]) == group:
                yield process, fields


def _kilobytes(status: Path, name: str) -> int:
    with suppress(OSError):
        if found := re.search(rf"{name}:\s+(\d+) kB", status.read_text()):
            return int(found[1])
    return 0
