"""Marks of studies: labels, notes, who is to read a study, and how far that is; by people and by rules.

A mark is written to the journal, and then to the index: a rebuilt index has it from there. Marks say nothing about
stored objects, and change nothing in what is sent.
"""

import json
import logging
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.feed import Effect
from pacs_server.index.marks import Mark, MarkIndex, MarkKind, Note, Reading, StudyMarks, applying, told
from pacs_server.storage.archive_files import MarkLog

log = logging.getLogger(__name__)

_LONGEST: Final = 64
_LONGEST_NOTE: Final = 4000
# So many marks share a transaction of a rebuild.
_TOGETHER: Final = 500


class MarkService:
    """Sets and shows marks; may be shared by all threads."""

    def __init__(self, index: MarkIndex, journal: MarkLog, audit: Recorder) -> None:
        self._index = index
        self._journal = journal
        self._audit = audit

    def of(self, study_instance_uids: Collection[str]) -> dict[str, StudyMarks]:
        """The marks of studies by their UIDs; every one of them has some. Raises IndexUnavailable."""
        found = self._index.of(study_instance_uids)
        return {uid: found.get(uid, StudyMarks()) for uid in study_instance_uids}

    def set(self, wanted: Iterable[tuple[MarkKind, str]], subjects: Sequence[Subject], by: Participant) -> None:
        """Mark the study of `subjects`, which are one for each patient that it is known with.

        Raises InvalidRequest for what is no label or reader, AuditUnavailable, StorageFull, StorageUnavailable,
        IndexUnavailable.
        """
        now = datetime.now(UTC)
        uids = dict.fromkeys(subject.study_instance_uid for subject in subjects)
        marks = [Mark(uid, kind, checked(kind, value), now, by.user_id) for uid in uids for kind, value in wanted]
        if not marks:
            return
        self._set(marks, subjects, by, told(marks))

    def notes(self, study_instance_uid: str) -> list[Note]:
        """The notes on a study, the oldest first. Raises IndexUnavailable."""
        return self._index.notes(study_instance_uid)

    def add_note(self, text: str, subjects: Sequence[Subject], by: Participant) -> Note:
        """Write a note on the study of `subjects`; the audit trail tells that, and not the text. Raises as `set`."""
        text = checked_note(text)
        note = Note(secrets.token_hex(8), text, datetime.now(UTC), by.user_id)
        uid = subjects[0].study_instance_uid
        mark = Mark(uid, MarkKind.NOTE, text, note.at, note.by, note.note)
        self._set([mark], subjects, by, f"wrote note {note.note}")
        return note

    def remove_note(self, name: str, subjects: Sequence[Subject], by: Participant, *, others: bool) -> None:
        """Remove the note of that id; notes of `others` only if that is allowed. Raises NotFound, and as `set`."""
        uid = subjects[0].study_instance_uid
        note = next((each for each in self._index.notes(uid) if each.note == name), None)
        if note is None:
            raise NotFound("there is no such note")
        if note.by != by.user_id and not others:
            raise InvalidRequest(f"the note is by {note.by}: only who wrote a note, or an operator, can remove it")
        mark = Mark(uid, MarkKind.UNNOTE, "", datetime.now(UTC), by.user_id, name)
        self._set([mark], subjects, by, f"removed note {name} of {note.by}")

    def _set(self, marks: Sequence[Mark], subjects: Sequence[Subject], by: Participant, detail: str) -> None:
        for subject in subjects:
            self._audit.write(Event(EventID.PATIENT_RECORD, Action.UPDATE, (by,), subjects=(subject,), detail=detail))
        self._write(marks)
        self._index.apply(marks)

    def effect(self, wanted: Sequence[tuple[str, MarkKind, str]], by: str, now: datetime) -> Effect:
        """The effect that marks studies because of a rule: pairs of Study Instance UID, kind and value.

        The journal has the marks before the transaction that holds them ends; after a crash they may be there twice,
        which changes nothing.
        """
        marks = [Mark(uid, kind, value, now, by) for uid, kind, value in wanted]
        apply = applying(marks)

        def mark(connection: object) -> None:
            self._write(marks)
            apply(connection)  # type: ignore[arg-type]

        return mark

    def _write(self, marks: Iterable[Mark]) -> None:
        lines = (json.dumps(asdict(mark) | {"at": mark.at.isoformat()}, ensure_ascii=False) for mark in marks)
        self._journal.append(b"".join(line.encode("utf-8", "replace") + b"\n" for line in lines))


def replay(journal: MarkLog, index: MarkIndex) -> int:
    """Put what the journal says into an empty index; returns how many marks. Raises StorageUnavailable."""
    count = 0
    marks = _read(journal)
    while batch := list(islice(marks, _TOGETHER)):
        index.apply(batch)
        count += len(batch)
    return count


def _read(journal: MarkLog) -> Iterator[Mark]:
    for number, line in enumerate(journal.lines(), 1):
        try:
            values = json.loads(line)
            values |= {"at": datetime.fromisoformat(values["at"]), "kind": MarkKind(values["kind"])}
            yield Mark(**values)
        except (ValueError, TypeError, KeyError):
            log.warning("mark not readable", extra={"file": journal.name, "line": number})


def checked(kind: MarkKind, value: str) -> str:
    """The value of a mark, without spaces around it. Raises InvalidRequest if it is none."""
    value = value.strip()
    if kind is MarkKind.READING and value not in list(Reading):
        raise InvalidRequest(f"{value[:_LONGEST]!r} is no reading state: {', '.join(Reading)}")
    is_well_formed = len(value) <= _LONGEST and value.isprintable()
    if kind is MarkKind.ASSIGN and not is_well_formed:
        raise InvalidRequest(f"the name of who is to read a study has at most {_LONGEST} printable characters")
    if not is_well_formed or (not value and kind is not MarkKind.ASSIGN):
        raise InvalidRequest(f"a label has 1 to {_LONGEST} printable characters")
    return value


def checked_note(text: str) -> str:
    """The text of a note, without spaces around it and at the ends of lines. Raises InvalidRequest if it is none."""
    text = "\n".join(line.rstrip() for line in text.splitlines()).strip()
    if not text or len(text) > _LONGEST_NOTE or not text.replace("\n", "").replace("\t", "").isprintable():
        raise InvalidRequest(f"a note has 1 to {_LONGEST_NOTE} printable characters")
    return text
