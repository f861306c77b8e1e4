"""What attributes were before somebody changed them: items of Original Attributes Sequence (PS3.3 C.12.1)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from pacs_server.dicom.attributes import Attribute, at_level
from pacs_server.dicom.json_model import element_text, text_element
from pacs_server.dicom.levels import Level
from pacs_server.dicom.same_patient import Identity, combined_name, compatible

_IDENTITY: Final = {
    each.column: each for each in at_level(Level.PATIENT) if each.column in Identity.__dataclass_fields__
}


def original_item(
    before: Mapping[str, str], after: Mapping[str, str], *, at: datetime, system: str, reason: str, origin: str
) -> dict[str, Any]:
    """An item in the DICOM JSON Model: what of a patient was changed from `before` to `after`, both by column.

    `reason` is COERCE or CORRECT; `system` made the change, `origin` provided the earlier values.
    """
    changed = [each for each in at_level(Level.PATIENT) if before.get(each.column, "") != after.get(each.column, "")]
    values = {_tag(each): _element(each, before.get(each.column, "")) for each in changed}
    return {
        "04000550": {"vr": "SQ", "Value": [dict(sorted(values.items()))]},
        "04000562": {"vr": "DT", "Value": [f"{at:%Y%m%d%H%M%S.%f%z}"]},
        "04000563": {"vr": "LO", "Value": [system]},
        "04000564": {"vr": "LO", "Value": [origin]} if origin else {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [reason]},
    }


def earlier(items: Sequence[Mapping[str, Any]], now: Identity) -> set[Identity]:
    """Whose a study with these items may have been before, in part or as a whole."""
    after = {now}
    for item in reversed(items):
        after |= _before(item, after)
    return after - {now}


def completed(items: Sequence[dict[str, Any]], now: Identity, sent: Identity) -> list[dict[str, Any]] | None:
    """The items with what a data set says of a person whom one of them tells of already; None if none does."""
    after = {now}
    for index, item in reversed(list(enumerate(items))):
        before = _before(item, after)
        for known in before:
            if compatible(known, sent):
                return [*items[:index], _telling(item, known, sent), *items[index + 1 :]]
        after |= before
    return None


def _before(item: Mapping[str, Any], after: Iterable[Identity]) -> set[Identity]:
    # An item tells only what was changed: of what the ones before it left, or of what came straight from elsewhere.
    (changed,) = item["04000550"]["Value"]
    values = {name: element_text(changed[_tag(each)]) for name, each in _IDENTITY.items() if _tag(each) in changed}
    return {replace(each, **values) for each in after}


def _telling(item: dict[str, Any], known: Identity, sent: Identity) -> dict[str, Any]:
    """The item with what only `sent` says."""
    name = combined_name(known.patient_name, sent.patient_name)
    values = {"patient_name": name, "patient_birth_date": known.patient_birth_date or sent.patient_birth_date}
    more = {each: value for each, value in values.items() if value != getattr(known, each)}
    (changed,) = item["04000550"]["Value"]
    changed = changed | {_tag(_IDENTITY[each]): _element(_IDENTITY[each], value) for each, value in more.items()}
    return item | {"04000550": {"vr": "SQ", "Value": [dict(sorted(changed.items()))]}}


def _tag(attribute: Attribute) -> str:
    return f"{attribute.tag:08X}"


def _element(attribute: Attribute, text: str) -> dict[str, Any]:
    if not text:
        return {"vr": attribute.vr}
    return text_element(attribute.vr, text.split("\\") if attribute.multiple else [text])
