"""Marks of studies in SQL: labels, notes, who is to read a study, and how far that is."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.index.changes import ChangeKind, NewChange, record
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


def applying(marks: Sequence[Mark]) -> Effect:
    """The effect that makes marks hold, in their order; the feed of changes tells of studies that it changes."""

    def apply(connection: Connection) -> None:
        changing = _changing(connection, marks)
        # This takes the writer's lock if somebody follows the feed, which has to come before the locks of rows.
        record(connection, [NewChange(ChangeKind.MARKED, uid, detail=told(some)) for uid, some in changing.items()])
        for mark in chain.from_iterable(changing.values()):
            _apply(connection, mark)

    return apply


def told(marks: Iterable[Mark]) -> str:
    """What marks say, for people; of notes no more than that there are some."""
    return ", ".join(
        dict.fromkeys(mark.kind if mark.note else f"{mark.kind} {mark.value or 'nobody'}" for mark in marks)
    )


def marked(before: StudyMarks, mark: Mark) -> StudyMarks:
    """The marks of a study after one more; notes are not among them."""
    if mark.note:
        return before
    if mark.kind is MarkKind.LABEL:
        return replace(before, labels=tuple(sorted({*before.labels, mark.value})))
    if mark.kind is MarkKind.UNLABEL:
        return replace(before, labels=tuple(label for label in before.labels if label != mark.value))
    # A rule does not take back what a person decided: late images would do so all the time.
    if mark.by.startswith(BY_RULE) and before.at is not None and not before.by.startswith(BY_RULE):
        return before
    if mark.kind is MarkKind.ASSIGN:
        return replace(before, assigned_to=mark.value, by=mark.by, at=mark.at)
    return replace(before, reading=Reading(mark.value), by=mark.by, at=mark.at)


def _changing(connection: Connection, marks: Sequence[Mark]) -> dict[str, list[Mark]]:
    """The marks that change something, by the UID of their study."""
    uids = list(dict.fromkeys(mark.study_instance_uid for mark in marks))
    now: dict[str, StudyMarks] = {}
    for start in range(0, len(uids), _CHUNK):
        now |= _of(connection, uids[start : start + _CHUNK])
    changing: dict[str, list[Mark]] = {}
    for mark in marks:
        uid = mark.study_instance_uid
        before = now.get(uid, StudyMarks())
        now[uid] = marked(before, mark)
        if mark.note or now[uid] != before:
            changing.setdefault(uid, []).append(mark)
    return changing


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
        # A person may have decided meanwhile.
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
