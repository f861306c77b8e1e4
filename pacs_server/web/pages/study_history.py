"""What happened to a study, in one line of time: when it came, was sent and was looked at, and what was decided."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.audit.auditor import NOT_LOGGED_IN
from pacs_server.errors import NotAuthorised, NotFound
from pacs_server.web.pages.audit_words import way
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages

# So many days of the audit trail are searched at a time: it is read file by file.
_DAYS: Final = 30
_TOGETHER: Final = 1000
_MOST_PAGES: Final = 10
# What the audit trail says of a study (PS3.16 CID 400), if images went a known way with that way behind it.
SEEN: Final = {
    "Begin Transferring DICOM Instances": marked("began to transfer it"),
    "Begin Transferring DICOM Instances in": marked("began to send it here"),
    "Begin Transferring DICOM Instances out": marked("began to fetch it"),
    "Begin Transferring DICOM Instances on": marked("began to send it to another system"),
    "DICOM Instances Transferred": marked("transferred it"),
    "DICOM Instances Transferred in": marked("sent it here"),
    "DICOM Instances Transferred out": marked("looked at it or fetched it"),
    "DICOM Instances Transferred on": marked("sent it to another system"),
    "Export": marked("exported it"),
    "Patient Record": marked("changed information about it"),
    "DICOM Instances Accessed": marked("opened or changed it"),
    "DICOM Study Deleted": marked("deleted it"), "Order Record": marked("changed its order"),
    "Procedure Record": marked("reported a procedure step"), "Security Alert": marked("used a restricted function"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An entry of the line of time; the template knows what `kind` means, and `about` has what it tells."""

    kind: str
    at: datetime
    about: Any


class StudyHistory:
    """The room /studies/{study}/history."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/studies/{study}/history", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        ask, path = self._pages.ask, {"study": request.path_params["study"]}
        study = await ask(request, "show_study", path)
        uid = study.StudyInstanceUID
        entries = [
            Entry(kind=each.what.value, at=each.at, about=each)
            for each in (await ask(request, "show_history", path)).items
        ]
        steps = (await ask(request, "list_steps", query={"study_instance_uid": uid})).items
        entries += [Entry(kind="step", at=each.updated_at, about=each) for each in steps]
        notes = (await ask(request, "list_notes", path)).items
        entries += [Entry(kind="note", at=each.at, about=each) for each in notes]
        last = _day(request.query_params.get("until", ""))
        audited = ask.may(request, "search_audit_trail")
        seen = await self._seen(request, uid, last) if audited else []
        entries += [Entry(kind="seen", at=each.time, about=each) for each in seen]
        return self._pages.show(
            request,
            "study_history.html",
            study=study,
            tab="history",
            items=await self._ordered(request, study),
            happened=sorted(entries, key=lambda each: each.at, reverse=True),
            audited=audited,
            first=last - timedelta(days=_DAYS),
            last=last,
            words=SEEN,
            nobody=NOT_LOGGED_IN,
            over=await self._associations(request),
        )

    async def _associations(self, request: Request) -> Callable[[Any], list[Any]]:
        """What finds the associations, of those that are still remembered, over which something was received."""
        known: list[Any] = []
        with suppress(NotAuthorised):
            if self._pages.ask.may(request, "list_recent_associations"):
                query = {"refused": False, "limit": _TOGETHER}
                known = (await self._pages.ask(request, "list_recent_associations", query=query)).items
        return lambda received: [each for each in known if _is_over(each, received)]

    async def _ordered(self, request: Request, study: Any) -> list[Any]:
        """The worklist items of the study: those with its UID, else those with its accession number."""
        for key, value in (
            ("study_instance_uid", study.StudyInstanceUID),
            ("accession_number", study.AccessionNumber),
        ):
            if value and (found := (await self._pages.ask(request, "list_worklist_items", query={key: value})).items):
                return list(found)
        return []

    async def _seen(self, request: Request, uid: str, last: date) -> list["Seen"]:
        """What the audit trail says of a study in the days up to `last`, its records of one user and kind as one."""
        query: dict[str, object] = {
            "study": uid, "without": "query", "limit": _TOGETHER,
            "first": (last - timedelta(days=_DAYS)).isoformat(), "last": last.isoformat(),
        }  # fmt: skip
        found: list[Any] = []
        try:
            for _ in range(_MOST_PAGES):
                page = await self._pages.ask(request, "search_audit_trail", query=query)
                found += page.items
                if page.next is None:
                    break
                query = dict(parse_qsl(urlsplit(page.next).query))
        except NotFound:
            return []
        return list(together(found))


def _is_over(association: Any, received: Any) -> bool:
    """Whether something may have been received over an association: from the same peer, at the same time."""
    same = (association.calling_ae, association.address) == (received.who, received.where)
    began = association.at - timedelta(seconds=association.seconds + 1)
    return same and began <= received.at and (received.since or received.at) <= association.at


@dataclass(slots=True)
class Seen:
    """Records of the audit trail of one user and one kind that follow upon each other; `time` is that of the last."""

    event: str
    user: str
    address: str
    detail: str
    time: datetime
    since: datetime
    count: int = 1


def together(records: list[Any]) -> Iterator[Seen]:
    """Records of the audit trail, the oldest first, without repetitions within an hour, such as of a viewer."""
    open_: dict[tuple[str, str, str], Seen] = {}
    for record in records:
        who: Mapping[str, Any] = next((each for each in record.event["participants"] if each.get("requestor")), {})
        name = f"{record.event_name} {way(record.event)}".rstrip()
        key = (name, str(who.get("user") or who.get("ae") or ""), str(who.get("address", "")))
        last = open_.get(key)
        if last is not None and record.time - last.time < timedelta(hours=1):
            last.time, last.count = record.time, last.count + 1
            continue
        if last is not None:
            yield last
        open_[key] = Seen(*key, str(record.event.get("detail", "")), record.time, record.time)
    yield from open_.values()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC).date()
