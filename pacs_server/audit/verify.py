"""Verify the audit trail: every MAC, the chain of records across files, the anchors and the head.

Only reads, so a server may write to the trail meanwhile.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pacs_server.audit.anchors import Anchor, read_anchor
from pacs_server.audit.files import ANCHORS, HEAD, Line, day_files, lines, locked, unavailable
from pacs_server.audit.record import BEGIN, Mark, Record, read_record
from pacs_server.audit.signing import SigningKey, fields_of, find_key
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.errors import AuditUnavailable

# `step` is called after so many records.
_STEP: Final = 100


@dataclass(frozen=True, slots=True)
class ValidTrail:
    """What is in a trail that is as it was written.

    Numbers of records and of day files, the sequence number of the first record, and the last record.
    """

    records: int
    files: int
    first: int
    last: Mark


class InvalidTrail(Exception):
    """The trail is not as it was written; says where the first difference is, and what it is.

    `sequence` is the sequence number of the record, if it is known.
    """

    def __init__(self, file: str, line: int, sequence: int | None, problem: str) -> None:
        number = "" if sequence is None else f"record {sequence}: "
        super().__init__(f"{file} line {line}: {number}{problem}")
        self.file = file
        self.line = line
        self.sequence = sequence
        self.problem = problem


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """The state of the trail at one moment at which nobody was writing."""

    head: bytes
    anchors: Sequence[Line]
    names: Sequence[str]
    size: int  # of the last day file; the others do not grow


def verify(settings: AuditConfig, step: Callable[[int], None] = lambda checked: None) -> ValidTrail:
    """Check the whole trail; `step` is told now and then how many records were checked.

    Raises InvalidTrail, AuditUnavailable if the trail cannot be read, ConfigError, and what `step` raises.
    """
    directory = settings.directory
    if not directory.is_dir():
        raise AuditUnavailable(f"there is no audit trail in {directory}")
    key = find_key(directory, settings.key)
    snapshot = _snapshot(directory)
    check = _Check(key, _checked_anchors(key, snapshot.anchors), step)
    with unavailable("be read"):
        for name in snapshot.names:
            last = name == snapshot.names[-1]
            check.file(directory, name, snapshot.size if last else None)
    check.end(snapshot.head)
    return ValidTrail(check.records, len(snapshot.names), check.begin.sequence + 1, check.last)


def _snapshot(directory: Path) -> _Snapshot:
    with unavailable("be read"):
        try:
            head = os.open(directory / HEAD, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InvalidTrail(HEAD, 1, None, "missing: the file is not there") from None
        try:
            with locked(head, shared=True):
                names = day_files(directory)
                size = (directory / names[-1]).stat().st_size if names else 0
                anchors = list(lines(directory, ANCHORS)) if (directory / ANCHORS).exists() else []
                return _Snapshot(os.pread(head, 4096, 0), anchors, names, size)
        finally:
            os.close(head)


def _checked_anchors(key: SigningKey, found: Sequence[Line]) -> list[Anchor]:
    anchors: list[Anchor] = []
    for line in found:
        fault = key.fault("anchor", line.data)
        if fault is not None:
            raise InvalidTrail(ANCHORS, line.number, None, fault)
        anchor = read_anchor(line.data)
        expected = anchors[-1].last.sequence + 1 if anchors else 1
        if anchor.first != expected:
            kind = "missing: the one before it is not there" if anchor.first > expected else "out of order"
            raise InvalidTrail(ANCHORS, line.number, None, kind)
        anchors.append(anchor)
    return anchors


class _Check:
    """Follows the chain of records from the first to the last one."""

    def __init__(self, key: SigningKey, anchors: Sequence[Anchor], step: Callable[[int], None]) -> None:
        self._key = key
        self._step = step
        self._anchors = {anchor.file: anchor for anchor in anchors}
        self._last_anchor = anchors[-1] if anchors else None
        self._ends = {anchor.last for anchor in anchors}
        self._pruned = BEGIN
        self._end_line = (HEAD, 1)
        self._first_line: tuple[str, int] | None = None
        self.begin = self.last = BEGIN
        self.records = 0

    def file(self, directory: Path, name: str, size: int | None) -> None:
        """Check a day file; raises InvalidTrail and OSError."""
        found = lines(directory, name, stop=size)
        number = 0
        for line in found:
            number = line.number
            fault = self._key.fault("record", line.data)
            if fault is not None:
                raise InvalidTrail(name, number, None if fault.startswith("torn") else self._next, fault)
            record = read_record(line.data)
            if self._first_line is None:
                self._first_line = (name, number)
                self.begin = self.last = Mark(record.sequence - 1, record.before)
            self._follow(record, line, found)
        anchor = self._anchors.get(name)
        if anchor is not None and anchor.last != self.last:
            raise InvalidTrail(
                name, number + 1, self._next, f"missing: the day ended with record {anchor.last.sequence}"
            )
        if number and anchor is None and size is None:
            raise InvalidTrail(ANCHORS, len(self._anchors) + 1, None, f"missing: the anchor of {name} is not there")
        self._end_line = (name, number + 1)

    def end(self, head: bytes) -> None:
        """Check what can be told at the end of the chain only; raises InvalidTrail."""
        self._check_begin()
        anchor = self._last_anchor
        if anchor is not None and anchor.last.sequence > self.last.sequence:
            raise InvalidTrail(
                anchor.file, 1, self._next, f"missing: records up to {anchor.last.sequence} are not there"
            )
        fault = self._key.fault("head", head)
        if fault is not None:
            raise InvalidTrail(HEAD, 1, None, fault)
        noted = int(fields_of(head)["head"])
        if noted > self.last.sequence:
            raise InvalidTrail(
                *self._end_line, self._next, f"missing: records up to {noted} were written and are not there"
            )

    @property
    def _next(self) -> int:
        return self.last.sequence + 1

    def _follow(self, record: Record, line: Line, rest: Iterator[Line]) -> None:
        if record.sequence < self._next:
            raise InvalidTrail(line.file, line.number, record.sequence, "out of order: a later one came before it")
        if record.sequence > self._next:
            text = f"missing: record {self._next} is not before it"
            if any(f'"seq":{self._next},'.encode() in one.data for one in rest):
                text = f"out of order: record {self._next} comes after it"
            raise InvalidTrail(line.file, line.number, record.sequence, text)
        if record.before != self.last.mac:
            raise InvalidTrail(line.file, line.number, record.sequence, "changed: it was written after another record")
        if record.pruned is not None:
            self._pruned = max(self._pruned, record.pruned)
        self.last = Mark(record.sequence, record.mac)
        self.records += 1
        if self.records % _STEP == 0:
            self._step(self.records)

    def _check_begin(self) -> None:
        """Check that the missing first records were pruned: a record says so, and they end where an anchor does."""
        if self._first_line is None or self.begin == BEGIN:
            return
        if self.begin.sequence > self._pruned.sequence or self.begin not in self._ends:
            problem = f"missing: records 1 to {self.begin.sequence} are not there, and were not pruned"
            raise InvalidTrail(*self._first_line, self.begin.sequence + 1, problem)
