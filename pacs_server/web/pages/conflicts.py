"""Conflicts between patients, side by side, and what can be done about them: merge, reassign, or leave them."""

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import PatientError
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages

_ROWS: Final = (
    ("patient_name", marked("Name")),
    ("patient_id", marked("Patient ID")),
    ("issuer_of_patient_id", marked("Issuer")),
    ("patient_birth_date", marked("Born")),
    ("patient_sex", marked("Sex")),
)
# The studies of a patient are listed beside the others' up to so many patients on a page.
_MOST_PATIENTS: Final = 40
_SAID: Final = {
    "accepted": marked("They stay apart, and off this list."),
    "reopened": marked("The conflict is on the list again."),
}
# A dry run takes no reason, but a body has one.
_LOOKING: Final = "preview"


class Conflicts:
    """The room /conflicts."""

    entries = (Entry(marked("Conflicts"), "/conflicts", "conflict", Role.OPERATOR, marked("Archive")),)

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def routes(self) -> list[Route]:
        """The list, and the two decisions: each shows what it would do before it is done."""
        guarded = self._pages.guarded
        return [
            Route("/conflicts", guarded(self._list), methods=["GET"]),
            Route("/conflicts/merge", guarded(self._look_at_merge), methods=["GET"]),
            Route("/conflicts/merge", guarded(self._merge), methods=["POST"]),
            Route("/conflicts/reassign", guarded(self._look_at_reassign), methods=["GET"]),
            Route("/conflicts/reassign", guarded(self._reassign), methods=["POST"]),
            Route("/conflicts/accept", guarded(self._accept), methods=["POST"]),
            Route("/conflicts/reopen", guarded(self._reopen), methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        accepted = "accepted" in request.query_params
        found = await self._pages.ask(request, "list_conflicts", query={"accepted": accepted})
        people = [each for group in found.patients for each in group]
        studies = {}
        if len(people) <= _MOST_PATIENTS:
            for each in people:
                answer = await self._pages.ask(request, "list_studies_of", query={"patient": each.reference})
                studies[each.reference] = answer.items
        return self._pages.show(
            request, "conflicts.html",
            patients=[(group, compared(group), found.about[number]) for number, group in enumerate(found.patients)],
            studies=[
                (group, compared([each.patient for each in group]), found.about[len(found.patients) + number])
                for number, group in enumerate(found.studies)
            ],
            studies_of=studies, moved=_moved(request), accepted=accepted,
            said=_SAID.get(request.query_params.get("said", "")),
        )  # fmt: skip

    async def _look_at_merge(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in ("source", "target")}
        return await self._preview(request, "merge_patients", "merge", asked)

    async def _look_at_reassign(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in ("study", "target")}
        return await self._preview(request, "reassign_study", "reassign", asked)

    async def _preview(self, request: Request, operation: str, deed: str, asked: dict[str, str]) -> Response:
        body = asked | {"reason": _LOOKING, "dry_run": True}
        would = await self._pages.ask(request, operation, body=body)
        # References, so that nobody else is meant when the form comes back.
        fixed = {"source": would.source.reference} if deed == "merge" else {"study": asked["study"]}
        of = await self._pages.ask(request, "list_studies_of", query={"patient": would.source.reference})
        return self._pages.show(
            request, "conflict_decision.html", known={each.study_instance_uid: each for each in of.items},
            deed=deed, would=would, rows=compared([would.source, would.target]),
            fields=fixed | {"target": would.target.reference},
        )  # fmt: skip

    async def _merge(self, request: Request) -> Response:
        return await self._decide(request, "merge_patients", ("source", "target", "reason"))

    async def _reassign(self, request: Request) -> Response:
        return await self._decide(request, "reassign_study", ("study", "target", "reason"))

    async def _accept(self, request: Request) -> Response:
        form = await self._pages.form(request)
        body = {"digest": form.get("digest", ""), "reason": form.get("reason", "").strip()}
        if not body["reason"]:
            raise PatientError("a reason has to be given")
        await self._pages.ask(request, "accept_conflict", body=body)
        return self._pages.go(request, "/conflicts", said="accepted")

    async def _reopen(self, request: Request) -> Response:
        form = await self._pages.form(request)
        await self._pages.ask(request, "reopen_conflict", body={"digest": form.get("digest", "")})
        return self._pages.go(request, "/conflicts", said="reopened")

    async def _decide(self, request: Request, operation: str, names: Sequence[str]) -> Response:
        form = await self._pages.form(request)
        body = {name: form.get(name, "").strip() for name in names}
        if not body["reason"]:
            raise PatientError("a reason has to be given")
        done = await self._pages.ask(request, operation, body=body)
        return self._pages.go(request, "/conflicts", studies=str(len(done.studies)), images=str(done.instances))


def compared(people: Sequence[Any]) -> list[tuple[str, str, list[str], bool]]:
    """The attributes of patients, row by row: name, heading, values, whether they differ; no empty rows."""
    rows = []
    for name, heading in _ROWS:
        values = [getattr(each, name) for each in people]
        if any(values):
            rows.append((name, heading, values, len(set(values)) > 1))
    return rows


def _moved(request: Request) -> tuple[int, int] | None:
    """How many studies and images a decision has just moved, as the address says."""
    given = [request.query_params.get(name, "") for name in ("studies", "images")]
    return (int(given[0]), int(given[1])) if all(text.isdecimal() and len(text) < 10 for text in given) else None
