"""Whether the audit trail is as it was written: verified in the background, with the result in plain words."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.errors import NotFound
from pacs_server.web.pages.association_words import Explained
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Pages

# What the words of a finding mean; the first one that is in its sentence counts.
_MEANINGS: Final = {
    "wrong key": Explained(
        marked("A record was signed with another key."),
        marked("Check audit.key. If it is the right one, somebody else has written into the trail."),
    ),
    "torn": Explained(
        marked("The last record is incomplete: the machine stopped while it was written."),
        marked("The next record repairs this. Then verify again."),
    ),
    "out of order": Explained(
        marked("Records were swapped, or one is there twice."),
        marked("Keep the directory as it is, and compare it with a copy or with the audit repository."),
    ),
    "missing": Explained(
        marked("Records are missing."),
        marked("Keep the directory as it is, and compare it with a copy or with the audit repository."),
    ),
    "changed": Explained(
        marked("A record was changed."),
        marked("Keep the directory as it is, and compare it with a copy or with the audit repository."),
    ),
}
_UNREADABLE: Final = Explained(
    marked("The trail could not be read."), marked("The message below says why. Correct that, then verify again.")
)


class AuditVerification:
    """The room /audit/verification."""

    entries = ()

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The page, and where its button goes."""
        guarded = self._pages.guarded
        return [
            Route("/audit/verification", guarded(self._page), methods=["GET"]),
            Route("/audit/verification", guarded(self._start), methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        try:
            state = await self._pages.ask(request, "show_audit_verification")
        except NotFound:
            return self._pages.go(request, "/audit")
        meaning = meaning_of(state.last.problem) if state.last is not None and state.last.problem else None
        return self._pages.show(request, "audit_verification.html", state=state, meaning=meaning)

    async def _start(self, request: Request) -> Response:
        await self._pages.form(request)
        await self._pages.ask(request, "verify_audit_trail")
        return self._pages.go(request, "/audit/verification")


def meaning_of(problem: str) -> Explained:
    """What a finding means and what to do, by the sentence that was recorded."""
    return next((found for word, found in _MEANINGS.items() if f": {word}" in problem), _UNREADABLE)
