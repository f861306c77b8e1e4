"""Who is connected now, who was, and who was refused and why."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.association_words import Explained, ending, refusal
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Refused:
    """How often a peer was refused for one reason, and when the last time was."""

    calling_ae: str
    called_ae: str
    address: str
    outcome: str
    tls: bool
    count: int
    last: datetime
    words: Explained


class Network:
    """The room /network."""

    entries = (Entry(marked("Associations"), "/network", "network", Role.OPERATOR, marked("Network")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/network", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        ask = self._pages.ask
        q = request.query_params.get("q", "").strip()
        now = await ask(request, "list_open_associations")
        past = await ask(request, "list_recent_associations", query={"limit": 1000})
        ended = [each for each in _matching(past.items, q) if not each.refused]
        return self._pages.show(
            request, "network.html", q=q,
            open_now=[(each, _ago(each.seconds)) for each in _matching(now.items, q)],
            recent=[(each, *ending(each.outcome)) for each in ended[:_SHOWN]],
            refused=refusals(_matching(past.items, q))[:_SHOWN],
            may_allow=ask.may(request, "add_peer_rule"),
        )  # fmt: skip


def refusals(rows: Sequence[Any]) -> list[Refused]:
    """Refused associations, the same ones together, the last one first; `rows` are all, the newest first.

    Whom no rule let in, and who was let in since, is not told any more.
    """
    admitted: set[tuple[str, str]] = set()
    shut_out = []
    for each in rows:
        if not each.refused:
            admitted.add((each.calling_ae, each.address))
        elif (each.calling_ae, each.address) not in admitted or not refusal(each.outcome).allowable:
            shut_out.append(each)
    rows = shut_out
    counts = Counter(_key(each) for each in rows)
    last = {_key(each): each for each in reversed(rows)}
    found = [
        Refused(*key[:4], each.tls, counts[key], each.at, refusal(each.outcome)) for key, each in last.items()
    ]  # fmt: skip
    return sorted(found, key=lambda each: each.last, reverse=True)


def _key(row: Any) -> tuple[str, str, str, str]:
    return row.calling_ae, row.called_ae, row.address, row.outcome


def _matching(rows: Iterable[Any], q: str) -> list[Any]:
    wanted = q.casefold()
    return [each for each in rows if wanted in f"{each.calling_ae} {each.called_ae} {each.address}".casefold()]


def _ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
