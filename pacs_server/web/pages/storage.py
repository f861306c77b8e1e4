"""The storage: how long it will last, how it grew, what takes the room, and whether everything is in order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.plots import bars, growth, months

KINDS: Final = {
    "missing": marked("missing"), "size": marked("of another size"), "changed": marked("changed"),
    "damaged": marked("damaged"), "unreadable": marked("not readable"),
    "drift": marked("different from the index"), "misplaced": marked("in another place"),
    "orphan": marked("not in the index"), "counter": marked("number in the index"),
}  # fmt: skip
_MOST_STUDIES: Final = 50
_MOST_FILES: Final = 50


@dataclass(frozen=True, slots=True)
class FaultyStudy:
    """A study with damaged or missing files: how many of each kind, and one of the files of each kind."""

    study: str
    counts: Mapping[str, int]
    paths: Mapping[str, str]


def by_study(faults: Sequence[Any]) -> tuple[list[FaultyStudy], list[Any]]:
    """The faults by study, the study with the most of them first; and those that are of no known study."""
    studies: dict[str, list[Any]] = {}
    for fault in faults:
        if fault.study:
            studies.setdefault(fault.study, []).append(fault)
    found = [
        FaultyStudy(uid, Counter(each.kind.value for each in some), {each.kind.value: each.path for each in some})
        for uid, some in studies.items()
    ]
    found.sort(key=lambda each: (-sum(each.counts.values()), each.study))
    return found, [fault for fault in faults if not fault.study]


class Storage:
    """The room /storage."""

    entries = (Entry(marked("Storage"), "/storage", "storage", Role.OPERATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page."""
        return [Route("/storage", self._pages.guarded(self._page), methods=["GET"])]

    async def _page(self, request: Request) -> Response:
        storage = await self._pages.ask(request, "show_storage")
        server = await self._pages.ask(request, "show_server")
        counted = await self._pages.ask(request, "show_statistics")
        known = await self._pages.ask(request, "list_faults")
        of_studies, others = by_study(known.items)
        scrub, today = server.sections.get("scrub") or {}, datetime.now(UTC).date()
        ended = scrub.get("last_pass")
        return self._pages.show(
            request, "storage.html",
            storage=storage, counts=server.sections.get("counts") or {}, counted=counted,
            database=server.sections.get("database") or {}, findings=scrub.get("findings"),
            verified=known.last_verification, kinds=KINDS,
            of_studies=of_studies[:_MOST_STUDIES], others=others[:_MOST_FILES],
            more_studies=max(0, len(of_studies) - _MOST_STUDIES), more_files=max(0, len(others) - _MOST_FILES),
            rows=await self._rows(request, [each.study for each in of_studies[:_MOST_STUDIES]]),
            last_pass=None if ended is None else datetime.fromisoformat(ended),
            growth=growth(counted.days, today), bars=bars(counted.days, today), months=months(counted.days),
        )  # fmt: skip

    async def _rows(self, request: Request, studies: Sequence[str]) -> dict[str, Any]:
        """What the list of studies shows of these studies, by their UIDs."""
        if not studies:
            return {}
        asked = {"StudyInstanceUID": "\\".join(studies), "limit": 2 * _MOST_STUDIES}
        found = await self._pages.ask(request, "list_studies", query=asked)
        return {row.StudyInstanceUID: row for row in found.items}
