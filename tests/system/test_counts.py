"""What each operation costs the kernel, counted and not timed: a call more than there has to be fails here.

The tables are ceilings: what an operation may ask of the kernel, and nothing that is not listed.
"""

import contextlib
import http.client
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from datasets import make_study
from processes import PacsProcess, wait_for
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom.dsutils import encode
from rawpeer import (
    EXPLICIT,
    IMPLICIT,
    STUDY_ROOT_FIND,
    Instance,
    associate,
    association,
    context_id,
    get,
    get_association,
    response,
    store,
    study_keys,
)
from tracing import SENDS, Trace, Window

from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField

pytestmark = pytest.mark.alone

VERIFICATION = "1.2.840.10008.1.1"
INSTANCES = 40
WARMING_UP = 20
ECHOES = 40
QUERIES = 40
ASSOCIATIONS = 40
RETRIEVED = 20
SIDE = 512  # pixels of two bytes: half a MiB
IDLE = 50
IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Traced:
    """A server's day under strace, by operation."""

    trace: Trace
    windows: Mapping[str, Window]
    retrieved_bytes: int

    def per_operation(self, name: str) -> dict[str, int]:
        # Checkpoints come in a thread of their own, by the clock; test_slot_syscalls.py counts their calls.
        return self.trace.per_operation(self.windows[name], "link" if name == "store" else "")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """All operations once under one trace: strace makes the start of a server slow."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed; on Debian and Ubuntu: apt-get install strace")
    directory = tmp_path_factory.mktemp("counts")
    trace = Trace(strace, directory / "trace")
    windows: dict[str, Window] = {}
    # Reading instances again in the background is work of its own.
    settings = {
        "storage": {"scrub_rate": None},
        "server": {"max_associations": IDLE + 10},
        "web": {"enabled": True},
    }
    with PacsProcess(directory / "pacs", settings=settings, prefix=trace.prefix) as pacs:
        _first_association(pacs)
        windows["association"] = _associations(pacs, trace)
        windows["echo"] = _echoes(pacs, trace)
        study = make_study(1, WARMING_UP + INSTANCES)
        windows["store"] = _stores(pacs, trace, [Instance.of(ds) for ds in study])
        windows["find"] = _queries(pacs, trace, str(study[0].PatientID))
        windows["get"], size = _retrieval(pacs, trace)
        windows |= {f"idle {number}": window for number, window in enumerate(_idleness(pacs, trace))}
        pacs.stop()
    return Traced(trace, windows, size)


def _first_association(pacs: PacsProcess) -> None:
    # The first peer seen is written to the index in the background, the next ones a minute later.
    with association(pacs.port, [(VERIFICATION, EXPLICIT)]) as link:
        _echo(link)
    wait_for(lambda: pacs.status()["associations"]["active"] == 0, "the end of the first association")


def _associations(pacs: PacsProcess, trace: Trace) -> Window:
    with trace.window(ASSOCIATIONS) as window:
        for _ in range(ASSOCIATIONS):
            with association(pacs.port, [(VERIFICATION, EXPLICIT)]):
                pass
    return window


def _echo(link: Association) -> None:
    request = Command(command_field=CommandField.C_ECHO, message_id=link.next_message_id())
    request.affected_sop_class_uid = VERIFICATION
    link.send(context_id(link, VERIFICATION), request)
    assert response(link, request).status == 0


def _echoes(pacs: PacsProcess, trace: Trace) -> Window:
    with association(pacs.port, [(VERIFICATION, EXPLICIT)]) as link:
        _echo(link)
        with trace.window(ECHOES) as window:
            for _ in range(ECHOES):
                _echo(link)
    return window


def _stores(pacs: PacsProcess, trace: Trace, instances: list[Instance]) -> Window:
    with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
        # The first one makes the patient, the study, the series and their directories; the first few use up the slots
        # of the start, and more are made.
        assert [store(link, instance).status for instance in instances[:-INSTANCES]] == [0] * WARMING_UP
        with trace.window(INSTANCES) as window:
            for instance in instances[-INSTANCES:]:
                assert store(link, instance).status == 0
    _wait_for_checkpoint(pacs)
    return window


def _wait_for_checkpoint(pacs: PacsProcess) -> None:
    # Its calls belong to what was stored, and not to what is counted next.
    wait_for(lambda: pacs.metric("pacs_checkpoint_waiting") == 0, "a checkpoint")


def _queries(pacs: PacsProcess, trace: Trace, patient_id: str) -> Window:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.PatientID, identifier.StudyInstanceUID = "STUDY", patient_id, ""
    data = encode(identifier, is_implicit_vr=True, is_little_endian=True)
    with association(pacs.port, [(STUDY_ROOT_FIND, IMPLICIT)]) as link:
        assert _matches(link, data) == 1
        with trace.window(QUERIES) as window:
            assert [_matches(link, data) for _ in range(QUERIES)] == [1] * QUERIES
    return window


def _matches(link: Association, data: bytes | None) -> int:
    request = Command(command_field=CommandField.C_FIND, message_id=link.next_message_id(), priority=0)
    request.affected_sop_class_uid = STUDY_ROOT_FIND
    link.send(context_id(link, STUDY_ROOT_FIND), request, data)
    count = 0
    while (answer := response(link, request)).status == 0xFF00:
        count += 1
    assert answer.status == 0
    return count


def _retrieval(pacs: PacsProcess, trace: Trace) -> tuple[Window, int]:
    """C-GET of a study of large images; also returns the bytes of their data sets."""
    kind = (str(CTImageStorage), EXPLICIT)
    images = make_study(1, RETRIEVED, rows=SIDE, columns=SIDE)
    instances = [Instance.of(ds) for ds in images]
    size = sum(len(instance.data) for instance in instances)
    with association(pacs.port, [kind]) as link:
        assert [store(link, instance).status for instance in instances] == [0] * RETRIEVED
    _wait_for_checkpoint(pacs)
    link = get_association(pacs.port, [kind])
    received: list[int] = []
    keys = study_keys(images[0].StudyInstanceUID)
    with contextlib.closing(link.transport):
        with trace.window(RETRIEVED) as window:
            final = get(link, keys, lambda _, pieces: received.append(sum(map(len, pieces))))
        link.release()
    assert (final.status, final.number_of_completed, sum(received)) == (0, RETRIEVED, size)
    return window, size


def _idleness(pacs: PacsProcess, trace: Trace) -> list[Window]:
    """Stretches of time in which nobody asks for anything, with associations and an HTTP connection open."""
    links = [associate(pacs.port, [(VERIFICATION, IMPLICIT)], calling_ae=f"IDLE{n}") for n in range(IDLE)]
    web = http.client.HTTPConnection(*pacs.web)
    windows = []
    try:
        web.request("GET", "/")
        web.getresponse().read()
        for link in links:
            _echo(link)
        wait_for(trace.quiet, "the end of what the echoes leave to do")
        for _ in range(4):
            with trace.window() as window:
                # Not a wait for something: the time over which nothing may happen.
                time.sleep(IDLE_SECONDS)
            windows.append(window)
    finally:
        web.close()
        for link in links:
            link.release()
            link.transport.close()
    return windows


# ------------------------------------------------------------------------------------ ceilings

# What every message costs: it is read, and answered in one write, which acknowledges it as well.
MESSAGE = {"recvfrom": 1, "send": 1, "clock_gettime": 1}
CEILINGS = {
    # Proposal and release: two messages without a clock for their work, one thread that accepts both.
    "association": {
        "accept4": 1, "getsockname": 1, "ioctl": 1,  # the socket, and what the interpreter asks of it
        "setsockopt": 4,  # no delay, keep alive, two time-outs
        "recvfrom": 2, "send": 2, "close": 1, "clock_gettime": 1,
        "write": 1,  # one line in the log
    },
    "echo": MESSAGE,
    "store": MESSAGE | {
        "statfs": 1,  # is there room?
        "openat": 1,  # the slot
        "write": 3,  # head, data set, and one line in the log
        "pread64": 2,  # the header is parsed from the file; pages of the index that a checkpoint has changed
        "fdatasync": 1,  # the slot
        "link": 1, "close": 1,  # its final name
        "newfstatat": 3,  # is that name free, is the index the one it was, and is the slot still there?
        "fcntl": 6,  # its locks
        "pwrite64": 15,  # the seal; the pages that the row changes, and the one with the last id that was given
    },
    "find": MESSAGE | {
        "newfstatat": 2, "fcntl": 2, "flock": 2,  # is the index the one it was? its lock, and the audit trail's
        "write": 2,  # a record in the audit trail, one line in the log
    },
    "get": {
        "openat": 1, "newfstatat": 2, "pread64": 1, "close": 1,  # the file, read whole
        "send": 1,  # the instance, and the pending response about the one before
        "recvfrom": 1,  # the answer
        "poll": 1,  # is there a C-CANCEL?
    },
}  # fmt: skip


@pytest.mark.parametrize("operation", CEILINGS)
def test_an_operation_makes_no_needless_system_calls(traced: Traced, operation: str) -> None:
    counted, ceiling = traced.per_operation(operation), CEILINGS[operation]
    assert {name: count for name, count in counted.items() if count > ceiling.get(name, 0)} == {}, counted


def test_a_stored_instance_is_synced_once(traced: Traced) -> None:
    """No promise without that; and nothing else is synced in the thread that answers."""
    counted = traced.per_operation("store")
    assert (counted["fdatasync"], counted.get("fsync", 0), counted["link"]) == (1, 0, 1)
    calls = [call for call in traced.trace.calls(traced.windows["store"]) if not call.resumed]
    assert sum(call.name == "fdatasync" and ".part>" in call.text for call in calls) == INSTANCES


def test_what_is_retrieved_is_read_once_and_sent_once(traced: Traced) -> None:
    calls = traced.trace.calls(traced.windows["get"])
    read = sum(call.returned for call in calls if call.name in ("pread64", "read"))
    sent = sum(call.returned for call in calls if call.name in SENDS)
    # The head of each file, and pages of the index that checkpoints have changed since they were read last.
    assert traced.retrieved_bytes <= read < traced.retrieved_bytes + RETRIEVED * 1024 + 16 * 4096
    assert traced.retrieved_bytes <= sent < traced.retrieved_bytes + RETRIEVED * 1024


def test_idle_associations_make_no_system_calls(traced: Traced) -> None:
    # The server looks every ten seconds how it is, and threads of the HTTP door end after ten: each in one of them.
    idle = [window for name, window in traced.windows.items() if name.startswith("idle ")]
    calls = min(map(traced.trace.calls, idle), key=len)
    assert calls == []
