"""The worklist of a day as a board: what is planned, in progress, completed or discontinued, and what has no order."""

from datetime import date, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import InvalidWorklistItem, WorklistItemChanged
from pacs_server.intake.worklist_fields import field_tag
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.worklist_form import FIELDS, GROUPS, changed, problems, shown, step_of, texts, typed

_COLUMNS: Final = (
    (marked("Scheduled"), (ItemStatus.SCHEDULED,)),
    (marked("In progress"), (ItemStatus.IN_PROGRESS,)),
    (marked("Completed"), (ItemStatus.COMPLETED,)),
    (marked("Discontinued or cancelled"), (ItemStatus.DISCONTINUED, ItemStatus.CANCELLED)),
)
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
        those = [
            item for item in items if all(not value or getattr(item, name) == value for name, value in wanted.items())
        ]
        columns = [(title, [item for item in those if item.status in statuses]) for title, statuses in _COLUMNS]
        return self._pages.show(
            request, "worklist.html", day=day, before=day - timedelta(days=1), after=day + timedelta(days=1),
            today=date.today(), columns=columns, unmatched=unmatched, wanted=wanted,
            modalities=sorted({item.modality for item in items if item.modality}),
            stations=sorted({item.station for item in items if item.station}),
        )  # fmt: skip

    # ---------------------------------------------------------------- an item

    async def _new(self, request: Request) -> Response:
        return self._form(
            request, {"ScheduledProcedureStepStartDate": _day(request.query_params.get("date", "")).isoformat()}
        )

    async def _add(self, request: Request) -> Response:
        form = await self._pages.form(request)
        values = typed(form)
        if wrong := problems(values):
            return self._form(request, dict(form), wrong=wrong)
        try:
            filled = {keyword: text for keyword, text in values.items() if text}
            answer = await self._ask(request, "add_worklist_items", body={"fields": filled})
        except InvalidWorklistItem as error:
            return self._form(request, dict(form), problem=str(error))
        return self._pages.go(request, "/worklist", date=_start(answer.items[0].data_set))

    async def _item(self, request: Request) -> Response:
        item, seen = await self._ask.tagged(request, "show_worklist_item", request.path_params)
        return await self._of_item(request, shown(item.data_set), item, seen)

    async def _of_item(self, request: Request, values: dict[str, str], item: Any, seen: str, **told: Any) -> Response:
        """The form of an item; `seen` is the ETag of the state that the reader has seen."""
        found = await self._ask(request, "list_studies", query={_STUDY: item.study_instance_uid, "limit": 1})
        return self._form(request, values, item=item, seen=seen, stored=bool(found.items), **told)

    async def _change(self, request: Request) -> Response:
        form, path = await self._pages.form(request), request.path_params
        item, now = await self._ask.tagged(request, "show_worklist_item", path)
        # What was not touched in the form would otherwise be set back to what it was when the form was opened.
        seen = form.get("seen", "")
        values = {keyword: text for keyword, text in typed(form).items() if not FIELDS[keyword].fixed}
        written = shown(item.data_set) | dict(form)
        if wrong := problems(values):
            return await self._of_item(request, written, item, seen, wrong=wrong)
        body = {"data_set": changed(item.data_set, values)}
        try:
            await self._ask(request, "replace_worklist_item", path, body=body, if_match=seen)
        except WorklistItemChanged:
            told = shown(item.data_set)
            others = [(FIELDS[each].label, text) for each, text in told.items() if text != written[each]]
            return await self._of_item(request, written, item, now, others=others)
        except InvalidWorklistItem as error:
            return await self._of_item(request, written, item, seen, problem=str(error))
        return self._pages.go(request, "/worklist", date=_start(item.data_set))

    async def _cancel(self, request: Request) -> Response:
        await self._pages.form(request)
        item = await self._ask(request, "cancel_worklist_item", {"item": request.path_params["item"]})
        return self._pages.go(request, "/worklist", date=_start(item.data_set))

    def _form(self, request: Request, values: dict[str, str], **told: Any) -> Response:
        """The form with these values; `told` is what else is known of the item, and what is wrong."""
        told = {"item": None, "seen": "", "stored": False, "problem": "", "wrong": {}, "others": None} | told
        status = 412 if told["others"] is not None else 400 if told["problem"] or told["wrong"] else 200
        return self._pages.show(
            request, "worklist_item.html", status, groups=GROUPS, values=dict.fromkeys(FIELDS, "") | values, **told
        )

    # ---------------------------------------------------------------- studies without an order

    async def _choose(self, request: Request) -> Response:
        uid = request.path_params["study"]
        study = await self._ask(request, "show_study", {"study": uid})
        items = await self._ask(request, "list_worklist_items", query={"patient_id": study.PatientID, "limit": 100})
        found = [item for item in items.items if study.PatientID]
        days = [(item, texts(item.data_set)) for item in found]
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


def _start(data_set: dict[str, Any]) -> str:
    return text_of(step_of(data_set), field_tag("ScheduledProcedureStepStartDate"))
