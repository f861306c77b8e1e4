"""One study: its patient, its series with pictures, what people say of it, and what can be done with it."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.audit.auditor import participant_of
from pacs_server.errors import InvalidRequest, NotAuthorised
from pacs_server.index.marks import MarkKind
from pacs_server.services.marks import checked, checked_note
from pacs_server.web.caller import caller_of
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.refused import NOTHING_REFUSED, Refused, refusal_of

# Modalities whose instances have no pixels (PS3.3 C.7.3.1.1.1): their thumbnails are not asked for.
NO_PICTURES: Final = frozenset({
    "SR", "PR", "KO", "DOC", "RTSTRUCT", "RTPLAN", "RTRECORD", "REG", "FID", "PLAN", "AU", "ECG", "EPS", "HD", "EEG",
    "EMG", "EOG", "RESP", "POS", "ASMT", "RWV", "M3D", "STAIN", "TEXTUREMAP", "LEN", "AR", "KER", "VA", "SRF", "IOL",
})  # fmt: skip
_MOST_SERIES: Final = 1000
# The states of a reading as people call them.
READINGS: Final = {
    "unread": marked("not read"), "reading": marked("being read"), "read": marked("read"),
    "review": marked("to be reviewed"),
}  # fmt: skip
_DELIVERIES: Final = ("waiting", "delivered", "dead", "cancelled")


class Study:
    """The room /studies/{study}."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page, and where its forms go."""
        guarded, path = self._pages.guarded, "/studies/{study}"
        return [
            Route(path, guarded(self._page), methods=["GET"]),
            Route(f"{path}/marks", guarded(self._mark), methods=["POST"]),
            Route(f"{path}/notes", guarded(self._note), methods=["POST"]),
            Route(f"{path}/send", guarded(self._send), methods=["POST"]),
            Route(f"{path}/delete", guarded(self._delete), methods=["POST"]),
        ]

    async def _page(self, request: Request, refused: Refused = NOTHING_REFUSED) -> Response:
        ask, path = self._pages.ask, {"study": request.path_params["study"]}
        # Who came by a link does not see what is said between those who have an account.
        is_guest = bool(caller_of(request).scope.studies)
        study = await ask(request, "show_study", path)
        series = await ask(
            request, "list_series", query={"StudyInstanceUID": study.StudyInstanceUID, "limit": _MOST_SERIES}
        )
        return self._pages.show(
            request,
            "study.html",
            refused.status,
            study=study,
            tab="study",
            series=sorted(series.items, key=_place),
            no_pictures=NO_PICTURES,
            marks=None if is_guest else await ask(request, "show_marks", path),
            notes=[] if is_guest else (await ask(request, "list_notes", path)).items,
            readings=READINGS,
            me=participant_of(caller_of(request)).user_id,
            destinations=(await ask(request, "list_destinations")).items if ask.may(request, "send") else [],
            may_send=ask.may(request, "send") and not caller_of(request).scope.is_limited,
            sent=await self._sent(request, path),
            said=request.query_params.get("said", ""),
            refused=refused,
        )

    async def _sent(self, request: Request, path: dict[str, str]) -> list[Any]:
        """The deliveries of the study, by remote and state."""
        try:
            found = (await self._pages.ask(request, "show_history", path)).items
        except NotAuthorised:
            # The history is about all of a study, of which callers with limits may see a part.
            return []
        return [each for each in found if each.what in _DELIVERIES]

    async def _mark(self, request: Request) -> Response:
        form, path = await self._pages.form(request), request.path_params
        add, remove = form.get("add", "").strip(), form.get("remove", "")
        body: dict[str, object] = {"add_labels": [add] if add else [], "remove_labels": [remove] if remove else []}
        body |= {name: form[name].strip() for name in ("assigned_to", "reading") if name in form}
        try:
            if "add" in form:
                checked(MarkKind.LABEL, add)
            if "assigned_to" in form:
                checked(MarkKind.ASSIGN, form["assigned_to"])
            await self._pages.ask(request, "mark", path, body=body)
        except InvalidRequest as error:
            field = "add" if "add" in form else "assigned_to"
            return await self._page(request, refusal_of("marks", error, dict(form), field))
        return self._pages.go(request, f"/studies/{path['study']}")

    async def _note(self, request: Request) -> Response:
        form, path = await self._pages.form(request), request.path_params
        if remove := form.get("remove", ""):
            await self._pages.ask(request, "remove_note", {**path, "note": remove})
        else:
            try:
                text = checked_note(form.get("text", ""))
                await self._pages.ask(request, "add_note", path, body={"text": text})
            except InvalidRequest as error:
                return await self._page(request, refusal_of("notes", error, dict(form), "text"))
        return self._pages.go(request, f"/studies/{path['study']}")

    async def _send(self, request: Request) -> Response:
        form, study = await self._pages.form(request), request.path_params["study"]
        body = {"remotes": form.getlist("remote"), "study": study}
        await self._pages.ask(request, "send", body=body)
        return self._pages.go(request, f"/studies/{study}", said="sent")

    async def _delete(self, request: Request) -> Response:
        form, study = await self._pages.form(request), request.path_params["study"]
        series = form.get("series", "")
        what = {"level": "series", "uid": series} if series else {"level": "study", "uid": study}
        await self._pages.ask(request, "delete", body={**what, "reason": form.get("reason", "")})
        return self._pages.go(request, f"/studies/{study}" if series else "/studies", said="deleted")


def _place(row: Any) -> tuple[int, str]:
    return whole(row.SeriesNumber), row.SeriesInstanceUID


def whole(text: str | int | None) -> int:
    """A value of the VR IS as a number, 0 for what is none."""
    try:
        return int(text or 0)
    except ValueError:
        return 0
