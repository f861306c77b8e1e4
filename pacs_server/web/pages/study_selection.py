"""What is done with several studies at once: the page that asks how, and the page that says what became of each."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import Conflict, FilesMissing, InvalidRequest, PacsError
from pacs_server.index.marks import MarkKind
from pacs_server.services.directory_exports import FOLDER
from pacs_server.services.marks import checked
from pacs_server.web.api.downloads import zipped
from pacs_server.web.caller import caller_of
from pacs_server.web.dicomweb.zip_contents import WITHOUT_MISSING
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.refused import NOTHING_REFUSED, Refused, refusal_of
from pacs_server.web.pages.studies import MOST_SELECTED, csv_head, table_of
from pacs_server.web.pages.study import READINGS
from pacs_server.web.threads import in_thread

Form = ImmutableMultiDict[str, str]
# What can be done, and the operation that it takes.
_DEEDS: Final = {"send": "send", "mark": "mark", "export": "export", "delete": "delete"}
_TITLES: Final = {
    "send": marked("Send studies"), "mark": marked("Label studies"),
    "delete": marked("Delete studies"), "export": marked("Export studies"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one study: `problem` says why nothing did, `told` what there is to say besides."""

    row: Any
    problem: str = ""
    told: str = ""


class StudySelection:
    """The rooms behind the buttons for selected studies."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """Where the selection goes, and then the form with what is to be done."""
        guarded = self._pages.guarded
        return [
            Route("/studies/selected", guarded(self._ask), methods=["POST"]),
            Route("/studies/selected/{deed}", guarded(self._do), methods=["POST"]),
        ]

    async def _ask(self, request: Request) -> Response:
        form = await self._pages.form(request)
        rows, deed = await self._rows(request, form), form.get("do", "")
        if deed == "download":
            uids = [row.StudyInstanceUID for row in rows]
            return await self._download(request, form, uids)
        if deed == "table":
            headers = {"content-disposition": 'attachment; filename="studies.csv"', "cache-control": "no-store"}
            return Response(csv_head() + table_of(rows), 200, headers, "text/csv; charset=utf-8")
        if deed not in _DEEDS:
            raise InvalidRequest("say what is to be done with these studies")
        return await self._form(request, deed, rows)

    async def _download(self, request: Request, form: Form, uids: list[str]) -> Response:
        zip_of = partial(zipped, without_missing=bool(form.get(WITHOUT_MISSING)))
        try:
            return await in_thread(zip_of, self._pages.services, caller_of(request), uids)
        except FilesMissing as error:
            again = {"study": uids, "do": ["download"], WITHOUT_MISSING: ["1"]}
            return self._pages.files_missing(request, error, again)

    async def _form(self, request: Request, deed: str, rows: list[Any], refused: Refused = NOTHING_REFUSED) -> Response:
        """The form that asks how."""
        may_send = deed == "send" and self._pages.ask.may(request, "list_destinations")
        return self._pages.show(
            request,
            "studies_deed.html",
            refused.status,
            refused=refused,
            deed=deed,
            title=_TITLES[deed],
            rows=rows,
            images=sum(row.NumberOfStudyRelatedInstances or 0 for row in rows),
            readings=READINGS,
            folder_pattern=FOLDER,
            destinations=(await self._pages.ask(request, "list_destinations")).items if may_send else [],
            choices=await self._pages.ask(request, "study_choices"),
        )

    async def _do(self, request: Request) -> Response:
        form, deed = await self._pages.form(request), request.path_params["deed"]
        if deed not in _DEEDS:
            raise InvalidRequest("there is no such thing to do with studies")
        rows = await self._rows(request, form)
        try:
            _check(deed, form)
            if deed == "export":
                return await self._export(request, form, [row.StudyInstanceUID for row in rows])
        except (InvalidRequest, Conflict) as error:
            return await self._form(request, deed, rows, refusal_of(deed, error, dict(form), _field(deed, form)))
        outcomes = [await self._outcome(request, form, deed, row) for row in rows]
        return self._pages.show(
            request, "studies_done.html", deed=deed, title=_TITLES[deed], outcomes=outcomes,
            done=sum(not each.problem for each in outcomes),
        )  # fmt: skip

    async def _outcome(self, request: Request, form: Form, deed: str, row: Any) -> Outcome:
        do: Callable[[Request, Form, str], Awaitable[str]] = {
            "send": self._send, "mark": self._mark, "delete": self._delete,
        }[deed]  # fmt: skip
        try:
            return Outcome(row, told=await do(request, form, row.StudyInstanceUID))
        except PacsError as error:
            # One of them does not keep the others from being done.
            return Outcome(row, problem=str(error))

    async def _send(self, request: Request, form: Form, uid: str) -> str:
        body = {"remotes": form.getlist("remote"), "study": uid}
        sent = await self._pages.ask(request, "send", body=body)
        return ", ".join(each.remote for each in sent.items)

    async def _mark(self, request: Request, form: Form, uid: str) -> str:
        labels = {name: [form[field].strip()] for name, field in (("add_labels", "add"), ("remove_labels", "remove"))
                  if form.get(field, "").strip()}  # fmt: skip
        body = {**labels, "reading": form["reading"]} if form.get("reading") else dict(labels)
        marks = await self._pages.ask(request, "mark", {"study": uid}, body=body)
        return ", ".join(marks.labels)

    async def _export(self, request: Request, form: Form, uids: list[str]) -> Response:
        """One export of all of them, by a task that the page of tasks shows."""
        body = {"studies": uids, "folder": form.get("folder", "").strip()}
        await self._pages.ask(request, "export_studies", body=body)
        return self._pages.go(request, "/tasks", kind="export", state="all")

    async def _delete(self, request: Request, form: Form, uid: str) -> str:
        body = {"level": "study", "uid": uid, "reason": form.get("reason", "").strip()}
        await self._pages.ask(request, "delete", body=body)
        return ""

    async def _rows(self, request: Request, form: Form) -> list[Any]:
        """The selected studies that the reader sees, in the order of the list."""
        uids = list(dict.fromkeys(form.getlist("study")))
        if not uids:
            raise InvalidRequest("no study is selected: tick some in the list first")
        if len(uids) > MOST_SELECTED:
            raise InvalidRequest(f"no more than {MOST_SELECTED} studies can be selected at a time")
        asked = {"StudyInstanceUID": "\\".join(uids), "limit": 2 * MOST_SELECTED}
        found = await self._pages.ask(request, "list_studies", query=asked)
        # A study that is known with two patients is there twice.
        rows = {row.StudyInstanceUID: row for row in reversed(found.items)}
        if not rows:
            raise InvalidRequest("the selected studies are not in the archive any more")
        return [rows[uid] for uid in uids if uid in rows]


def _check(deed: str, form: Form) -> None:
    """Raise InvalidRequest if a form is wrong for every study, whichever it is."""
    given = {name: form.get(name, "").strip() for name in ("add", "remove", "reading", "reason", "folder")}
    if deed == "send" and not form.getlist("remote"):
        raise InvalidRequest("choose at least one system to send to")
    if deed == "mark" and not any(given[name] for name in ("add", "remove", "reading")):
        raise InvalidRequest("give a label to add or remove, or choose a reading state")
    if deed == "mark":
        for label in filter(None, (given["add"], given["remove"])):
            checked(MarkKind.LABEL, label)
    if deed == "delete" and not given["reason"]:
        raise InvalidRequest("a reason has to be given")
    if deed == "export" and not re.fullmatch(FOLDER, given["folder"]):
        raise InvalidRequest("a folder has a name of letters, digits, dots, - and _, without a dot at its ends")


def _field(deed: str, form: Form) -> str:
    """The field that has the message of what is wrong with a form."""
    if deed == "mark":
        return "remove" if form.get("remove", "").strip() and not form.get("add", "").strip() else "add"
    return {"send": "remote", "delete": "reason", "export": "folder"}[deed]
