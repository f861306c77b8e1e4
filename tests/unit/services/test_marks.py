"""Marks of studies: who says what, on both databases, and that a rebuilt index has them again."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
import schema
from feeds import Place
from sqlalchemy import delete

from pacs_server.audit.events import NoAudit, Participant
from pacs_server.audit.recorder import Recorder
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.database import Database
from pacs_server.index.feed import Consumer
from pacs_server.index.mark_models import study_label, study_note, study_reading
from pacs_server.index.marks import MarkIndex, MarkKind, Reading, StudyMarks
from pacs_server.services.marks import MarkService, replay
from pacs_server.storage.filesystem.mark_log import FileMarkLog

ANN = Participant("ann")
NOW = datetime(2026, 3, 29, tzinfo=UTC)


class Marked:
    """An archive whose studies are marked."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.index = MarkIndex(place.database)
        self.service = MarkService(self.index, place.files.marks, Recorder(NoAudit(), lambda: "PACS"))

    def set(self, study: str, *wanted: tuple[MarkKind, str]) -> StudyMarks:
        self.service.set(wanted, [Subject("P1", "", study, "A1")], ANN)
        return self.service.of([study])[study]

    def by_rule(self, study: str, *wanted: tuple[MarkKind, str]) -> StudyMarks:
        effect = self.service.effect([(study, *each) for each in wanted], "rule night", NOW)
        with self.place.database.begin() as connection:
            effect(connection)
        return self.service.of([study])[study]


@pytest.fixture
def marked(tmp_path: Path, database_url: str) -> Iterator[Marked]:
    with closing(Place(tmp_path / "archive", database_url)) as place:
        yield Marked(place)


def test_a_study_that_nobody_has_marked_is_unread(marked: Marked) -> None:
    assert marked.service.of(["1.1"]) == {"1.1": StudyMarks((), "", Reading.UNREAD)}


def test_what_is_said_last_holds_and_the_rest_stays(marked: Marked) -> None:
    marked.set("1.1", (MarkKind.LABEL, "night"), (MarkKind.LABEL, " chest "), (MarkKind.LABEL, "night"))
    marked.set("1.1", (MarkKind.ASSIGN, "ann"), (MarkKind.READING, "reading"))
    found = marked.set("1.1", (MarkKind.UNLABEL, "night"), (MarkKind.READING, "read"))
    assert found == StudyMarks(("chest",), "ann", Reading.READ, "ann")
    assert marked.set("1.1", (MarkKind.ASSIGN, "")).assigned_to == ""


def test_a_rule_does_not_take_back_what_a_person_said(marked: Marked) -> None:
    assert marked.by_rule("1.1", (MarkKind.READING, "unread"), (MarkKind.ASSIGN, "neuro")).assigned_to == "neuro"
    assert marked.by_rule("1.1", (MarkKind.ASSIGN, "chest")).assigned_to == "chest"
    marked.set("1.1", (MarkKind.READING, "read"))
    found = marked.by_rule("1.1", (MarkKind.READING, "unread"), (MarkKind.LABEL, "late"))
    assert (found.reading, found.labels, found.by) == (Reading.READ, ("late",), "ann")


def test_notes_are_those_of_their_study_and_of_their_writer(marked: Marked) -> None:
    subjects, bob = [Subject("P1", "", "1.1", "")], Participant("bob")
    note = marked.service.add_note("  two \r\nlines\n", subjects, ANN)
    assert (note.text, note.by) == ("two\nlines", "ann")
    assert marked.service.notes("1.1") == [note]
    assert marked.service.notes("1.2") == []
    with pytest.raises(InvalidRequest, match="by ann"):
        marked.service.remove_note(note.note, subjects, bob, others=False)
    with pytest.raises(NotFound):
        marked.service.remove_note(note.note, [Subject("P1", "", "1.2", "")], ANN, others=True)
    marked.service.remove_note(note.note, subjects, bob, others=True)
    assert marked.service.notes("1.1") == []
    for text in (" \n", "a\0b", "x" * 4001):
        with pytest.raises(InvalidRequest):
            marked.service.add_note(text, subjects, ANN)


def test_the_feed_tells_of_studies_whose_marks_have_changed(marked: Marked) -> None:
    consumer = Consumer("pages")
    marked.place.feed.join(consumer)
    marked.set("1.1", (MarkKind.LABEL, "night"), (MarkKind.ASSIGN, ""))
    marked.by_rule("1.2", (MarkKind.LABEL, "late"), (MarkKind.READING, "unread"))
    # Late images have a rule say the same again; what is added and taken away at once leaves nothing.
    marked.by_rule("1.2", (MarkKind.LABEL, "late"), (MarkKind.READING, "unread"))
    marked.set("1.2", (MarkKind.UNLABEL, "none"))
    marked.set("1.2", (MarkKind.LABEL, "x"), (MarkKind.UNLABEL, "late"))
    assert marked.place.take_all(consumer) == [
        "MARKED 1.1 label night, assign nobody",
        "MARKED 1.2 label late, reading unread",
        "MARKED 1.2 label x, unlabel late",
    ]


def test_what_a_person_said_is_no_news_from_a_rule(marked: Marked) -> None:
    consumer = Consumer("pages")
    marked.set("1.1", (MarkKind.READING, "read"))
    marked.place.feed.join(consumer)
    marked.by_rule("1.1", (MarkKind.READING, "unread"))
    assert marked.place.take_all(consumer) == []


@pytest.mark.parametrize(
    "wrong",
    [(MarkKind.READING, "done"), (MarkKind.LABEL, ""), (MarkKind.LABEL, "a\nb"), (MarkKind.ASSIGN, "x" * 65)],
)
def test_what_is_no_mark_is_refused_and_nothing_is_written(marked: Marked, wrong: tuple[MarkKind, str]) -> None:
    with pytest.raises(InvalidRequest):
        marked.set("1.1", (MarkKind.LABEL, "night"), wrong)
    assert list(marked.place.files.marks.lines()) == []


def test_the_journal_tells_an_empty_index_everything(marked: Marked) -> None:
    marked.set("1.1", (MarkKind.LABEL, "n\u00e4chtlich"), (MarkKind.READING, "read"))
    marked.by_rule("1.1", (MarkKind.READING, "unread"))
    marked.set("1.2", (MarkKind.ASSIGN, "ann"))
    before = marked.service.of(["1.1", "1.2"])
    gone, note = (
        marked.service.add_note(text, [Subject("P1", "", "1.1", "")], ANN) for text in ("wrong", "n\u00e4her")
    )
    marked.service.remove_note(gone.note, [Subject("P1", "", "1.1", "")], ANN, others=False)
    with marked.place.database.begin() as connection:
        connection.execute(delete(study_label))
        connection.execute(delete(study_reading))
        connection.execute(delete(study_note))
    assert replay(marked.place.files.marks, marked.index) == 7
    assert marked.service.notes("1.1") == [note]
    assert marked.service.of(["1.1", "1.2"]) == before


def test_a_line_that_a_crash_cut_off_hurts_no_other(tmp_path: Path) -> None:
    schema.prepare(tmp_path / "pacs.db")
    log = FileMarkLog(tmp_path)
    line = b'{"study_instance_uid":"1.%d","kind":"label","value":"x","at":"2026-03-29T00:00:00+00:00","by":"a"}\n'
    log.append(line % 1)
    with Path(log.name).open("ab") as file:
        file.write(line[:20])
    log.append(line % 2)
    with closing(Database(f"sqlite:///{tmp_path / 'pacs.db'}")) as database:
        assert replay(log, MarkIndex(database)) == 2
        assert {uid: marks.labels for uid, marks in MarkIndex(database).of(["1.1", "1.2"]).items()} == {
            "1.1": ("x",),
            "1.2": ("x",),
        }
