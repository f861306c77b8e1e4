"""What a server needs beside time: CPU while nothing happens, memory while one large object comes in."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks import processes
from benchmarks.client import VERIFICATION, Address, Association
from benchmarks.instances import CT_IMAGE_STORAGE, HUGE_PIECES, huge_request

IDLE = 50


def idle_cpu(address: Address, seconds: float) -> float:
    """CPU of the server while associations do nothing, in percent of one core."""
    with idle_associations(address, IDLE):
        return cpu_share(address.process, seconds)


@contextmanager
def idle_associations(address: Address, count: int) -> Iterator[None]:
    """Associations that do nothing; in the end they are cut off, few threads would take minutes to release them."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(Association(address, [VERIFICATION]).wire.close)
        yield


def cpu_share(group: int, seconds: float) -> float:
    """CPU of a process group over some seconds, in percent of one core."""
    # What was asked of it before has to be over.
    time.sleep(0.5)
    before, began = processes.cpu_seconds(group), time.perf_counter()
    time.sleep(seconds)
    return 100 * (processes.cpu_seconds(group) - before) / (time.perf_counter() - began)


def extra_memory(address: Address, study: int, sop: int) -> float:
    """MiB by which the server grows at its peak while it stores one huge object, which is made while it is sent."""
    with Association(address, [CT_IMAGE_STORAGE]) as association:
        head, piece, last = huge_request(study, sop, association.framing(CT_IMAGE_STORAGE))
        before = processes.resident(address.process)
        processes.forget_peaks(address.process)
        association.wire.send([head])
        for _ in range(HUGE_PIECES - 1):
            association.wire.send([piece])
        association.store([[last]])
        return processes.resident(address.process, peak=True) - before
