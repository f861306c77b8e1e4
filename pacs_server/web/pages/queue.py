"""The send queue: what waits for remotes or was given up, why, and what can be done about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import InvalidRequest
from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.delivery_words import failure
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_SHOWN: Final = 200
_DEEDS: Final = {"retry": "retry_deliveries", "cancel": "cancel_deliveries"}


@dataclass(slots=True)
class Row:
    """What is to be sent of one study to one remote, by one rule."""

    study: str
    remote: str
    rule: str
    since: datetime
    last: datetime | None = None
    counts: dict[str, int] = field(default_factory=dict)
    detail: str = ""
    words: Explained = field(default_factory=lambda: failure(""))
    # The task that sends it, as far as it is known.
    task: Any = None

    def is_due(self, now: datetime) -> bool:
        """Whether it is known when it is tried next."""
        task = self.task
        return task is not None and task.state == "ready" and bool(task.attempts) and task.due > now


@dataclass(slots=True)
class RemoteQueue:
    """What is to be sent to one remote, and why nothing can be sent to it now; `state` is '' if it is not known."""

    name: str
    state: str
    reason: str
    words: Explained | None
    rows: list[Row] = field(default_factory=list)

    def says_more(self, row: Row) -> bool:
        """Whether the reason of a row is another one than that of the remote."""
        return self.words is None or row.words != self.words


class Queue:
    """The room /queue."""

    entries = (Entry(marked("Send queue"), "/queue", "queue", Role.OPERATOR, marked("Network")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, and what its buttons do."""
        return [
            Route("/queue", self._pages.guarded(self._page), methods=["GET"]),
            Route("/queue", self._pages.guarded(self._decide), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        ask, asked = self._pages.ask, request.query_params
        remote, state = asked.get("remote", ""), asked.get("state", "")
        states = [state] if state in ("waiting", "dead") else None
        groups = await ask(request, "group_deliveries", query={"remote": remote, "state": states, "limit": _SHOWN})
        tasks = await ask(request, "list_tasks", query={"kind": "forward", "target": remote, "limit": 1000})
        rows = rows_of(groups.items, tasks.items)
        remotes = {each.name: each for each in (await ask(request, "outgoing")).items}
        return self._pages.show(
            request, "queue.html", complete=groups.complete, names=list(remotes),
            queues=queues_of(rows, remotes), chosen={"remote": remote, "state": state},
            studies=await self._studies(request, rows), now=datetime.now(UTC),
        )  # fmt: skip

    async def _studies(self, request: Request, rows: list[Row]) -> dict[str, Any]:
        """What is known of the studies, by UID; some may have been deleted."""
        uids = sorted({row.study for row in rows})
        if not uids:
            return {}
        query = {"StudyInstanceUID": "\\".join(uids), "limit": len(uids)}
        found = await self._pages.ask(request, "list_studies", query=query)
        return {each.StudyInstanceUID: each for each in found.items}

    async def _decide(self, request: Request) -> Response:
        form = await self._pages.form(request)
        remote, study, deed = form.get("remote", ""), form.get("study"), form.get("deed", "")
        if deed == "retarget":
            body = {"to": form.get("to", ""), "study": study}
            await self._pages.ask(request, "retarget", {"remote": remote}, body=body)
        elif deed in _DEEDS:
            body = {"remote": remote, "study": study, "rule": form.get("rule")}
            await self._pages.ask(request, _DEEDS[deed], body=body)
        else:
            raise InvalidRequest("the form says not what to do")
        return self._pages.go(request, "/queue", remote=form.get("shown_remote"), state=form.get("shown_state"))


def queues_of(rows: list[Row], remotes: Mapping[str, Any]) -> list[RemoteQueue]:
    """The rows by remote, in the order of the settings; remotes that are gone from them come last."""
    found: dict[str, RemoteQueue] = {}
    for name in (*remotes, *(row.remote for row in rows)):
        remote = remotes.get(name)
        if name not in found and remote is None:
            reason = f"{name} is not in remote_aes"
            found[name] = RemoteQueue(name, "", reason, failure(reason))
        elif name not in found and remote is not None:
            words = failure(remote.reason) if remote.state != "ready" and remote.reason else None
            found[name] = RemoteQueue(name, remote.state, remote.reason, words)
    for row in rows:
        found[row.remote].rows.append(row)
    return [each for each in found.values() if each.rows]


def rows_of(groups: list[Any], tasks: list[Any]) -> list[Row]:
    """The groups of deliveries, those of all states together, each with the task that sends it."""
    by_key = {(task.target, task.payload["study"], task.payload["rule"]): task for task in reversed(tasks)}
    rows: dict[tuple[str, str, str], Row] = {}
    for group in groups:
        key = group.remote, group.study_instance_uid, group.rule
        row = rows.setdefault(key, Row(group.study_instance_uid, group.remote, group.rule, group.since))
        row.counts[str(group.state)] = group.instances
        row.since = min(row.since, group.since)
        row.last = max((each for each in (row.last, group.last) if each), default=None)
        row.task = by_key.get(key)
        row.detail = row.detail or group.detail
    for row in rows.values():
        row.detail = row.detail or (row.task.last_error if row.task is not None else "")
        row.words = failure(row.detail)
    return list(rows.values())
