"""Conflicts between patients, side by side, and what can be done about them: merge, reassign, or leave them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.caller import Role
from pacs_server.errors import InvalidRequest, PatientError
from pacs_server.web.pages.languages import marked
from pacs_server.web.pages.page import Entry, Pages
from pacs_server.web.pages.refused import NOTHING_REFUSED, Refused, refusal_of

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
    "accepted": marked("They stay apart and are no longer on this list."),
    "reopened": marked("The conflict is on the list again."),
}
# A dry run takes no reason, but a body has one.
_LOOKING: Final = "preview"
_OPERATIONS: Final = {"merge": "merge_patients", "reassign": "reassign_study"}
# What somebody typed may be the cause of it, or that somebody else was faster.
_REFUSED: Final = (InvalidRequest, PatientError)
# The choice of somebody who is not in the conflict.
_OTHER: Final = "other"
# So much of the digest of a conflict tells its forms from others.
_SHORT: Final = 12
# How references begin, which links have and nobody types.
_REFERENCE: Final = "@"


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
        return await self._listed(request)

    async def _listed(self, request: Request, refused: Refused = NOTHING_REFUSED) -> Response:
        accepted = "accepted" in request.query_params
        found = await self._pages.ask(request, "list_conflicts", query={"accepted": accepted})
        people = [each for group in found.patients for each in group]
        studies = {}
        if len(people) <= _MOST_PATIENTS:
            for each in people:
                answer = await self._pages.ask(request, "list_studies_of", query={"patient": each.reference})
                studies[each.reference] = answer.items
        return self._pages.show(
            request, "conflicts.html", refused.status, refused=refused,
            is_listed=refused.form in _forms(found.about),
            patients=[(group, compared(group), found.about[number]) for number, group in enumerate(found.patients)],
            studies=[
                (group, compared([each.patient for each in group]), found.about[len(found.patients) + number])
                for number, group in enumerate(found.studies)
            ],
            studies_of=studies, of_all=lambda group: [study for each in group for study in studies[each.reference]],
            moved=_moved(request), accepted=accepted,
            said=_SAID.get(request.query_params.get("said", "")),
        )  # fmt: skip

    async def _look_at_merge(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in ("source", "target")}
        return await self._look(request, "merge", asked)

    async def _look_at_reassign(self, request: Request) -> Response:
        given = {name: request.query_params.get(name, "").strip() for name in ("study", "target", "other", "conflict")}
        choice, conflict = given["target"], given.pop("conflict")
        asked = {"study": given["study"], "target": given["other"] if choice == _OTHER else choice}
        if not conflict:
            return await self._look(request, "reassign", asked)
        try:
            if not asked["target"]:
                raise PatientError("the Patient ID of the other patient has to be given")
            return await self._preview(request, "reassign", asked)
        except _REFUSED as error:
            fields = _fault(error, asked) if asked["target"] else ["target"]
            again = given | {"choice": choice}
            return await self._listed(request, refusal_of(_give(conflict), error, again, *fields))

    async def _look(self, request: Request, deed: str, asked: dict[str, str]) -> Response:
        """What a decision would change; the form where somebody has typed who is meant, if that is nobody."""
        try:
            return await self._preview(request, deed, asked)
        except _REFUSED as error:
            is_typed = not any(text.startswith(_REFERENCE) for text in asked.values())
            form = deed if is_typed else "link"
            return await self._listed(request, refusal_of(form, error, asked, *_fault(error, asked)))

    async def _preview(
        self, request: Request, deed: str, asked: dict[str, str], refused: Refused = NOTHING_REFUSED
    ) -> Response:
        body = asked | {"reason": _LOOKING, "dry_run": True}
        would = await self._pages.ask(request, _OPERATIONS[deed], body=body)
        of = await self._pages.ask(request, "list_studies_of", query={"patient": would.source.reference})
        known = {each.study_instance_uid: each for each in of.items}
        # References, so that nothing and nobody else is meant when the form comes back.
        fixed = {"source": would.source.reference}
        if deed == "reassign":
            fixed = {"study": next((known[uid].reference for uid in would.studies if uid in known), asked["study"])}
        return self._pages.show(
            request, "conflict_decision.html", refused.status, refused=refused, deed=deed, known=known,
            would=would, rows=compared([would.source, would.target]),
            fields=fixed | {"target": would.target.reference},
        )  # fmt: skip

    async def _merge(self, request: Request) -> Response:
        return await self._decide(request, "merge", ("source", "target"))

    async def _reassign(self, request: Request) -> Response:
        return await self._decide(request, "reassign", ("study", "target"))

    async def _accept(self, request: Request) -> Response:
        form = await self._pages.form(request)
        body = {"digest": form.get("digest", ""), "reason": form.get("reason", "").strip()}
        try:
            _check_reason(body["reason"])
            await self._pages.ask(request, "accept_conflict", body=body)
        except _REFUSED as error:
            return await self._listed(request, refusal_of(body["digest"] or "link", error, body, "reason"))
        return self._pages.go(request, "/conflicts", said="accepted")

    async def _reopen(self, request: Request) -> Response:
        form = await self._pages.form(request)
        try:
            await self._pages.ask(request, "reopen_conflict", body={"digest": form.get("digest", "")})
        except _REFUSED as error:
            return await self._listed(request, refusal_of("link", error, {}))
        return self._pages.go(request, "/conflicts", said="reopened")

    async def _decide(self, request: Request, deed: str, names: Sequence[str]) -> Response:
        form = await self._pages.form(request)
        asked = {name: form.get(name, "").strip() for name in names}
        reason = form.get("reason", "").strip()
        try:
            _check_reason(reason)
            done = await self._pages.ask(request, _OPERATIONS[deed], body=asked | {"reason": reason})
        except _REFUSED as error:
            again = refusal_of("decision", error, {"reason": reason}, "reason")
            try:
                return await self._preview(request, deed, asked, again)
            except _REFUSED:
                # They are not there any more, so there is nothing to decide.
                return await self._listed(request, refusal_of("link", error, {}))
        return self._pages.go(request, "/conflicts", studies=str(len(done.studies)), images=str(done.instances))


def _give(conflict: str) -> str:
    """The form in a conflict that gives a study to another patient; `conflict` is the beginning of its digest."""
    return f"give-{conflict}"


def _forms(about: Sequence[Any]) -> set[str]:
    """The forms that are on the page: those that are always there, and two in each conflict."""
    in_conflicts = {form for each in about for form in (each.digest, _give(each.digest[:_SHORT]))}
    return {"", "merge", "reassign", *in_conflicts}


def _check_reason(reason: str) -> None:
    if not reason:
        raise PatientError("a reason has to be given")


def _fault(error: Exception, asked: Mapping[str, str]) -> list[str]:
    """The fields in which the patient or the study stands that an error is about; the first one if it says none."""
    about = getattr(error, "about", "")
    return [name for name, text in asked.items() if text == about] or list(asked)[:1]


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
