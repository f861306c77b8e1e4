"""Promise 1 as the kernel sees it where every instance is synced by itself; `test_slot_syscalls.py` has the slots."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from datasets import make_study
from processes import PacsProcess, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, association, store, store_from
from sqlalchemy import create_engine, text

VERIFICATION = "1.2.840.10008.1.1"
TRACED = "fdatasync,fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,sendmsg,sendto"
INSTANCES = 5
SENDERS = 4
EACH = {"storage": {"fsync": "each"}}
INDEX_SYNC_BEGINS = "index sync begins"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)$")


@pytest.fixture
def strace() -> str:
    """The path of strace, where it is installed and may be used."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed; on Debian and Ubuntu: apt-get install strace")
    return path


def steps(trace: Path, pacs: PacsProcess) -> list[str]:
    """The traced calls that matter, by what they do: sync file, place, sync directory, sync index, answer."""
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        step = call and _step(call[1], call[2], pacs)
        if step:
            found.append(step)
    return found


def _step(name: str, arguments: str, pacs: PacsProcess) -> str | None:
    if '"Q' in arguments and "COMMIT" in arguments:
        return "sync index"  # PostgreSQL syncs before it answers
    if name in ("fsync", "fdatasync"):
        # -y shows what a descriptor is open on.
        opened = arguments.partition("<")[2].partition(">")[0]
        return _synced(opened, pacs)
    if name.startswith(("link", "rename")):
        return "place"
    if name.startswith("mkdir"):
        return "make directory"
    # The wake-up of the main thread goes over a Unix socket.
    return "answer" if "<TCP:" in arguments else None


def _synced(opened: str, pacs: PacsProcess) -> str | None:
    if "/incoming/" in opened:
        return "sync file"
    if "pacs.db" in opened:
        return "sync index"
    if opened.startswith(str(pacs.archive)):
        return "sync directory"
    return None


def traced(strace: str, trace: Path, calls: str) -> tuple[str, ...]:
    """The prefix of a command whose calls are to be traced, with the paths of descriptors."""
    return (strace, "-f", "-qq", "-y", "-yy", "-s", "32", "-e", f"trace={calls}", "-e", "signal=none", "-o", str(trace))


@pytest.mark.slow
def test_everything_is_synced_in_order_before_the_answer(strace: str, tmp_path: Path, database_url: str) -> None:
    trace = tmp_path / "trace"
    prefix = traced(strace, trace, TRACED)
    instances = [Instance.of(ds) for ds in make_study(1, INSTANCES + 1)]
    with PacsProcess(tmp_path / "pacs", database_url, EACH, prefix=prefix) as pacs:
        # The first peer seen is written to the index in the background, the next ones a minute later.
        with association(pacs.port, [(VERIFICATION, EXPLICIT)]):
            pass
        wait_for(lambda: peers_seen(database_url) == 1, "the peer in the index")
        with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
            for instance in instances:
                assert store(link, instance).status == 0
        pacs.stop()
        everything = steps(trace, pacs)

    first, rest = everything[: (end := first_answer(everything))], everything[end:]
    # Study and series are new: the link fails, they are made, and all three names are made durable.
    made, durable = ["make directory"] * 2, ["sync directory"] * 3
    assert first[-10:] == ["sync file", "place", *made, "place", *durable, "sync index", "answer"]
    assert rest[: INSTANCES * 5] == ["sync file", "place", "sync directory", "sync index", "answer"] * INSTANCES


@pytest.mark.slow
def test_whoever_commits_for_others_has_synced_before_they_answer(strace: str, tmp_path: Path) -> None:
    """Senders at the same time share commits; each answer comes after a sync of the index that began with its row."""
    trace = tmp_path / "trace"
    instances = [Instance.of(ds) for ds in make_study(SENDERS, INSTANCES)]
    with PacsProcess(tmp_path / "pacs", settings=EACH, prefix=traced(strace, trace, TRACED)) as pacs:
        statuses = store_from(SENDERS, pacs.port, instances)
        pacs.stop()
        done = ended(trace, pacs)
    assert statuses == [[0] * INSTANCES] * SENDERS

    stored = 0
    mine: dict[str, list[str]] = {}
    for thread, step in done:
        if step in (INDEX_SYNC_BEGINS, "sync index"):
            # Whoever leads syncs for all that wait.
            for steps_of_one in mine.values():
                steps_of_one.append(step)
        elif step != "answer":
            mine.setdefault(thread, []).append(step)
        elif "place" in (before := mine.pop(thread, [])):
            assert before.index("sync file") < before.index("place")
            after = before[-before[::-1].index("sync directory") :]
            assert "sync index" in after[after.index(INDEX_SYNC_BEGINS) :]
            stored += 1
    assert stored == len(instances)


def ended(trace: Path, pacs: PacsProcess) -> list[tuple[str, str]]:
    """Thread and step of each traced call that matters, in the order in which they ended; answers as they began.

    A sync of the index is there twice: where it begins and where it ends.
    """
    found, begun = [], {}
    for line in trace.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        call = _CALL.match(line)
        step = _step(call[1], call[2], pacs) if call else begun.pop(thread, None)
        if call and step == "sync index":
            found.append((thread, INDEX_SYNC_BEGINS))
        if call and step != "answer" and rest.endswith("<unfinished ...>"):
            begun[thread] = step
        elif step:
            found.append((thread, step))
    return found


# What one more instance of a series asks of the archive's file system, and how often: free space, the file, its head
# and its data set, whether the final name is free, the sync, the link. A small header is not read back.
ONE = {"statfs": 1, "open": 1, "write": 2, "newfstat": 1, "fdatasync": 1, "link": 1, "close": 1}
# It is sealed; at the end it is looked whether somebody has retired the slot meanwhile.
ONE_IN_A_SLOT = ONE | {"pwrite": 1, "newfstat": 2}
# The directory is opened and synced, and the name in `incoming/` removed; with slots a checkpoint does that for many.
ONE_BY_ITSELF = ONE | {"open": 2, "fsync": 1, "close": 2, "unlink": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("fsync", "one"), [("slots", ONE_IN_A_SLOT), ("each", ONE_BY_ITSELF)])
def test_an_instance_costs_few_calls(strace: str, tmp_path: Path, fsync: str, one: dict[str, int]) -> None:
    """Counted in the thread that stores, from the second instance on."""
    by_thread = calls_by_thread(strace, tmp_path, {"storage": {"fsync": fsync, "scrub_rate": None}}, INSTANCES + 2)
    [calls] = [calls for calls in by_thread.values() if calls.count("link") > INSTANCES]
    linked = [index for index, call in enumerate(calls) if call == "link"]
    each = Counter(calls[linked[-INSTANCES - 1] : linked[-1]])
    assert each == {call: count * INSTANCES for call, count in one.items()}


def calls_by_thread(strace: str, tmp_path: Path, settings: dict[str, object], instances: int) -> dict[str, list[str]]:
    """The calls about the archive's files of each thread of a server that stores a series."""
    trace = tmp_path / "trace"
    database_url = f"sqlite:///{tmp_path / 'pacs' / 'pacs.db'}"
    prefix = traced(strace, trace, "%file,%desc")
    with PacsProcess(tmp_path / "pacs", database_url, settings, prefix=prefix) as pacs:
        with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
            for instance in map(Instance.of, make_study(1, instances)):
                assert store(link, instance).status == 0
        pacs.stop()
    found: dict[str, list[str]] = {}
    for line in trace.read_text(errors="replace").splitlines():
        if f"{pacs.archive}/" in line and (call := _CALL.match(line)):
            found.setdefault(line.partition(" ")[0], []).append(call[1].removesuffix("64").removesuffix("at"))
    return found


def peers_seen(database_url: str) -> int:
    """How many peers a server's index has."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM peer_seen")).scalar_one())
    finally:
        engine.dispose()


def first_answer(everything: list[str]) -> int:
    """Where the steps of the first instance end; what was sent before was the association's."""
    return everything.index("answer", everything.index("sync file")) + 1
