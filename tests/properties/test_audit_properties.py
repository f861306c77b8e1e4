"""The audit trail: any event comes back as it was, and no damage passes verify."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from audits import an_event, clock, events
from hypothesis import given
from hypothesis import strategies as st

from pacs_server.audit.events import Event
from pacs_server.audit.record import Mark, Record, read_record
from pacs_server.audit.signing import SigningKey
from pacs_server.audit.trail import open_trail
from pacs_server.audit.verify import InvalidTrail, verify
from pacs_server.config import AuditConfig
from pacs_server.errors import ConfigError

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
Lines = list[bytes]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a trail of three days that is in order."""
    directory = tmp_path_factory.mktemp("whole") / "audit"
    with open_trail(AuditConfig(directory=directory)) as trail:
        for day in DAYS:
            with clock(day):
                for number in range(4):
                    trail.write(an_event(f"P{number}"), durable=False)
    assert verify(AuditConfig(directory=directory)).records == 14
    return directory


@contextmanager
def copied(whole: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "audit"
        shutil.copytree(whole, directory)
        for path in directory.iterdir():
            path.chmod(0o600)
        yield directory


def order(directory: Path) -> list[str]:
    """The files in the order in which a damage is looked for: what is signed by a key comes after it."""
    return ["key", "anchors.jsonl", *sorted(path.name for path in directory.glob("audit-*")), "head"]


def is_noticed(directory: Path, file: str, line: int) -> None:
    """Verify fails at the damaged line, or after it."""
    with pytest.raises((InvalidTrail, ConfigError)) as caught:
        verify(AuditConfig(directory=directory))
    if isinstance(caught.value, InvalidTrail) and file.startswith("audit-"):
        found = caught.value
        assert (order(directory).index(found.file), found.line) >= (order(directory).index(file), line)


@pytest.mark.slow
@given(data=st.data())
def test_any_changed_byte_is_noticed(whole: Path, data: st.DataObject) -> None:
    with copied(whole) as directory:
        file = data.draw(st.sampled_from(order(directory)))
        content = bytearray((directory / file).read_bytes())
        offset = data.draw(st.integers(0, len(content) - 1))
        content[offset] ^= data.draw(st.integers(1, 255))
        line = bytes(content[:offset]).count(b"\n") + 1
        (directory / file).write_bytes(content)
        is_noticed(directory, file, line)


def _deleted(lines: Lines, at: int, _: int) -> Lines:
    return lines[:at] + lines[at + 1 :]


def _swapped(lines: Lines, at: int, other: int) -> Lines:
    changed = list(lines)
    changed[at], changed[other] = changed[other], changed[at]
    return changed


def _repeated(lines: Lines, at: int, other: int) -> Lines:
    return [*lines[:other], lines[at], *lines[other:]]


def _cut(lines: Lines, at: int, _: int) -> Lines:
    return lines[:at]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_deleted, _swapped, _repeated, _cut])
@given(data=st.data())
def test_lines_that_are_not_where_they_were_are_noticed(
    whole: Path, damage: Callable[[Lines, int, int], Lines], data: st.DataObject
) -> None:
    with copied(whole) as directory:
        file = data.draw(st.sampled_from(order(directory)[1:]))
        lines = (directory / file).read_bytes().splitlines(keepends=True)
        at, other = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, len(lines) - 1))
        changed = damage(lines, at, other)
        if changed != lines:
            (directory / file).write_bytes(b"".join(changed))
            is_noticed(directory, file, min(at, other) + 1 if damage in (_swapped, _repeated) else at + 1)


@pytest.mark.slow
@given(data=st.data())
def test_a_line_of_another_file_is_noticed(whole: Path, data: st.DataObject) -> None:
    with copied(whole) as directory:
        file, other = data.draw(st.permutations(order(directory)[1:]))[:2]
        lines = (directory / file).read_bytes().splitlines(keepends=True)
        foreign = data.draw(st.sampled_from((directory / other).read_bytes().splitlines(keepends=True)))
        at = data.draw(st.integers(0, len(lines) - 1))
        (directory / file).write_bytes(b"".join([*lines[:at], foreign, *lines[at + 1 :]]))
        is_noticed(directory, file, at + 1)


@pytest.mark.slow
@given(event=events())
def test_any_event_comes_back_as_it_was(whole: Path, event: Event) -> None:
    with copied(whole) as directory, open_trail(AuditConfig(directory=directory)) as trail:
        *_, (_, position) = trail.records_after(None)
        trail.write(event, durable=False)
        *_, (record, _) = trail.records_after(position)
        assert record.event == event
        trail.close()
        verify(AuditConfig(directory=directory))


@given(event=events(), host=st.text(max_size=8), pruned=st.none() | st.just(Mark(7, "ab")))
def test_the_text_of_a_record_is_the_json_of_its_fields(event: Event, host: str, pruned: Mark | None) -> None:
    record = Record(3, datetime(2026, 3, 1, 12, 30, tzinfo=UTC), host, 17, event, "f" * 64, pruned)
    assert record.text() == json.dumps(record.fields(), separators=(",", ":"))


@pytest.mark.slow
@given(
    line=st.binary(max_size=60)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["seq", "time", "host", "pid", "prev", "event", "mac", "pruned"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_line_is_a_record_or_not(line: bytes) -> None:
    with suppress(ValueError):
        read_record(line)
    assert SigningKey(b"k" * 32).fault("record", line + b"\n") is not None
