"""Who is receiving what: locks tell the living from the dead, whatever their pids."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from power import Disk

from pacs_server.storage.filesystem.incoming_journal import IncomingJournal

HOST = os.uname().nodename
DEAD = 2**22 + 1  # above the largest pid there can be
RECEIVE = """
import os, sys
from pathlib import Path
from pacs_server.storage.filesystem.incoming_journal import IncomingJournal
journal = IncomingJournal(Path(sys.argv[1]))
print(journal.entry(), flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def receiver(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that receives; it ends without tidying up when its input ends."""
    command = [sys.executable, "-c", RECEIVE, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def entry_of(receiver: subprocess.Popen[str]) -> Path:
    assert receiver.stdout is not None
    entry = Path(receiver.stdout.readline().strip())
    entry.touch()
    return entry


def abandoned(journal: IncomingJournal) -> list[Path]:
    with journal.abandoned() as entries:
        return entries


@pytest.mark.slow
def test_who_asks_whether_others_are_there_is_there_for_them(directory: Path, receiver: subprocess.Popen[str]) -> None:
    first, second = IncomingJournal(directory), IncomingJournal(directory)
    entry_of(receiver).unlink()
    assert first.is_shared()
    receiver.communicate(timeout=60)
    assert not first.is_shared()
    # The second one only asks, and has no entries.
    assert second.is_shared()
    assert first.is_shared()
    second.close()
    assert not first.is_shared()
    first.close()
    assert list(directory.iterdir()) == []


@pytest.mark.slow
def test_what_a_dead_process_left_is_found_while_others_look_whether_it_lives(
    directory: Path, receiver: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(receiver)
    receiver.communicate(timeout=60)
    lock = next(directory.glob("*.lock"))
    looking = os.open(lock, os.O_RDWR)
    fcntl.flock(looking, fcntl.LOCK_EX)
    # It has looked by then.
    monkeypatch.setattr("time.sleep", lambda seconds: os.close(looking))
    assert abandoned(IncomingJournal(directory)) == [entry]


@pytest.mark.slow
def test_entries_are_abandoned_when_their_process_dies_and_not_before(
    directory: Path, receiver: subprocess.Popen[str]
) -> None:
    entry = entry_of(receiver)
    journal = IncomingJournal(directory)
    assert abandoned(journal) == []
    receiver.communicate(timeout=60)
    assert abandoned(journal) == [entry]
    entry.unlink()
    assert abandoned(journal) == []
    assert list(directory.iterdir()) == []


def test_the_lock_tells_and_not_the_pid(directory: Path) -> None:
    """A pid comes back, in a container always the same one; another host's says nothing here."""
    dead = [f"{HOST}-1-r00000000", f"{HOST}-{os.getpid()}-r00000000", "elsewhere-5-r00000000"]
    for owner in dead:
        (directory / f"{owner}.lock").touch()
        (directory / f"{owner}-0.part").touch()
    assert {path.name for path in abandoned(IncomingJournal(directory))} == {f"{owner}-0.part" for owner in dead}


def test_two_journals_of_one_process_are_two_owners(directory: Path) -> None:
    one, other = IncomingJournal(directory), IncomingJournal(directory)
    Path(one.entry()).touch()
    assert abandoned(other) == []
    one.close()
    assert len(abandoned(other)) == 1


def test_nobody_else_recovers_what_somebody_is_at(directory: Path) -> None:
    (directory / "elsewhere-5-r00000000.lock").touch()
    (directory / "elsewhere-5-r00000000-0.part").touch()
    with IncomingJournal(directory).abandoned() as entries:
        assert [entry.name for entry in entries] == ["elsewhere-5-r00000000-0.part"]
        assert abandoned(IncomingJournal(directory)) == []


def test_a_lock_that_was_taken_for_a_dead_one_is_made_anew(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = fcntl.flock, []

    def remove_first(descriptor: int, operation: int) -> None:
        real(descriptor, operation)
        if not taken:
            taken.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            os.unlink(taken[0])

    monkeypatch.setattr(fcntl, "flock", remove_first)
    owner = Path(IncomingJournal(directory).entry()).name.removesuffix("-0.part")
    assert [path.name for path in directory.iterdir()] == [f"{owner}.lock"]
    assert owner not in taken[0]


def test_the_lock_outlives_a_power_loss(directory: Path) -> None:
    """With entries and no lock it would go by host and pid, which are others in the next container."""
    disk = Disk(directory)
    with disk.watched():
        owner = Path(IncomingJournal(directory).entry()).name.removesuffix("-0.part")
    disk.lose_power()
    assert [path.name for path in directory.iterdir()] == [f"{owner}.lock"]


@pytest.mark.parametrize("locked", [True, False])
def test_without_locks_it_goes_by_host_and_pid(directory: Path, monkeypatch: pytest.MonkeyPatch, locked: bool) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    if locked:
        monkeypatch.setattr(fcntl, "flock", refuse)
    owners = [f"{HOST}-{DEAD}", f"{HOST}-{os.getpid()}", f"{HOST}-1", "elsewhere-5"]
    owners += [f"{owner}-r00000000" for owner in owners]
    for owner in owners:
        (directory / f"{owner}-0.part").touch()
        if locked:
            (directory / f"{owner}.lock").touch()
    (directory / "x").touch()
    gone = [owner for owner in owners if str(DEAD) in owner or str(os.getpid()) in owner]
    assert {path.name for path in abandoned(IncomingJournal(directory))} == {f"{owner}-0.part" for owner in gone}


def test_closing_leaves_what_is_not_settled(directory: Path) -> None:
    journal = IncomingJournal(directory)
    entry = Path(journal.entry())
    entry.touch()
    journal.close()
    assert abandoned(IncomingJournal(directory)) == [entry]
    # It may be used again, under another name.
    again = Path(journal.entry())
    assert again.name.rpartition("-")[0] != entry.name.rpartition("-")[0]
    journal.close()
    assert sorted(directory.iterdir()) == [entry, entry.with_name(entry.name.replace("-0.part", ".lock"))]
