"""The worklist of a day as a board: what is scheduled, under way, done and called off, and studies without an order."""

from datetime import date, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.worklist import SCHEDULED_PROCEDURE_STEP_SEQUENCE, ItemStatus
from pacs_server.errors import InvalidWorklistItem
from pacs_server.intake.worklist_fields import STEP_FIELDS, expected, field_tag, set_field
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_COLUMNS: Final = (
    (marked("Scheduled"), (ItemStatus.SCHEDULED,)),
    (marked("In progress"), (ItemStatus.IN_PROGRESS,)),
    (marked("Completed"), (ItemStatus.COMPLETED,)),
    (marked("Called off"), (ItemStatus.DISCONTINUED, ItemStatus.CANCELLED)),
)
FIELDS: Final = (
    ("PatientName", marked("Patient's name"), marked("Family^Given")),
    ("PatientID", marked("Patient ID"), ""),
    ("PatientBirthDate", marked("Date of birth"), marked("such as 1970-12-31")),
    ("PatientSex", marked("Sex"), marked("M, F or O")),
    ("AccessionNumber", marked("Accession number"), ""),
    ("RequestedProcedureID", marked("Procedure ID"), ""),
    ("RequestedProcedureDescription", marked("Procedure"), ""),
    ("RequestedProcedurePriority", marked("Priority"), marked("STAT, HIGH, ROUTINE, MEDIUM or LOW")),
    ("ReferringPhysicianName", marked("Referring physician"), marked("Family^Given")),
    ("Modality", marked("Modality"), marked("such as CT or MR")),
    ("ScheduledStationAETitle", marked("AE title of the station"), ""),
    ("ScheduledProcedureStepStartDate", marked("Day"), marked("such as 2026-12-31")),
    ("ScheduledProcedureStepStartTime", marked("Time"), marked("such as 14:30")),
    ("ScheduledProcedureStepID", marked("Step ID"), ""),
    ("ScheduledProcedureStepDescription", marked("Procedure step"), ""),
)
"""The fields of an order that the form has: keyword, label, and what to write."""
_NEEDED: Final = ("PatientName", "PatientID", "Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate")
# They say which item it is, so they cannot be changed.
_IDENTITY: Final = ("AccessionNumber", "RequestedProcedureID", "ScheduledProcedureStepID")


_STUDY: Final = "StudyInstanceUID"


class Worklist:
    """The room /worklist."""

    entries = (Entry(marked("Worklist"), "/worklist", "calendar"),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._ask = pages.ask

    def routes(self) -> list[Route]:
        """The board, the form of an order, and what can be done with an item."""
        guarded = self._pages.guarded
        return [
            Route("/worklist", guarded(self._board), methods=["GET"]),
            Route("/worklist/new", guarded(self._new), methods=["GET"]),
            Route("/worklist/new", guarded(self._add), methods=["POST"]),
            Route("/worklist/unmatched/{study}", guarded(self._choose), methods=["GET"]),
            Route("/worklist/{item}", guarded(self._item), methods=["GET"]),
            Route("/worklist/{item}", guarded(self._change), methods=["POST"]),
            Route("/worklist/{item}/cancel", guarded(self._cancel), methods=["POST"]),
            Route("/worklist/{item}/match", guarded(self._match), methods=["POST"]),
        ]

    async def _board(self, request: Request) -> Response:
        day = _day(request.query_params.get("date", ""))
        told, query = day.strftime("%Y%m%d"), request.query_params
        items = (await self._ask(request, "worklist_board", query={"date": told})).items
        unmatched = (await self._ask(request, "unmatched_studies", query={"date": told})).items
        wanted = {name: query.get(name, "") for name in ("modality", "station")}
        shown = [
            item for item in items if all(not value or getattr(item, name) == value for name, value in wanted.items())
        ]
        columns = [(title, [item for item in shown if item.status in statuses]) for title, statuses in _COLUMNS]
        return self._pages.show(
            request, "worklist.html", day=day, before=day - timedelta(days=1), after=day + timedelta(days=1),
            today=date.today(), columns=columns, unmatched=unmatched, wanted=wanted,
            modalities=sorted({item.modality for item in items if item.modality}),
            stations=sorted({item.station for item in items if item.station}),
        )  # fmt: skip

    # ---------------------------------------------------------------- an item

    async def _new(self, request: Request) -> Response:
        values = {"ScheduledProcedureStepStartDate": request.query_params.get("date", "")}
        return self._form(request, values)

    async def _add(self, request: Request) -> Response:
        form = await self._pages.form(request)
        values = {keyword: form.get(keyword, "").strip() for keyword, *_ in FIELDS}
        try:
            filled = {keyword: text for keyword, text in values.items() if text}
            answer = await self._ask(request, "add_worklist_items", body={"fields": filled})
        except InvalidWorklistItem as error:
            return self._form(request, values, str(error))
        return self._pages.go(request, "/worklist", date=_start(answer.items[0].data_set))

    async def _item(self, request: Request) -> Response:
        item = await self._ask(request, "show_worklist_item", {"item": request.path_params["item"]})
        return await self._of_item(request, _values(item.data_set), item)

    async def _of_item(self, request: Request, values: dict[str, str], item: Any, problem: str = "") -> Response:
        found = await self._ask(request, "list_studies", query={_STUDY: item.study_instance_uid, "limit": 1})
        return self._form(request, values, problem, item=item, stored=bool(found.items))

    async def _change(self, request: Request) -> Response:
        form = await self._pages.form(request)
        path = {"item": request.path_params["item"]}
        item = await self._ask(request, "show_worklist_item", path)
        values = _values(item.data_set)
        values |= {keyword: form.get(keyword, "").strip() for keyword, *_ in FIELDS if keyword not in _IDENTITY}
        try:
            await self._ask(request, "replace_worklist_item", path, body={"data_set": _changed(item.data_set, values)})
        except InvalidWorklistItem as error:
            return await self._of_item(request, values, item, str(error))
        return self._pages.go(request, "/worklist", date=_start(item.data_set))

    async def _cancel(self, request: Request) -> Response:
        await self._pages.form(request)
        item = await self._ask(request, "cancel_worklist_item", {"item": request.path_params["item"]})
        return self._pages.go(request, "/worklist", date=_start(item.data_set))

    def _form(
        self, request: Request, values: dict[str, str], problem: str = "", item: Any = None, *, stored: bool = False
    ) -> Response:
        return self._pages.show(
            request, "worklist_item.html", 400 if problem else 200, fields=FIELDS, needed=_NEEDED, identity=_IDENTITY,
            values=dict.fromkeys((keyword for keyword, *_ in FIELDS), "") | values, problem=problem, item=item,
            stored=stored,
        )  # fmt: skip

    # ---------------------------------------------------------------- studies without an order

    async def _choose(self, request: Request) -> Response:
        uid = request.path_params["study"]
        study = await self._ask(request, "show_study", {"study": uid})
        items = await self._ask(request, "list_worklist_items", query={"patient_id": study.PatientID, "limit": 100})
        found = [item for item in items.items if study.PatientID]
        days = [(item, _values(item.data_set)) for item in found]
        return self._pages.show(request, "worklist_match.html", study=study, items=days)

    async def _match(self, request: Request) -> Response:
        form = await self._pages.form(request)
        path = {"item": request.path_params["item"]}
        await self._ask(request, "match_study", path, body={"study": form.get("study", "")})
        item = await self._ask(request, "show_worklist_item", path)
        return self._pages.go(request, "/worklist", date=_start(item.data_set))


def _day(text: str) -> date:
    """The day that is asked for, as YYYYMMDD or YYYY-MM-DD; today without one, or if it is none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return date.today()


def _step(data_set: dict[str, Any]) -> dict[str, Any]:
    step: dict[str, Any] = data_set[SCHEDULED_PROCEDURE_STEP_SEQUENCE]["Value"][0]
    return step


def _start(data_set: dict[str, Any]) -> str:
    return text_of(_step(data_set), field_tag("ScheduledProcedureStepStartDate"))


def _values(data_set: dict[str, Any]) -> dict[str, str]:
    """The texts of the form for an item."""
    step = _step(data_set)
    return {
        keyword: text_of(step if keyword in STEP_FIELDS else data_set, field_tag(keyword)) for keyword, *_ in FIELDS
    }


def _changed(data_set: dict[str, Any], values: dict[str, str]) -> dict[str, Any]:
    """An item with the texts of the form; what the form does not have stays. Raises InvalidWorklistItem."""
    order, step = dict(data_set), dict(_step(data_set))
    for keyword, text in values.items():
        try:
            set_field(order, step, keyword, text)
        except ValueError:
            raise InvalidWorklistItem(f"{keyword} has to be {expected(keyword)}") from None
    return order | {SCHEDULED_PROCEDURE_STEP_SEQUENCE: {"vr": "SQ", "Value": [step]}}
