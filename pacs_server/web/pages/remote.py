"""One remote: search at it, and fetch studies from it."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.json_model import text_of
from pacs_server.errors import InvalidIdentifier, NotFound, RemoteError
from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.delivery_words import failure
from pacs_server.web.pages.page import Pages
from pacs_server.web.pages.task_words import STATES, explained

# The fields of the form, and the attributes that they match.
FIELDS: Final = ("PatientName", "PatientID", "AccessionNumber", "StudyDate", "ModalitiesInStudy", "StudyInstanceUID")
_SHOWN: Final = {
    "name": "00100010", "patient": "00100020", "date": "00080020", "description": "00081030",
    "accession": "00080050", "modalities": "00080061", "images": "00201208", "study": "0020000D",
}  # fmt: skip
_RETURNS: Final = ("StudyTime", "StudyDescription", "NumberOfStudyRelatedInstances", *FIELDS)
_MOST: Final = 100
_TASKS: Final = 10


class RemotePage:
    """The room /remotes/{remote}."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The search, and having something fetched."""
        return [
            Route("/remotes/{remote}", self._pages.guarded(self._page), methods=["GET"]),
            Route("/remotes/{remote}/fetch", self._pages.guarded(self._fetch), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        ask, name = self._pages.ask, request.path_params["remote"]
        remote = next((each for each in (await ask(request, "list_remotes")).items if each.name == name), None)
        if remote is None:
            raise NotFound("there is no remote of this name in remote_aes")
        keys = {field: request.query_params.get(field, "").strip() for field in FIELDS}
        found: dict[str, Any] = {"rows": None, "complete": True, "wrong": None, "reason": ""}
        if "search" in request.query_params:
            found |= await self._found(request, name, keys)
        query = {"kind": "fetch", "target": name, "limit": _TASKS, "state": list(STATES)}
        tasks = (await ask(request, "list_tasks", query=query)).items
        return self._pages.show(
            request, "remote.html", remote=remote, keys=keys, states=STATES, **found,
            fetches=[(task, explained(task.last_error) if task.last_error else None) for task in tasks],
        )  # fmt: skip

    async def _found(self, request: Request, name: str, keys: dict[str, str]) -> dict[str, Any]:
        """The studies that the remote has, or why it does not tell."""
        body = {"keys": _matching(keys), "returns": list(_RETURNS), "limit": _MOST}
        try:
            answer = await self._pages.ask(request, "search_remote", {"remote": name}, body=body)
        except RemoteError as error:
            return {"wrong": failure(str(error)), "reason": str(error)}
        except InvalidIdentifier as error:
            return {"wrong": Explained(str(error)), "reason": ""}
        rows = [{name: text_of(item, tag) for name, tag in _SHOWN.items()} for item in answer.items]
        here = await self._here(request, [row["study"] for row in rows])
        return {"rows": [row | {"here": here.get(row["study"], 0)} for row in rows], "complete": answer.complete}

    async def _here(self, request: Request, uids: list[str]) -> dict[str, int]:
        """How many instances of these studies the archive has."""
        if not uids:
            return {}
        query = {"StudyInstanceUID": "\\".join(uids), "limit": len(uids)}
        found = await self._pages.ask(request, "list_studies", query=query)
        return {each.StudyInstanceUID: each.NumberOfStudyRelatedInstances or 0 for each in found.items}

    async def _fetch(self, request: Request) -> Response:
        form = await self._pages.form(request)
        name = request.path_params["remote"]
        await self._pages.ask(request, "fetch_from_remote", {"remote": name}, body={"study": form.get("study", "")})
        kept = {field: form.get(field, "") for field in FIELDS}
        return self._pages.go(request, f"/remotes/{name}", **kept, search="1")


def _matching(keys: dict[str, str]) -> dict[str, str]:
    """The keys of a C-FIND: names are found by their beginning (PS3.4 C.2.2.2.4), dates are written without hyphens."""
    found = {field: value for field, value in keys.items() if value}
    name = found.get("PatientName", "")
    if name and not set("*?") & set(name):
        found["PatientName"] = f"{name}*"
    if "StudyDate" in found:
        found["StudyDate"] = found["StudyDate"].replace("-", "")
    return found
