"""Marks of studies in SQL: labels, notes, who is to read a study, and how far that is."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.feed import Effect
from pacs_server.index.mark_models import study_label, study_note, study_reading

_CHUNK: Final = 500
# Marks of rules are set by this and the name of the rule.
BY_RULE: Final = "rule "


class MarkKind(StrEnum):
    """What a mark says."""

    LABEL = "label"
    UNLABEL = "unlabel"
    ASSIGN = "assign"
    READING = "reading"
    NOTE = "note"
    UNNOTE = "unnote"


class Reading(StrEnum):
    """How far the reading of a study is."""

    UNREAD = "unread"
    READING = "reading"
    READ = "read"
    REVIEW = "review"


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that a person or a rule says of a study.

    `value` is the label, the reader, the reading state or the text of a note; `note` is the id of a note, else empty.
    """

    study_instance_uid: str
    kind: MarkKind
    value: str
    at: datetime
    by: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A note on a study, with its id, who wrote it and when."""

    note: str
    text: str
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class StudyMarks:
    """All marks of a study; a study that nobody has marked is unread."""

    labels: tuple[str, ...] = ()
    assigned_to: str = ""
    reading: Reading = Reading.UNREAD
    by: str = ""
    at: datetime | None = field(default=None, compare=False)


class MarkIndex:
    """The marks of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, marks: Sequence[Mark]) -> None:
        """Make marks hold, in their order."""
        with self._database.begin() as connection:
            applying(marks)(connection)

    def of(self, study_instance_uids: Collection[str]) -> dict[str, StudyMarks]:
        """The marks of these studies, by UID; those that nobody has marked are missing."""
        uids = list(study_instance_uids)
        found: dict[str, StudyMarks] = {}
        with self._database.connect() as connection:
            for start in range(0, len(uids), _CHUNK):
                found |= _of(connection, uids[start : start + _CHUNK])
        return found

    def notes(self, study_instance_uid: str) -> list[Note]:
        """The notes on a study, the oldest first."""
        of_study = select(study_note).where(study_note.c.study_instance_uid == study_instance_uid)
        with self._database.connect() as connection:
            rows = connection.execute(of_study.order_by(study_note.c.at, study_note.c.note)).all()
        return [Note(row.note, row.text, in_utc(row.at), row.set_by) for row in rows]

    def studies(
        self, *, label: str | None = None, assigned_to: str | None = None, reading: Reading | None = None
    ) -> set[str]:
        """The UIDs of the studies with all of these marks; at least one is given."""
        wanted: list[set[str]] = []
        with self._database.connect() as connection:
            if label is not None:
                labelled = select(study_label.c.study_instance_uid).where(study_label.c.label == label)
                wanted.append(set(connection.scalars(labelled)))
            conditions = []
            if assigned_to is not None:
                conditions.append(study_reading.c.assigned_to == assigned_to)
            if reading is not None:
                conditions.append(study_reading.c.state == reading)
            if conditions:
                wanted.append(set(connection.scalars(select(study_reading.c.study_instance_uid).where(*conditions))))
        return set.intersection(*wanted)


def applying(marks: Sequence[Mark]) -> Effect:
    """The effect that makes marks hold, in their order."""

    def apply(connection: Connection) -> None:
        for mark in marks:
            _apply(connection, mark)

    return apply


def _apply(connection: Connection, mark: Mark) -> None:
    insert: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    study = {"study_instance_uid": mark.study_instance_uid}
    about = {"at": mark.at, "set_by": mark.by}
    if mark.kind is MarkKind.UNNOTE:
        connection.execute(delete(study_note).where(study_note.c.note == mark.note).filter_by(**study))
    elif mark.kind is MarkKind.NOTE:
        written = insert(study_note).values(**study, note=mark.note, text=mark.value, **about)
        connection.execute(written.on_conflict_do_nothing())
    elif mark.kind is MarkKind.UNLABEL:
        connection.execute(delete(study_label).where(study_label.c.label == mark.value).filter_by(**study))
    elif mark.kind is MarkKind.LABEL:
        added = insert(study_label).values(**study, label=mark.value, **about)
        connection.execute(added.on_conflict_do_nothing())
    else:
        changed = {"assigned_to" if mark.kind is MarkKind.ASSIGN else "state": mark.value, **about}
        put = insert(study_reading).values(**study, **changed)
        # A rule does not take back what a person decided: late images would do so all the time.
        yields = study_reading.c.set_by.startswith(BY_RULE) if mark.by.startswith(BY_RULE) else None
        key = ["study_instance_uid"]
        connection.execute(put.on_conflict_do_update(index_elements=key, set_=changed, where=yields))


def _of(connection: Connection, uids: Sequence[str]) -> dict[str, StudyMarks]:
    labels: dict[str, list[str]] = {}
    named = select(study_label.c.study_instance_uid, study_label.c.label)
    for uid, label in connection.execute(
        named.where(study_label.c.study_instance_uid.in_(uids)).order_by(study_label.c.label)
    ):
        labels.setdefault(uid, []).append(label)
    found = {uid: StudyMarks(tuple(some)) for uid, some in labels.items()}
    for row in connection.execute(select(study_reading).where(study_reading.c.study_instance_uid.in_(uids))):
        uid = row.study_instance_uid
        found[uid] = StudyMarks(tuple(labels.get(uid, ())), row.assigned_to, Reading(row.state), row.set_by, row.at)
    return found
