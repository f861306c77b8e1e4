"""REST: marks of studies: labels, who is to read a study, and how far that is."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidRequest, NotAuthorised, NotFound
from pacs_server.index.mark_filter import MarkFilter
from pacs_server.index.marks import MarkKind, Reading
from pacs_server.web.api.binding import next_address
from pacs_server.web.api.operation import Answer, Body, Call, Operation, Page, Paging, Parameters
from pacs_server.web.services import WebServices

_TAG: Final = "marks"
_STUDY: Final = "StudyInstanceUID"
_PARTS: Final = {"study": "Study Instance UID."}
_GONE: Final = {404: "There is no such study."}
_Text = Annotated[str, Field(max_length=64)]


class MarksRow(Answer):
    """What people and rules say of a study."""

    study: Annotated[str, Field(description="Study Instance UID.")]
    labels: Annotated[list[str], Field(description="In alphabetical order.")]
    assigned_to: Annotated[str, Field(description="The person or role that is to read it; empty for nobody.")]
    reading: Annotated[Reading, Field(description="How far the reading is.")]
    set_by: Annotated[str, Field(description="Who said that last, a user or `rule` and its name.")]
    at: Annotated[datetime | None, Field(description="When; null if nobody has.")]


class MarksChange(Body):
    """What to say of a study from now on; what is missing stays as it is."""

    add_labels: Annotated[list[_Text], Field(max_length=100, default_factory=list)]
    remove_labels: Annotated[list[_Text], Field(max_length=100, default_factory=list)]
    assigned_to: Annotated[_Text | None, Field(description="Empty for nobody.")] = None
    reading: Reading | None = None


class MarkKeys(Parameters):
    """Which studies to find by their marks; all that is given has to hold."""

    label: Annotated[
        tuple[_Text, ...], Field(max_length=10, description="Those with this label; with all of them if repeated.")
    ] = ()
    assigned_to: Annotated[
        _Text | None, Field(description="Those that this person or role is to read; empty for nobody.")
    ] = None
    reading: Annotated[
        Reading | None, Field(description="Those whose reading is that far; those that nobody has marked are unread.")
    ] = None

    @property
    def marks(self) -> MarkFilter:
        """The filter that these parameters are."""
        return MarkFilter(self.label, self.assigned_to, self.reading)


class MarkedSearch(MarkKeys, Paging):
    """Which studies to find by their marks, page by page."""


class Marks:
    """The resource marks. A limited caller sees and marks what its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/marks", name="find_marked", tag=_TAG, role=Role.READER,
                summary="Find studies by label, reader and reading state.",
                query=MarkedSearch, answer=Page[MarksRow], run=self._find,
            ),
            Operation(
                method="GET", path="/studies/{study}/marks", name="show_marks", tag=_TAG, role=Role.READER,
                summary="Show the marks of a study.", parts=_PARTS, answer=MarksRow, run=self._show, errors=_GONE,
            ),
            Operation(
                method="POST", path="/studies/{study}/marks", name="mark", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Label a study, say who is to read it, and how far that is.",
                parts=_PARTS, body=MarksChange, answer=MarksRow, run=self._mark, errors=_GONE,
            ),
        ]  # fmt: skip

    def _find(self, call: Call[MarkedSearch, None]) -> Answer:
        refuse_guests(call)
        asked, listing = call.query, self._services.listing
        if not asked.marks:
            raise InvalidRequest("say which: label, assigned_to or reading")
        query = listing.query(Level.STUDY, {}, (_STUDY,))
        page = listing.page(query, asked.limit, asked.after, call.caller.scope, marks=asked.marks)
        rows = self._rows([row.texts[_STUDY] for row in page.rows])
        return Page[MarksRow](items=rows, next=next_address(call, page.after))

    def _show(self, call: Call[Any, None]) -> Answer:
        refuse_guests(call)
        (row,) = self._rows([subjects_of_study(self._services, call)[0].study_instance_uid])
        return row

    def _mark(self, call: Call[Any, MarksChange]) -> Answer:
        subjects, body = subjects_of_study(self._services, call), call.body
        wanted = [(MarkKind.LABEL, label) for label in body.add_labels]
        wanted += [(MarkKind.UNLABEL, label) for label in body.remove_labels]
        wanted += [(MarkKind.ASSIGN, body.assigned_to)] if body.assigned_to is not None else []
        wanted += [(MarkKind.READING, body.reading)] if body.reading is not None else []
        self._services.marks.set(wanted, subjects, participant_of(call.caller))
        (row,) = self._rows([subjects[0].study_instance_uid])
        return row

    def _rows(self, uids: list[str]) -> list[MarksRow]:
        return [
            MarksRow(
                study=uid, labels=list(marks.labels), assigned_to=marks.assigned_to, reading=marks.reading,
                set_by=marks.by, at=marks.at,
            )
            for uid, marks in self._services.marks.of(uids).items()
        ]  # fmt: skip


def subjects_of_study(services: WebServices, call: Call[Any, Any]) -> list[Subject]:
    """Whose the study is that the path names, one for each patient that it is known with.

    Raises NotFound, also if the caller may not see anything of it.
    """
    uid = call.path["study"]
    subjects = _subjects(services, call, {uid}) if is_uid(uid) else []
    if not subjects:
        raise NotFound("there is no study of this UID")
    return subjects


def _subjects(services: WebServices, call: Call[Any, Any], uids: set[str]) -> list[Subject]:
    """Whose the studies are of which the caller may see something."""
    retrieve, scope = services.retrieve, call.caller.scope
    if not scope.is_limited:
        return retrieve.subjects_of_studies(uids)
    seen = [uid for uid in uids if retrieve.select(RetrieveKeys(Level.STUDY, (), (uid,)), scope)]
    return retrieve.subjects_of_studies(seen)


def refuse_guests(call: Call[Any, Any]) -> None:
    """Raise NotAuthorised for somebody who came by a link to one study: this is between those who have an account."""
    if call.caller.scope.studies:
        raise NotAuthorised("this is not for those who came by a link")
