"""The scrub reads everything, at its pace, finds what a disk has lost, and is gone at once when it has to stop."""

import itertools
import json
import logging
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from archives import SmallArchive
from datasets import make_study
from servers import eventually

from pacs_server.archive.changes import Feed
from pacs_server.index.feed import Consumer
from pacs_server.storage.file_source import FileSource
from pacs_server.upkeep import checking
from pacs_server.upkeep import scrub as module
from pacs_server.upkeep.checking import Finding, FindingKind, check, gentle_pieces
from pacs_server.upkeep.scrub import Scrub

FAST = 1 << 40


@pytest.fixture
def small(tmp_path: Path, database_url: str) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, database_url)
    yield archive
    archive.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, f"sqlite:///{tmp_path / 'pacs.db'}")
    yield archive
    archive.close()


class Running:
    """A scrub and what it counts."""

    def __init__(self, small: SmallArchive, rate: int | None = FAST) -> None:
        self.rate = rate
        self.read: list[int] = []
        self.scrub = Scrub(small.storage, small.database, lambda: self.rate, counted=self.read.append)

    def passed(self) -> bool:
        return self.scrub.status()["scrub"]["last_pass"] is not None


@contextmanager
def running(small: SmallArchive, rate: int | None = FAST) -> Iterator[Running]:
    one = Running(small, rate)
    one.scrub.start()
    try:
        yield one
    finally:
        one.scrub.stop()
        assert not [thread for thread in threading.enumerate() if thread.name == "scrub"]


def one_pass(small: SmallArchive) -> Running:
    """A whole pass by a new process."""
    forget_the_day(small)
    before = passes(small)
    with running(small) as one:
        assert eventually(lambda: passes(small) > before)
    return one


def passes(small: SmallArchive) -> int:
    """How many passes have come to their end."""
    kept = json.loads(small.parts.state.get("scrub") or '{"number": 0, "reading": false}')
    return int(kept["number"]) - bool(kept["reading"])


def forget_the_day(small: SmallArchive) -> None:
    """The last pass began long ago."""
    kept = small.parts.state.get("scrub")
    if kept is not None:
        small.parts.state.put({"scrub": json.dumps(json.loads(kept) | {"began": 0.0})})


def found(one: Running) -> dict[str, int]:
    return {kind: count for kind, count in one.scrub.findings().items() if count}


@pytest.mark.slow
def test_it_finds_what_is_lost(small: SmallArchive, caplog: pytest.LogCaptureFixture) -> None:
    changed, missing, cut, *_ = small.study(5)
    small.change(changed)
    small.file(missing).unlink()
    small.file(cut).write_bytes(b"")
    with caplog.at_level(logging.ERROR, "pacs_server.upkeep.scrub"):
        one = one_pass(small)
    assert found(one) == {"changed": 1, "missing": 1, "size": 1}
    assert one.scrub.status()["scrub"]["findings"] == 3
    assert len(one.read) == 5
    told = {(record.sop_instance_uid, record.path) for record in caplog.records}  # type: ignore[attr-defined]
    assert told == {(stored.uids.sop, stored.path) for stored in (changed, missing, cut)}


@pytest.mark.slow
def test_consumers_of_the_feed_are_told_of_a_finding_once_and_when_it_is_over(small: SmallArchive) -> None:
    (stored,) = small.study(1)
    feed, consumer = Feed(small.database), Consumer("findings")
    with feed.batch(consumer):
        pass
    small.change(stored)
    for _ in range(2):
        one_pass(small)
    small.change(stored)
    one_pass(small)
    with feed.batch(consumer) as batch:
        told = [(change.kind, change.sop_instance_uid, change.detail) for change in batch]
    assert told == [("FINDING", stored.uids.sop, "changed"), ("FINDING", stored.uids.sop, "in order")]


@pytest.mark.slow
def test_what_is_replaced_or_deleted_while_it_is_read_is_no_finding(
    small: SmallArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, deleted, lost = small.study(3)
    data = {stored: small.file(stored).read_bytes() for stored in (replaced, deleted)}
    for stored in (replaced, deleted, lost):
        small.file(stored).unlink()
    looked = []

    def look(storage: Any, row: Any, *args: Any) -> Finding | None:
        finding = check(storage, row, *args)
        uid = row.stored.uids.sop
        if uid == replaced.uids.sop and uid not in looked:
            small.file(replaced).write_bytes(data[replaced])
        if uid == deleted.uids.sop and uid not in looked:
            small.forget(deleted)
        looked.append(uid)
        return finding

    monkeypatch.setattr("pacs_server.upkeep.scrub.check", look)
    assert found(one_pass(small)) == {"missing": 1}
    assert looked.count(lost.uids.sop) == 2


@pytest.mark.slow
def test_what_is_in_order_again_is_forgotten(small: SmallArchive) -> None:
    changed, deleted, missing = small.study(3)
    for stored in (changed, deleted):
        small.change(stored)
    data = small.file(missing).read_bytes()
    small.file(missing).unlink()
    assert found(one_pass(small)) == {"changed": 2, "missing": 1}
    small.change(changed)
    small.file(missing).write_bytes(data)
    small.forget(deleted)
    assert found(one_pass(small)) == {}
    assert list(small.parts.state.items("scrub.finding.")) == []


def test_what_is_in_order_again_does_not_come_back_with_a_restart(sqlite: SmallArchive) -> None:
    one = Running(sqlite)
    one.scrub._note("1.2.3", Finding(FindingKind.CHANGED, "1.2.3", "a/b.dcm", "the digest differs"))
    assert found(one) == {"changed": 1}
    one.scrub._note("1.2.3", None)
    assert list(sqlite.parts.state.items("scrub.finding.")) == []


@pytest.mark.slow
def test_findings_outlive_the_process(small: SmallArchive) -> None:
    small.change(small.study(2)[0])
    one_pass(small)
    with running(small, rate=None) as one:
        assert eventually(lambda: found(one) == {"changed": 1})
        assert one.passed()


@pytest.mark.slow
def test_a_pass_goes_on_after_a_restart(sqlite: SmallArchive) -> None:
    """Stopped again and again, it reads each instance once."""
    stored = sqlite.study(6)
    read = 0
    for _ in range(100):
        with running(sqlite, rate=stored[0].size * 20) as one:
            assert eventually(lambda: one.read or one.passed())
        read += len(one.read)
        if one.passed():
            break
    assert one.passed()
    assert read == 6


@pytest.mark.slow
def test_a_small_archive_is_read_once_a_day(sqlite: SmallArchive) -> None:
    sqlite.study(2)
    one_pass(sqlite)
    with running(sqlite) as one:
        assert one.scrub._thread.is_alive()
        assert not eventually(lambda: one.read, seconds=0.3)
    forget_the_day(sqlite)
    with running(sqlite) as one:
        assert eventually(lambda: len(one.read) == 2)


@pytest.mark.slow
def test_off_and_on(sqlite: SmallArchive) -> None:
    sqlite.study(2)
    with running(sqlite, rate=None) as one:
        assert not eventually(lambda: one.read, seconds=0.3)
        one.rate = FAST
        one.scrub.reload()
        assert eventually(one.passed)


def test_switched_off_in_the_middle_of_a_file(sqlite: SmallArchive) -> None:
    sqlite.study(2)
    with running(sqlite, rate=1) as one:
        assert eventually(lambda: one.scrub._free_at > 0)
        one.rate = None
        one.scrub.reload()
        assert eventually(lambda: one.scrub._thread.is_alive() and not one.scrub._news.is_set())
        one.rate = FAST
        one.scrub.reload()
        assert eventually(one.passed)
    assert len(one.read) == 2


def test_it_stops_at_once(sqlite: SmallArchive) -> None:
    sqlite.study(1)
    one = Running(sqlite, rate=1)
    one.scrub.start()
    assert eventually(lambda: one.scrub._free_at > 0)
    began = time.monotonic()
    one.scrub.stop()
    assert time.monotonic() - began < 30
    assert one.read == []


def test_it_keeps_its_pace(sqlite: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute of the clock of the pace: neither faster nor slower, and never much at once."""
    one = Running(sqlite, rate=1_000_000)
    clock = itertools.accumulate(itertools.repeat(0.0))
    now = 0.0
    spent: list[tuple[float, int]] = []

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        return False

    monkeypatch.setattr(module.time, "monotonic", lambda: now + next(clock))
    monkeypatch.setattr(one.scrub._news, "wait", wait)
    while now < 60:
        size = checking.CHUNK if len(spent) % 3 else 4096
        one.scrub._spend(size)
        spent.append((now, size))
    total = sum(size for _, size in spent)
    assert 0.99 * 60_000_000 <= total <= 1.01 * 60_000_000 + checking.CHUNK
    for second in range(60):
        assert sum(size for at, size in spent if second <= at < second + 1) <= 1_000_000 + 2 * checking.CHUNK


def test_idle_time_is_not_saved_up(sqlite: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Running(sqlite, rate=1000)
    waited: list[float] = []
    monkeypatch.setattr(one.scrub._news, "wait", lambda seconds: bool(waited.append(seconds)))
    one.scrub._spend(1000)
    one.scrub._spend(1000)
    assert waited[0] == pytest.approx(1, abs=0.1)
    assert waited[1] == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_many_missing_files_are_not_read_in_a_rush(sqlite: SmallArchive) -> None:
    for stored in sqlite.study(4):
        sqlite.file(stored).unlink()
    with running(sqlite, rate=module._LEAST * 20) as one:
        began = time.monotonic()
        assert eventually(one.passed)
        assert time.monotonic() - began > 0.15


@pytest.mark.slow
def test_a_failing_index_is_asked_again(
    sqlite: SmallArchive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_PAUSE", 0.05)
    sqlite.study(1)
    sqlite.sql("ALTER TABLE instance RENAME TO away")
    with caplog.at_level(logging.WARNING, "pacs_server.upkeep.scrub"), running(sqlite) as one:
        assert eventually(lambda: "scrub cannot go on yet" in caplog.messages)
        sqlite.sql("ALTER TABLE away RENAME TO instance")
        assert eventually(one.passed)
    assert len(one.read) == 1


# ------------------------------------------------------------------------------------ the page cache


def resident(path: Path) -> int:
    """How many pages of a file are in the page cache."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        pages = -(-len(mapped) // mmap.PAGESIZE)
        vector = ctypes.create_string_buffer(pages)
        view = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.addressof(view), len(mapped), vector) == 0, os.strerror(ctypes.get_errno())
        del view
    return sum(byte & 1 for byte in vector.raw[:pages])


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(4 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return path


def read(path: Path) -> bytes:
    with FileSource(str(path), "big") as source:
        return b"".join(gentle_pieces(source, lambda size: None))


def drop(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path) > 0:
        pytest.skip("this file system keeps its pages")


def test_what_was_not_cached_is_not_afterwards(big: Path) -> None:
    drop(big)
    assert read(big) == big.read_bytes()
    drop(big)
    read(big)
    assert resident(big) == 0


def test_what_was_cached_still_is(big: Path) -> None:
    drop(big)
    data = big.read_bytes()
    before = resident(big)
    assert before > 0
    assert read(big) == data
    assert resident(big) == before


def test_a_file_that_shrinks_is_read_to_its_end(big: Path) -> None:
    def shrink(size: int) -> None:
        os.truncate(big, checking.CHUNK)

    with FileSource(str(big), "big") as source:
        assert len(b"".join(gentle_pieces(source, shrink))) == checking.CHUNK


@pytest.mark.slow
def test_too_many_open_files_say_nothing_of_an_instance(sqlite: SmallArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite.study(1)
    monkeypatch.setattr(module, "_PAUSE", 0.05)
    failing = True

    real = os.open

    def shortage(path: str, *args: Any, **options: Any) -> int:
        if failing and str(path).endswith(".dcm"):
            raise OSError(24, "Too many open files")
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", shortage)
    with running(sqlite) as one:
        assert not eventually(lambda: one.read, seconds=0.3)
        failing = False
        assert eventually(one.passed)
    assert found(one) == {}


@pytest.mark.slow
def test_it_takes_in_what_comes_during_a_pass(sqlite: SmallArchive) -> None:
    sqlite.study(2)
    with running(sqlite, rate=module._LEAST * 20) as one:
        sqlite.store(make_study(1, 1))
        assert eventually(one.passed)
    assert len(one.read) == 3
