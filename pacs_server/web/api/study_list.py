"""REST: the list of studies as people search it: by words, filters and columns, and what they can filter by."""

import base64
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.dicom.levels import Level
from pacs_server.dicom.scope import Scope
from pacs_server.errors import InvalidRequest
from pacs_server.index.study_order import ListPlace, StudyOrder, is_place
from pacs_server.index.study_terms import StudyFilter
from pacs_server.services.study_list import ListedStudy
from pacs_server.web.api.attributes import shown_at, values_of
from pacs_server.web.api.binding import check_texts, next_address
from pacs_server.web.api.hidden_numbers import inward, outward
from pacs_server.web.api.marks import MarkKeys, refuse_guests
from pacs_server.web.api.operation import Answer, Call, Limit, Operation, Page
from pacs_server.web.api.stored import STUDY_ROOT_FIND, STUDY_ROW, with_marks
from pacs_server.web.services import WebServices

_TAG: Final = "studies"
_RETURNED: Final = shown_at(Level.STUDY)

_Day = Annotated[str, Field(pattern=r"^(\d{8})?$")]
_Text = Annotated[str, Field(max_length=64)]
_Texts = Annotated[tuple[_Text, ...], Field(max_length=20)]


class StudySearch(MarkKeys):
    """What to list; what is missing does not matter."""

    text: Annotated[
        str,
        Field(
            max_length=200,
            description="Words that are in the patient's name or in the description, or begin the Patient ID or the "
            "Accession Number, case and accents aside; or the UID of a study, of a series or of an instance.",
        ),
    ] = ""
    date_from: Annotated[_Day, Field(description="The first Study Date, YYYYMMDD.")] = ""
    date_to: Annotated[_Day, Field(description="The last Study Date, YYYYMMDD.")] = ""
    received_from: Annotated[
        datetime | None, Field(description="Those whose first instance was received then or later.")
    ] = None
    received_to: Annotated[
        datetime | None, Field(description="Those whose first instance was received then or before.")
    ] = None
    modality: Annotated[_Texts, Field(description="Those with a series of this modality, or of one of several.")] = ()
    station: Annotated[
        _Texts, Field(description="Those with a series of this Station Name, or of one of several.")
    ] = ()
    sort: Annotated[StudyOrder, Field(description="What to sort by.")] = StudyOrder.DATE
    ascending: Annotated[bool, Field(description="Whether the least comes first.")] = False
    limit: Limit = 100
    after: Annotated[str | None, Field(max_length=4000, description="As in the link `next` of the page before.")] = None

    def wanted(self) -> StudyFilter:
        """The filter that these parameters are."""
        return StudyFilter(
            self.text, (self.date_from, self.date_to), (_moment(self.received_from), _moment(self.received_to)),
            self.modality, self.station, self.marks,
        )  # fmt: skip


class ListedStudyRow(STUDY_ROW):  # type: ignore[misc, valid-type]
    """A study with its patient, what people and rules say of it, and when it came."""

    received_at: Annotated[datetime | None, Field(description="When its first instance was received.")]


class ListedStudies(Page[ListedStudyRow]):
    """One page of the list."""

    after: Annotated[str | None, Field(description="Where the next page begins; null if this is the last one.")]
    total: Annotated[
        int | None,
        Field(description="How many there are; null on later pages, and if it takes long to tell."),
    ]


class Choices(Answer):
    """What studies can be filtered by; empty for a caller with limits."""

    modalities: list[str]
    stations: list[str]
    labels: list[str]


class StudyList:
    """The list of studies. A limited caller finds what its limits show."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/study-list", name="search_studies", tag=_TAG, role=Role.READER,
                summary="Search studies by words and filters, sorted by a column.",
                query=StudySearch, answer=ListedStudies, run=self._search,
            ),
            Operation(
                method="GET", path="/study-list/choices", name="study_choices", tag=_TAG, role=Role.READER,
                summary="List the modalities, stations and labels that studies can be filtered by.",
                answer=Choices, run=self._choices,
            ),
        ]  # fmt: skip

    def _search(self, call: Call[StudySearch, None]) -> Answer:
        services, asked, scope = self._services, call.query, call.caller.scope
        if asked.wanted().marks or asked.sort is StudyOrder.LABELS:
            refuse_guests(call)
        place = ListPlace(asked.limit, asked.sort, not asked.ascending, _place(asked.after, asked.sort, scope))
        with services.auditor.query(call.caller, STUDY_ROOT_FIND) as record:
            record.keys(_told(asked))
            page = services.study_list.page(asked.wanted(), place, _RETURNED, scope)
            record.matched(len(page.rows), complete=True)
        after = page.after and _cursor(*page.after, scope)
        return ListedStudies(
            items=self._rows(page.rows, scope), next=next_address(call, after), after=after, total=page.total
        )  # fmt: skip

    def _rows(self, rows: tuple[ListedStudy, ...], scope: Scope) -> list[ListedStudyRow]:
        fields = with_marks(self._services.marks, [values_of(row) for row in rows], scope)
        return [ListedStudyRow(**each, received_at=row.received_at) for row, each in zip(rows, fields, strict=True)]

    def _choices(self, call: Call[Any, None]) -> Answer:
        if call.caller.scope.is_limited:
            return Choices(modalities=list(call.caller.scope.modalities), stations=[], labels=[])
        found = self._services.study_list.choices()
        return Choices(modalities=found.modalities, stations=found.stations, labels=found.labels)


def _told(asked: StudySearch) -> dict[str, str]:
    """What was searched by, for the audit trail."""
    given = asked.model_dump(mode="json", exclude_unset=True, exclude={"limit", "after", "sort", "ascending"})
    return {name: ", ".join(value) if isinstance(value, list) else str(value) for name, value in given.items()}


def _moment(at: datetime | None) -> str:
    return "" if at is None else at.astimezone(UTC).strftime("%Y%m%d%H%M%S")


def _cursor(values: tuple[str, ...], key: int, scope: Scope) -> str:
    told = json.dumps([*values, outward(key, scope)], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return base64.urlsafe_b64encode(told).decode().rstrip("=")


def _place(cursor: str | None, order: StudyOrder, scope: Scope) -> tuple[tuple[str, ...], int] | None:
    if not cursor:
        return None
    try:
        *values, number = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        key = inward(int(number), scope)
    except (ValueError, TypeError):
        key = None
    if key is None or not is_place(order, tuple(values)) or not 0 < key < 1 << 63:
        raise InvalidRequest("after is from no link of this list: list from the start")
    check_texts(values, "after")
    return tuple(values), key
