"""The audit trail: what is kept, how it goes on after a failure, days, retention, and what verify notices."""

import errno
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from unittest import mock

import pytest
from audits import an_event, clock
from processes import wait_for
from pydantic import SecretStr

from pacs_server.audit import chain, trail
from pacs_server.audit.events import EventID, EventType, Outcome
from pacs_server.audit.files import last_line
from pacs_server.audit.record import Position, Record, read_record
from pacs_server.audit.trail import AuditTrail, open_trail
from pacs_server.audit.verify import InvalidTrail, ValidTrail, verify
from pacs_server.config import AuditConfig
from pacs_server.errors import AuditUnavailable, ConfigError

Damage = Callable[[list[bytes]], list[bytes]]
FIRST, SECOND, THIRD = "2026-03-01", "2026-03-02", "2026-03-03"


@pytest.fixture
def settings(tmp_path: Path) -> AuditConfig:
    return AuditConfig(directory=tmp_path / "audit")


@pytest.fixture
def opened(settings: AuditConfig) -> Iterator[AuditTrail]:
    with open_trail(settings) as opened:
        yield opened


def write_days(settings: AuditConfig, *days: str, records: int = 3) -> None:
    with open_trail(settings) as opened:
        for day in days:
            with clock(day):
                for number in range(records):
                    opened.write(an_event(f"P{number}"), durable=False)


def kept(settings: AuditConfig) -> list[Record]:
    with open_trail(settings) as opened:
        return [record for record, _ in opened.records_after(None)]


def file_of(settings: AuditConfig, day: str) -> Path:
    return settings.directory / f"audit-{day}.jsonl"


def edit(path: Path, damage: Damage) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.chmod(0o600)
    path.write_bytes(b"".join(damage(lines)))


def broken(settings: AuditConfig) -> InvalidTrail:
    with pytest.raises(InvalidTrail) as caught:
        verify(settings)
    return caught.value


# --- what is kept ---


def test_records_are_read_back_as_written(settings: AuditConfig) -> None:
    written = [an_event("P1"), an_event("Jörg\n\u2028\x00", detail='","mac":"'), an_event("\ud800")]
    before = datetime.now(UTC)
    with open_trail(settings) as opened:
        for event in written:
            opened.write(event)
    records = kept(settings)
    assert [record.event for record in records] == written
    assert [record.sequence for record in records] == [1, 2, 3]
    assert before <= records[0].time <= records[2].time <= datetime.now(UTC)
    assert {record.process for record in records} == {os.getpid()}
    found = verify(settings)
    assert (found.records, found.files, found.first, found.last.sequence) == (3, 1, 1, 3)


def test_only_the_owner_may_look(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in settings.directory.iterdir()}
    assert stat.S_IMODE(settings.directory.stat().st_mode) == 0o700
    closed = modes.pop(f"audit-{FIRST}.jsonl")
    assert closed == 0o400
    assert set(modes) == {f"audit-{SECOND}.jsonl", "anchors.jsonl", "head", "key"}
    assert set(modes.values()) == {0o600}


def test_goes_on_where_it_ended(settings: AuditConfig) -> None:
    for _ in range(3):
        with open_trail(settings) as opened:
            opened.write(an_event())
    assert verify(settings).last.sequence == 3


def test_an_empty_trail_is_in_order(settings: AuditConfig) -> None:
    open_trail(settings).close()
    assert verify(settings).records == 0


def test_a_closed_trail_takes_nothing(opened: AuditTrail) -> None:
    opened.close()
    opened.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        opened.write(an_event())


def test_the_listener_hears_of_every_record(opened: AuditTrail) -> None:
    heard: list[int] = []
    opened.subscribe(lambda: heard.append(opened.sequence))
    opened.write(an_event())
    opened.write(an_event(), durable=False)
    assert heard == [1, 2]


def test_the_sequence_is_known_from_the_start(settings: AuditConfig) -> None:
    write_days(settings, FIRST)
    with open_trail(settings) as opened:
        assert opened.sequence == 3


# --- durability ---


def test_a_durable_record_is_synced_before_write_returns(opened: AuditTrail) -> None:
    with mock.patch.object(trail.os, "fdatasync", wraps=os.fdatasync) as sync:
        opened.write(an_event())
        assert sync.call_count == 1


@pytest.mark.slow
def test_others_are_synced_together_soon_after(opened: AuditTrail) -> None:
    with mock.patch.object(trail.os, "fdatasync", wraps=os.fdatasync) as sync:
        for _ in range(50):
            opened.write(an_event(), durable=False)
        wait_for(lambda: sync.call_count, "a sync")
        assert sync.call_count == 1
        opened.write(an_event(), durable=False)
        wait_for(lambda: sync.call_count == 2, "another sync")


def test_threads_share_a_sync(opened: AuditTrail) -> None:
    entered, release, calls = threading.Event(), threading.Event(), []

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        entered.set()
        assert release.wait(30)

    threads = [threading.Thread(target=opened.write, args=(an_event(),)) for _ in range(8)]
    with mock.patch.object(trail.os, "fdatasync", slow):
        threads[0].start()
        assert entered.wait(30)
        for thread in threads[1:]:
            thread.start()
        wait_for(lambda: opened.sequence == 8, "all records")
        release.set()
        for thread in threads:
            thread.join(30)
    assert len(calls) == 2  # the one that was under way, and one for the seven others


def test_a_failed_sync_is_told(opened: AuditTrail) -> None:
    with (
        mock.patch.object(trail.os, "fdatasync", side_effect=OSError(errno.EIO, "Input/output error")),
        pytest.raises(AuditUnavailable, match="synced"),
    ):
        opened.write(an_event())
    opened.write(an_event())


@pytest.mark.parametrize("can_truncate", [True, False])
def test_a_full_disk_is_told_and_repaired(settings: AuditConfig, opened: AuditTrail, can_truncate: bool) -> None:
    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2])

    real = os.write
    opened.write(an_event("P1"))
    truncate = os.ftruncate if can_truncate else mock.Mock(side_effect=OSError(errno.EIO, "failed"))
    with (
        mock.patch.object(chain.os, "write", half),
        mock.patch.object(chain.os, "ftruncate", truncate),
        pytest.raises(AuditUnavailable),
    ):
        opened.write(an_event("P2"))
    with (
        mock.patch.object(chain.os, "write", side_effect=OSError(errno.ENOSPC, "full")),
        pytest.raises(AuditUnavailable, match="full"),
    ):
        opened.write(an_event("P2"))
    opened.write(an_event("P3"))
    opened.close()
    events = [record.event for record in kept(settings)]
    assert (events[0], events[-1]) == (an_event("P1"), an_event("P3"))
    assert len(events) == (2 if can_truncate else 3)
    assert can_truncate or "cut off" in events[1].detail
    assert verify(settings).last.sequence == len(events)


# --- several processes, here as several trails ---


@pytest.mark.slow
def test_a_disk_that_stays_full_costs_no_descriptors(settings: AuditConfig, opened: AuditTrail) -> None:
    opened.write(an_event("before"))
    before = len(os.listdir("/proc/self/fd"))
    with mock.patch.object(chain.os, "write", side_effect=OSError(errno.ENOSPC, "full")):
        for _ in range(10):
            with pytest.raises(AuditUnavailable, match="full"):
                opened.write(an_event("lost"))
    # The one that the last sync was given, and the one that is open now.
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    opened.write(an_event("after"))
    assert len(os.listdir("/proc/self/fd")) == before
    assert verify(settings).records == 2


def test_two_processes_keep_one_chain(settings: AuditConfig) -> None:
    with open_trail(settings) as first, open_trail(settings) as second:
        for number in range(20):
            (first if number % 3 else second).write(an_event(f"P{number}"), durable=False)
    assert [record.event.subjects[0].patient_id for record in kept(settings)] == [f"P{n}" for n in range(20)]
    assert verify(settings).records == 20


def test_writers_of_all_kinds_at_once(settings: AuditConfig) -> None:
    def work(opened: AuditTrail, name: str) -> None:
        for number in range(25):
            opened.write(an_event(f"{name}-{number}"), durable=number % 5 == 0)

    with open_trail(settings) as first, open_trail(settings) as second:
        threads = [
            threading.Thread(target=work, args=(opened, f"{index}-{n}"))
            for index, opened in enumerate((first, second))
            for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert verify(settings).records == 150
    assert len({record.event.subjects[0].patient_id for record in kept(settings)}) == 150


def test_two_processes_at_midnight(settings: AuditConfig) -> None:
    with open_trail(settings) as first, open_trail(settings) as second:
        with clock(FIRST):
            first.write(an_event())
            second.write(an_event())
        with clock(SECOND):
            first.write(an_event())
        with clock(FIRST, "23:59:59"):  # the clock was set back, and the second has the old file open
            second.write(an_event())
    assert verify(settings).files == 2


def test_a_lock_that_is_not_let_go_is_told(settings: AuditConfig, opened: AuditTrail) -> None:
    other = os.open(settings.directory / "head", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            mock.patch("pacs_server.audit.files._LOCK_SECONDS", 0.05),
            pytest.raises(AuditUnavailable, match="another process"),
        ):
            opened.write(an_event())
    finally:
        os.close(other)
    opened.write(an_event())


# --- after a crash ---


def test_a_torn_record_is_cut_off_and_noted(settings: AuditConfig) -> None:
    write_days(settings, FIRST)
    with file_of(settings, FIRST).open("ab") as file:
        file.write(b'{"seq":4,"tim')
    assert broken(settings).problem.startswith("torn")
    with open_trail(settings) as opened, clock(FIRST):
        opened.write(an_event("after"))
    note, after = kept(settings)[-2:]
    assert note.event.detail == f"13 bytes of an unfinished record were cut off audit-{FIRST}.jsonl"
    assert note.event.event_id is EventID.SECURITY_ALERT
    assert after.event == an_event("after")
    assert verify(settings).records == 5


@pytest.mark.parametrize("step", ["append_anchor", "os.fchmod", "create", "sync_directory"])
def test_a_crash_at_the_change_of_day(settings: AuditConfig, step: str) -> None:
    write_days(settings, FIRST)
    target = chain.os if "." in step else chain
    with (
        open_trail(settings) as opened,
        clock(SECOND),
        mock.patch.object(target, step.removeprefix("os."), side_effect=OSError(errno.EIO, "killed")),
        pytest.raises(AuditUnavailable),
    ):
        opened.write(an_event())
    for day in (SECOND, THIRD):
        with open_trail(settings) as opened, clock(day):
            opened.write(an_event(day))
        assert verify(settings).last.sequence == len(kept(settings))


def test_a_torn_anchor_is_replaced(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND)
    with (settings.directory / "anchors.jsonl").open("ab") as file:
        file.write(b'{"day":')
    assert broken(settings).file == "anchors.jsonl"
    write_days(settings, THIRD)
    assert verify(settings).files == 3


# --- days ---


def test_a_day_has_a_file_and_an_anchor(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND, "2026-03-09")
    records = kept(settings)
    assert verify(settings) == ValidTrail(11, 3, 1, chain.Mark(11, records[-1].mac))
    notes = [record for record in records if record.event.event_id is EventID.SECURITY_ALERT]
    assert [note.event.detail for note in notes] == [
        f"{FIRST} ended with record 3, MAC {records[2].mac}",
        f"{SECOND} ended with record 7, MAC {records[6].mac}",
    ]
    assert {(note.event.event_type, note.event.outcome) for note in notes} == {
        (EventType.AUDIT_RECORDING_STARTED, Outcome.SUCCESS)
    }


def test_a_clock_that_was_set_back_makes_no_earlier_file(settings: AuditConfig) -> None:
    write_days(settings, SECOND, FIRST, SECOND, THIRD)
    assert [path.name for path in sorted(settings.directory.glob("audit-*"))] == [
        f"audit-{SECOND}.jsonl",
        f"audit-{THIRD}.jsonl",
    ]
    assert verify(settings).files == 2


# --- what verify notices: one damage of each kind by its name; the property test has the rest ---


@pytest.mark.parametrize(
    ("damage", "line", "sequence", "problem"),
    [
        (lambda rows: [rows[0], rows[1].replace(b'"P1"', b'"P9"'), *rows[2:]], 2, 2, "changed"),
        (lambda rows: [rows[0], b"nothing\n", *rows[2:]], 2, 2, "changed"),
        (lambda rows: [rows[0], *rows[2:]], 2, 3, "missing"),
        (lambda rows: [rows[0], rows[2], rows[1]], 2, 3, "out of order"),
        (lambda rows: [rows[0], rows[0], *rows[1:]], 2, 1, "out of order"),
        (lambda rows: rows[1:], 1, 2, "missing"),
        (lambda rows: rows[:2], 3, 3, "missing"),
        (lambda rows: [*rows[:2], rows[2][:-1]], 3, None, "torn"),
    ],
    ids=["changed", "replaced", "missing", "swapped", "twice", "first", "last", "torn"],
)
@pytest.mark.parametrize("days", [[FIRST], [FIRST, SECOND]], ids=["today", "a closed day"])
def test_damage_in_a_day(
    settings: AuditConfig, days: list[str], damage: Damage, line: int, sequence: int | None, problem: str
) -> None:
    write_days(settings, *days)
    edit(file_of(settings, FIRST), damage)
    found = broken(settings)
    assert (found.file, found.line, found.sequence) == (f"audit-{FIRST}.jsonl", line, sequence)
    assert found.problem.startswith(problem)


@pytest.mark.parametrize(
    ("file", "place", "problem"),
    [
        (f"audit-{FIRST}.jsonl", (f"audit-{SECOND}.jsonl", 1), "missing"),
        (f"audit-{SECOND}.jsonl", (f"audit-{THIRD}.jsonl", 1), "missing"),
        (f"audit-{THIRD}.jsonl", (f"audit-{SECOND}.jsonl", 5), "missing"),
        ("anchors.jsonl", ("anchors.jsonl", 1), "missing"),
        ("head", ("head", 1), "missing"),
    ],
)
def test_a_file_that_is_gone(settings: AuditConfig, file: str, place: tuple[str, int], problem: str) -> None:
    write_days(settings, FIRST, SECOND, THIRD)
    (settings.directory / file).unlink()
    found = broken(settings)
    assert (found.file, found.line) == place
    assert found.problem.startswith(problem)


def test_lost_records_stay_lost_when_the_trail_goes_on(settings: AuditConfig) -> None:
    write_days(settings, FIRST, records=5)
    edit(file_of(settings, FIRST), lambda rows: rows[:3])
    write_days(settings, FIRST, records=1)
    found = broken(settings)
    assert (found.line, found.sequence, found.problem[:7]) == (4, 6, "missing")
    assert kept(settings)[3].event.detail == "records 4 to 5 are missing"


def test_a_file_deleted_under_the_server_is_noticed(settings: AuditConfig, opened: AuditTrail) -> None:
    opened.write(an_event())
    next(settings.directory.glob("audit-*")).unlink()
    opened.write(an_event())
    assert "records 1 to 1 are missing" in kept(settings)[0].event.detail
    assert broken(settings).problem.startswith("missing")


def test_a_changed_last_record_is_not_built_upon(settings: AuditConfig) -> None:
    write_days(settings, FIRST)
    edit(file_of(settings, FIRST), lambda rows: [*rows[:2], rows[2].replace(b'"P2"', b'"P9"')])
    write_days(settings, FIRST, records=1)
    assert (broken(settings).line, broken(settings).problem[:7]) == (3, "changed")
    assert any("was changed" in record.event.detail for record in kept(settings))


def test_a_head_that_was_removed_is_noted(settings: AuditConfig) -> None:
    write_days(settings, FIRST)
    (settings.directory / "head").unlink()
    write_days(settings, FIRST, records=1)
    assert kept(settings)[3].event.detail == "the file head was missing or changed"
    assert verify(settings).records == 5


def test_an_old_day_brought_back_after_its_time_does_not_pass(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND)
    old = file_of(settings, FIRST).read_bytes()
    file_of(settings, "2026-02-01").write_bytes(old)
    assert broken(settings).problem.startswith(("missing", "out of order"))


def test_a_record_of_another_history_does_not_pass(settings: AuditConfig, tmp_path: Path) -> None:
    write_days(settings, FIRST, records=1)
    other = settings.model_copy(update={"directory": tmp_path / "other"})
    shutil.copytree(settings.directory, other.directory)
    for each, patient in ((settings, "P1"), (other, "P2")):
        with open_trail(each) as opened, clock(FIRST):
            opened.write(an_event(patient))
            opened.write(an_event(patient))
    foreign = file_of(other, FIRST).read_bytes().splitlines(keepends=True)[2]
    edit(file_of(settings, FIRST), lambda rows: [*rows[:2], foreign])
    assert (broken(settings).line, broken(settings).problem) == (3, "changed: it was written after another record")


# --- the key ---


def test_a_key_from_the_settings(settings: AuditConfig) -> None:
    own = settings.model_copy(update={"key": SecretStr("k" * 32)})
    write_days(own, FIRST)
    assert not (settings.directory / "key").exists()
    assert verify(own).records == 3
    other = settings.model_copy(update={"key": SecretStr("x" * 32)})
    assert broken(other).problem.startswith("wrong key")
    with pytest.raises(ConfigError, match="another key"):
        open_trail(other)
    with pytest.raises(AuditUnavailable, match="key"):
        open_trail(settings)  # a trail without its key does not get a new one
    assert not (settings.directory / "key").exists()


def test_the_made_key_is_random_and_stays(settings: AuditConfig, tmp_path: Path) -> None:
    write_days(settings, FIRST)
    key = (settings.directory / "key").read_bytes()
    assert len(key) == 64
    write_days(settings, FIRST)
    assert (settings.directory / "key").read_bytes() == key
    other = AuditConfig(directory=tmp_path / "other")
    open_trail(other).close()
    assert (other.directory / "key").read_bytes() != key


def test_a_key_file_that_cannot_be_right(settings: AuditConfig) -> None:
    open_trail(settings).close()
    key = settings.directory / "key"
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="others"):
        open_trail(settings)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match="shorter"):
        open_trail(settings)


def test_a_short_key_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match="at least 32") as caught:
        AuditConfig(key=SecretStr("secret-and-short"))
    assert "secret-and-short" not in str(caught.value)


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AuditUnavailable):
        open_trail(AuditConfig(directory=tmp_path / "file" / "audit"))


# --- retention ---


def test_nothing_is_pruned_unasked(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND)
    with open_trail(settings) as opened:
        assert opened.prune(None, today=date(2099, 1, 1)) == 0
        assert opened.prune(10, today=date(2036, 3, 1)) == 0  # the first day is ten years old tomorrow
    assert verify(settings).first == 1


def test_old_days_are_pruned_and_the_trail_stays_in_order(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND, THIRD)
    with open_trail(settings) as opened, clock("2036-03-03"):
        assert opened.prune(10, today=date(2036, 3, 3)) == 2
        assert opened.prune(10, today=date(2036, 3, 3)) == 0
    assert not file_of(settings, FIRST).exists()
    found = verify(settings)
    assert (found.first, found.files) == (8, 2)
    record = kept(settings)[-1]
    assert record.event.detail.startswith(f"retention: records 1 to 7, {FIRST} to {SECOND}, last MAC ")
    assert record.pruned is not None
    assert record.pruned.sequence == 7


def test_the_newest_file_is_never_pruned(settings: AuditConfig) -> None:
    write_days(settings, FIRST)
    with open_trail(settings) as opened, clock(FIRST):
        assert opened.prune(1, today=date(2050, 1, 1)) == 0


def test_a_crash_while_pruning(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND, THIRD)
    with open_trail(settings) as opened, clock("2036-03-03"):
        with (
            mock.patch.object(Path, "unlink", side_effect=[None, OSError(errno.EIO, "killed")]),
            pytest.raises(AuditUnavailable),
        ):
            opened.prune(10, today=date(2036, 3, 3))
        file_of(settings, FIRST).unlink()
        assert verify(settings).first == 4
        assert opened.prune(10, today=date(2036, 3, 3)) == 1
    assert verify(settings).first == 8


def test_what_was_deleted_beyond_the_retention_is_noticed(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND, THIRD)
    with open_trail(settings) as opened, clock("2036-03-02"):
        assert opened.prune(10, today=date(2036, 3, 2)) == 1
    file_of(settings, SECOND).unlink()
    assert broken(settings).problem == "missing: records 1 to 7 are not there, and were not pruned"


def test_an_event_cannot_pass_for_a_pruning(settings: AuditConfig) -> None:
    write_days(settings, FIRST, SECOND)
    with open_trail(settings) as opened, clock(SECOND):
        opened.write(an_event(detail='retention: records 1 to 3","pruned":[3,"0"]'))
    file_of(settings, FIRST).unlink()
    assert broken(settings).problem.startswith("missing")


def test_a_leap_day_has_a_year_ago(settings: AuditConfig) -> None:
    write_days(settings, "2026-02-27", "2026-02-28", FIRST)
    with open_trail(settings) as opened, clock("2028-02-29"):
        assert opened.prune(2, today=date(2028, 2, 29)) == 1


# --- reading on ---


def test_reading_on_from_a_position(settings: AuditConfig, opened: AuditTrail) -> None:
    with clock(FIRST):
        opened.write(an_event("P0"))
    position: Position | None = None
    seen: list[int] = []
    for day in (FIRST, SECOND, SECOND, THIRD):
        for record, behind in opened.records_after(position):
            seen.append(record.sequence)
            position = behind
        with clock(day):
            opened.write(an_event())
    assert position == Position(f"audit-{SECOND}.jsonl", file_of(settings, SECOND).stat().st_size, 5)
    seen += [record.sequence for record, _ in opened.records_after(position)]
    assert seen == list(range(1, 8))


def test_reading_on_steps_over_what_was_pruned_and_what_is_no_record(
    settings: AuditConfig, caplog: pytest.LogCaptureFixture
) -> None:
    write_days(settings, FIRST, SECOND)
    with open_trail(settings) as opened:
        position = next(opened.records_after(None))[1]
        file_of(settings, FIRST).unlink()
        edit(file_of(settings, SECOND), lambda rows: [rows[0], b"{}\n", *rows[2:], b"torn"])
        assert [record.sequence for record, _ in opened.records_after(position)] == [4, 6, 7]
    assert [entry.message for entry in caplog.records] == ["audit record cannot be used"]


def test_a_directory_that_cannot_be_listed(opened: AuditTrail) -> None:
    with (
        mock.patch("os.listdir", side_effect=OSError(errno.EACCES, "Permission denied")),
        pytest.raises(AuditUnavailable, match="Permission denied"),
    ):
        next(opened.records_after(None))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (b"", 0)),
        (b"a", (b"", 0)),
        (b"a\n", (b"a\n", 2)),
        (b"a\nb\nc", (b"b\n", 4)),
        (b"x" * 200_000 + b"\ny", (b"x" * 200_000 + b"\n", 200_001)),
        (b"a\n" + b"x" * 200_000 + b"\n", (b"x" * 200_000 + b"\n", 200_003)),
    ],
)
def test_the_last_line(tmp_path: Path, content: bytes, expected: tuple[bytes, int]) -> None:
    (tmp_path / "file").write_bytes(content)
    assert last_line(tmp_path / "file") == expected


def test_a_line_that_is_no_record() -> None:
    for line in (
        b"",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"seq":"x"}',
        b'{"seq":Infinity}',
        b'{"seq":1,"time":"2026-01-01T00:00:00+00:00","host":"h"}',
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            read_record(line)


class _StopsWhenItIsOver(threading.Event):
    """An event whose wait ends without it, and in that instant somebody stops the thread that waited."""

    def __init__(self, stop: Callable[[], None], told: Callable[[], bool]) -> None:
        super().__init__()
        self._stopper = threading.Thread(target=stop, daemon=True)
        self._told = told

    def wait(self, timeout: float | None = None) -> bool:
        if super().wait(timeout):
            return True
        self._stopper.start()
        wait_for(self._told, "the thread is told to stop", seconds=5)
        return False


def test_a_stop_in_the_instant_before_a_sync_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_SYNC_SECONDS", 0.01)
    synced: list[bool] = []
    background = trail._BackgroundSync(lambda: synced.append(True))
    background._stopping = _StopsWhenItIsOver(
        background.stop, lambda: background._stopping.is_set() and background._woken.is_set()
    )
    background.start()
    background.wake()
    background.join(60)
    assert not background.is_alive()
    assert synced == [True]
