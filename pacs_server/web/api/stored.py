"""REST: patients, studies, series and instances: lists with search, and what is known of one."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.attributes import BY_KEYWORD, UNIQUE_KEYS
from pacs_server.dicom.caller import Caller, Role
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import NotFound
from pacs_server.index.mark_filter import NOTHING
from pacs_server.index.marks import Reading, StudyMarks
from pacs_server.index.patients import Person
from pacs_server.services.listing import ListedRow
from pacs_server.services.marks import MarkService
from pacs_server.web.api.attributes import attributes_model, keys_of, search_model, shown_at, values_of
from pacs_server.web.api.binding import next_address
from pacs_server.web.api.hidden_numbers import inward, outward
from pacs_server.web.api.marks import MarkedSearch, refuse_guests
from pacs_server.web.api.operation import Answer, Call, Operation, Page
from pacs_server.web.services import WebServices

# The SOP classes of queries, for the audit trail (PS3.4 C.4.1): what is searched by is the same.
PATIENT_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_NAMES: Final = {Level.PATIENT: "patient", Level.STUDY: "study", Level.SERIES: "series", Level.IMAGE: "instance"}
_TAGS: Final = {Level.PATIENT: "patients", Level.STUDY: "studies", Level.SERIES: "series", Level.IMAGE: "instances"}
_PARTS: Final = {
    Level.PATIENT: "The `reference` of a patient in a list.",
    Level.STUDY: "Study Instance UID.",
    Level.SERIES: "Series Instance UID.",
    Level.IMAGE: "SOP Instance UID.",
}


class PatientRow(Answer):
    """A patient, as it came with the first instance."""

    reference: Annotated[str, Field(description="Names this patient for merge and reassign.")]


class StudyRow(Answer):
    """A study with its patient, and what people and rules say of it."""

    labels: Annotated[tuple[str, ...], Field(description="In alphabetical order.")]
    assigned_to: Annotated[str, Field(description="The person or role that is to read it; empty for nobody.")]
    reading: Annotated[Reading, Field(description="How far the reading is.")]


class SeriesRow(Answer):
    """A series with its study and patient."""


class InstanceRow(Answer):
    """An instance with its series, study and patient."""


class Stored(Answer):
    """How much is stored."""

    instances: Annotated[int, Field(description="The number of instances.")]
    bytes: Annotated[int, Field(description="The size of their files, in bytes.")]
    first_received_at: Annotated[datetime | None, Field(description="When the first of them was received.")]
    last_received_at: Annotated[datetime | None, Field(description="When the last of them was received.")]


class StoredFile(Answer):
    """The file of an instance in the archive, and where it came from."""

    path: Annotated[str, Field(description="Below the directory of the archive.")]
    version: Annotated[int, Field(description="1 for the first version that was received, then counted up.")]
    size: Annotated[int, Field(description="In bytes.")]
    sha256: Annotated[str, Field(description="The digest of the whole file, as hexadecimal digits.")]
    transfer_syntax_uid: str
    received_at: datetime
    calling_ae: Annotated[str, Field(description="The AE title that sent it; empty if it had none.")]
    move_originator: Annotated[
        str,
        Field(description="The AE title that had it sent, by C-MOVE or by fetching it; empty if its sender decided."),
    ]
    address: Annotated[str, Field(description="The address that sent it.")]


_BASES: Final[dict[Level, type[Answer]]] = {
    Level.PATIENT: PatientRow,
    Level.STUDY: StudyRow,
    Level.SERIES: SeriesRow,
    Level.IMAGE: InstanceRow,
}
_ROWS: Final = {level: attributes_model(_NAMES[level].title(), level, base) for level, base in _BASES.items()}
STUDY_ROW: Final = _ROWS[Level.STUDY]
_PAGES: Final[dict[Level, Any]] = {level: Page.__class_getitem__(row) for level, row in _ROWS.items()}
_SEARCHES: Final = {
    level: search_model(f"{_NAMES[level].title()}Search", level, *[MarkedSearch] * (level is Level.STUDY))
    for level in Level
}


class _Shown(Answer):
    stored: Annotated[Stored, Field(description="How much of it is stored.")]


def _shown_model(level: Level) -> type[Any]:
    name = f"{_NAMES[level].title()}Details"
    return type(name, (_ROWS[level], _Shown), {"__doc__": f"Everything that is known of a {_NAMES[level]}."})


_DETAILS: Final = {level: _shown_model(level) for level in (Level.PATIENT, Level.STUDY, Level.SERIES)}


class StoredObjects:
    """The resources patients, studies, series and instances. A limited caller sees what its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of these resources."""
        found = [self._list(level) for level in Level]
        found += [self._show(level) for level in Level]
        return [*found, self._file_operation()]

    def _list(self, level: Level) -> Operation:
        tag = _TAGS[level]
        return Operation(
            method="GET", path=f"/{tag}", name=f"list_{tag}", tag=tag, role=Role.READER,
            summary=f"List {tag}, the last that came first.",
            description="The keys match as those of C-FIND and QIDO-RS do.",
            query=_SEARCHES[level], answer=_PAGES[level],
            run=lambda call: self._page(call, level),
        )  # fmt: skip

    def _show(self, level: Level) -> Operation:
        name, tag = _NAMES[level], _TAGS[level]
        return Operation(
            method="GET", path=f"/{tag}/{{{name}}}", name=f"show_{name}", tag=tag, role=Role.READER,
            summary=f"Show one {name}.", parts={name: _PARTS[level]},
            answer=_DETAILS.get(level, _ROWS[level]), run=lambda call: self._one(call, level),
            errors={404: f"There is no such {name}."},
        )  # fmt: skip

    def _file_operation(self) -> Operation:
        return Operation(
            method="GET", path="/instances/{instance}/file", name="show_file", tag="instances", role=Role.OPERATOR,
            summary="Show the file of an instance: path, size, digest, and where it came from.",
            parts={"instance": _PARTS[Level.IMAGE]}, answer=StoredFile, run=self._file,
            errors={404: "There is no such instance."},
        )  # fmt: skip

    # ---------------------------------------------------------------- answers

    def _page(self, call: Call[Any, None], level: Level) -> Answer:
        services, keys = self._services, keys_of(call.query)
        with services.auditor.query(call.caller, _find_class(level)) as record:
            returned = (each.keyword for each in shown_at(level))
            query = services.listing.query(level, keys, returned, fuzzy=call.query.fuzzymatching)
            record.keys(query.texts)
            marks = call.query.marks if level is Level.STUDY else NOTHING
            if marks:
                refuse_guests(call)
            page = services.listing.page(query, call.query.limit, call.query.after, call.caller.scope, marks=marks)
            record.matched(len(page.rows), complete=True)
        items = [_ROWS[level](**fields) for fields in self._fields(level, page.rows, call.caller.scope)]
        return _PAGES[level](items=items, next=next_address(call, page.after))  # type: ignore[no-any-return]

    def _one(self, call: Call[Any, None], level: Level) -> Answer:
        row = self._row(call.caller, level, call.path[_NAMES[level]])
        (fields,) = self._fields(level, [row], call.caller.scope)
        if level is Level.IMAGE:
            return _ROWS[level](**fields)  # type: ignore[no-any-return]
        extent = self._services.listing.extent(level, row.id, call.caller.scope)
        stored = Stored(
            instances=extent.instances, bytes=extent.bytes,
            first_received_at=extent.first_received_at, last_received_at=extent.last_received_at,
        )  # fmt: skip
        return _DETAILS[level](**fields, stored=stored)  # type: ignore[no-any-return]

    def _fields(self, level: Level, rows: Sequence[ListedRow], scope: Scope) -> list[dict[str, Any]]:
        """What a list says of each row."""
        fields = [values_of(row) for row in rows]
        if level is Level.PATIENT:
            return [{"reference": _reference(row, scope)} | each for row, each in zip(rows, fields, strict=True)]
        return with_marks(self._services.marks, fields, scope) if level is Level.STUDY else fields

    def _file(self, call: Call[Any, None]) -> Answer:
        row = self._row(call.caller, Level.IMAGE, call.path["instance"])
        file = self._services.listing.file(row.id)
        if file is None:
            raise NotFound("there is no such instance any more")
        return StoredFile(
            path=file.path, version=file.version, size=file.size, sha256=file.digest,
            transfer_syntax_uid=file.transfer_syntax_uid, received_at=file.received_at,
            calling_ae=file.calling_ae, move_originator=file.move_originator, address=file.peer,
        )  # fmt: skip

    def _row(self, caller: Caller, level: Level, name: str) -> ListedRow:
        """The row of that name, the newest if there are several. Raises NotFound, also if the caller may not see it."""
        services = self._services
        key, only = {}, None
        if level is Level.PATIENT:
            number = services.patients.key_of(name)
            only = None if number is None else inward(number, caller.scope)
        elif is_uid(name):
            key = {UNIQUE_KEYS[level]: name}
        if not key and only is None:
            raise NotFound(f"that is no {_PARTS[level].rstrip('.')}")
        with services.auditor.query(caller, _find_class(level)) as record:
            query = services.listing.query(level, key, (each.keyword for each in shown_at(level)))
            record.keys(query.texts)
            page = services.listing.page(query, 1, None, caller.scope, only=only)
            record.matched(len(page.rows), complete=True)
        found = [row for row in page.rows if level is not Level.PATIENT or _reference(row, caller.scope) == name]
        if not found:
            raise NotFound(f"there is no {_NAMES[level]} of that name")
        return found[0]


def with_marks(marks: MarkService, fields: list[dict[str, Any]], scope: Scope) -> list[dict[str, Any]]:
    """The fields of studies with what people and rules say of them; nothing is told to who came by a link."""
    uids = [each["StudyInstanceUID"] for each in fields]
    found = dict.fromkeys(uids, StudyMarks()) if scope.studies else marks.of(uids)
    for each in fields:
        of_study = found[each["StudyInstanceUID"]]
        each |= {name: getattr(of_study, name) for name in ("labels", "assigned_to", "reading")}
    return fields


def _find_class(level: Level) -> str:
    return PATIENT_ROOT_FIND if level is Level.PATIENT else STUDY_ROOT_FIND


def _reference(row: ListedRow, scope: Scope) -> str:
    """What names a patient for people and commands."""
    texts = {BY_KEYWORD[keyword].column: text for keyword, text in row.texts.items() if text}
    attributes = {BY_KEYWORD[keyword].column for keyword in row.texts if not BY_KEYWORD[keyword].computed}
    return Person(
        outward(row.id, scope), False, {name: text for name, text in texts.items() if name in attributes}
    ).reference
