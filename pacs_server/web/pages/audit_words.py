"""**The** table of plain words for records of the audit trail: who did what, from the codes of PS3.15 A.5."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pacs_server.audit.events import Role
from pacs_server.web.pages.languages import marked

# What somebody did, by the code of the event (PS3.16 CID 400), where that makes a difference with its action (PS3.15
# A.5.1), its type (CID 401) or the way that images went behind it. The first key that fits counts.
_DEEDS: Final = {
    "110100": marked("started or stopped the program"),
    "110100 110120": marked("started the server"),
    "110100 110121": marked("stopped the server"),
    "110101": marked("read the audit trail"),
    "110102": marked("began to transfer images"),
    "110102 in": marked("began to send images to this archive"),
    "110102 out": marked("began to fetch images"),
    "110102 on": marked("began to send images to another system"),
    "110103": marked("worked on stored images"),
    "110103 C": marked("restored images"),
    "110103 D": marked("deleted a part of a study"),
    "110103 R": marked("looked at images"),
    "110103 U": marked("changed stored images"),
    "110104": marked("transferred images"),
    "110104 in": marked("sent images to this archive"),
    "110104 out": marked("looked at images or fetched them"),
    "110104 on": marked("sent images to another system"),
    "110105": marked("deleted a study"),
    "110106": marked("exported images"),
    "110107": marked("imported images"),
    "110109": marked("changed the worklist"),
    "110110": marked("changed a patient or a study"),
    "110111": marked("reported a procedure step"),
    "110112": marked("searched"),
    "110113": marked("caused a security event"),
    "110113 110126": marked("tried to open an association"),
    "110113 110129": marked("changed security settings"),
    "110113 110131": marked("changed the settings"),
    "110113 110132": marked("used a restricted function"),
    "110113 110133": marked("stopped writing the audit trail"),
    "110113 110134": marked("began to write the audit trail"),
    "110113 110137": marked("changed users or keys"),
    "110114": marked("logged in or out"),
    "110114 110122": marked("logged in"),
    "110114 110123": marked("logged out"),
}
_DESTINATION: Final = Role.DESTINATION.value[0]
_WAYS: Final = {Role.SOURCE.value[0]: "in", _DESTINATION: "out"}
# The kinds of events to search for, by the names that the operation knows.
KINDS: Final = {
    "query": marked("searches"),
    "begin_transferring": marked("transfers (start)"),
    "instances_transferred": marked("transfers (end)"),
    "instances_accessed": marked("work on stored images"),
    "study_deleted": marked("deleted studies"),
    "export": marked("exports"),
    "import": marked("imports"),
    "patient_record": marked("changes of patients and studies"),
    "order_record": marked("changes of the worklist"),
    "procedure_record": marked("procedure steps"),
    "user_authentication": marked("logins"),
    "security_alert": marked("security, users and settings"),
    "application_activity": marked("start and stop"),
    "audit_log_used": marked("reading the audit trail"),
}


@dataclass(frozen=True, slots=True)
class Told:
    """A record for people: `deed` is in English for the catalogues, all else is as it was recorded."""

    who: str
    where: str
    deed: str
    others: tuple[str, ...]
    patients: tuple[str, ...]
    studies: tuple[str, ...]
    images: int
    keys: tuple[tuple[str, str], ...]
    detail: str
    failed: bool


def told(event: Mapping[str, Any]) -> Told:
    """A record for people, from the fields of its event."""
    people = event.get("participants", [])
    actor = next((each for each in people if each.get("requestor")), people[0] if people else {})
    subjects = event.get("subjects", [])
    return Told(
        who=_name(actor),
        where=actor.get("address", ""),
        deed=deed(event),
        others=tuple(name for each in people if each is not actor and (name := _name(each))),
        patients=tuple(dict.fromkeys(each["patient"] for each in subjects if each.get("patient"))),
        studies=tuple(dict.fromkeys(each["study"] for each in subjects if each.get("study"))),
        images=sum(sum(each.get("sop_classes", {}).values()) for each in subjects),
        keys=tuple(event.get("query", {}).items()),
        detail=event.get("detail", ""),
        failed=bool(event.get("outcome")),
    )


def deed(event: Mapping[str, Any]) -> str:
    """What was done, in a few words."""
    return next((_DEEDS[key] for key in _keys(event) if key in _DEEDS), "")


def way(event: Mapping[str, Any]) -> str:
    """Which way images went: `in` from the requestor, `out` to the requestor, `on` to another system, else ''."""
    people = event.get("participants", [])
    role = next((each.get("role") for each in people if each.get("requestor")), None)
    if role is not None:
        return _WAYS.get(role, "")
    # This archive is named without an address.
    to_others = any(each.get("role") == _DESTINATION and each.get("address") for each in people)
    return "on" if to_others else ""


def _keys(event: Mapping[str, Any]) -> Iterator[str]:
    code = event.get("id", "")
    yield f"{code} {way(event)}"
    yield f"{code} {event.get('type', '')}"
    yield f"{code} {event.get('action', '')}"
    yield code


def _name(one: Mapping[str, Any]) -> str:
    """The name of a participant: a user, or the AE title."""
    user, title = one.get("user", ""), one.get("ae", "")
    return f"{user} ({title})" if user and title and user != title else user or title
