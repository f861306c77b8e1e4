"""REST: notes on studies: free text, with who wrote it and when."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.index.marks import Note
from pacs_server.web.api.marks import refuse_guests, subjects_of_study
from pacs_server.web.api.operation import Answer, Body, Call, Operation
from pacs_server.web.services import WebServices

_TAG: Final = "marks"
_PARTS: Final = {"study": "Study Instance UID.", "note": "The `id` of a note."}
_GONE: Final = {404: "There is no such study or note."}


class NoteRow(Answer):
    """A note on a study."""

    id: str
    text: str
    written_by: str
    at: datetime


class NoteRows(Answer):
    """The notes on a study, the oldest first."""

    items: list[NoteRow]


class NewNote(Body):
    """What to write."""

    text: Annotated[str, Field(description="Plain text, of one line or several.", max_length=4000)]


class Notes:
    """The resource notes. A limited caller reads and writes notes on studies that its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/studies/{study}/notes", name="list_notes", tag=_TAG, role=Role.READER,
                summary="List the notes on a study, the oldest first.", parts=_PARTS, answer=NoteRows,
                run=self._list, errors=_GONE,
            ),
            Operation(
                method="POST", path="/studies/{study}/notes", name="add_note", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Write a note on a study.", parts=_PARTS, body=NewNote, answer=NoteRow, status=201,
                run=self._add, errors=_GONE,
            ),
            Operation(
                method="DELETE", path="/studies/{study}/notes/{note}", name="remove_note", tag=_TAG,
                role=Role.CONTRIBUTOR, summary="Remove a note: your own one, or as an operator any.", parts=_PARTS,
                run=self._remove, errors=_GONE,
            ),
        ]  # fmt: skip

    def _list(self, call: Call[Any, None]) -> Answer:
        refuse_guests(call)
        subjects = subjects_of_study(self._services, call)
        notes = self._services.marks.notes(subjects[0].study_instance_uid)
        return NoteRows(items=[_row(note) for note in notes])

    def _add(self, call: Call[Any, NewNote]) -> Answer:
        subjects = subjects_of_study(self._services, call)
        return _row(self._services.marks.add_note(call.body.text, subjects, participant_of(call.caller)))

    def _remove(self, call: Call[Any, None]) -> None:
        subjects = subjects_of_study(self._services, call)
        others = call.caller.role >= Role.OPERATOR
        self._services.marks.remove_note(call.path["note"], subjects, participant_of(call.caller), others=others)


def _row(note: Note) -> NoteRow:
    return NoteRow(id=note.note, text=note.text, written_by=note.by, at=note.at)
