"""Items of Original Attributes Sequence: the values of patient attributes before they were changed (PS3.3 C.12.1)."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pacs_server.dicom.attributes import Attribute, at_level
from pacs_server.dicom.json_model import element_text, text_element
from pacs_server.dicom.levels import Level
from pacs_server.dicom.same_patient import Identity, combined_name, compatible

_IDENTITY: Final = {each.column: each for each in at_level(Level.PATIENT) if each.column in Identity._fields}


def original_item(
    before: Mapping[str, str], after: Mapping[str, str], *, at: datetime, system: str, reason: str, origin: str
) -> dict[str, Any]:
    """The item, in the DICOM JSON Model, that records a change of a patient from `before` to `after`.

    `before` and `after` map columns to values. `reason` is COERCE or CORRECT, `system` is the name of the system that
    made the change, and `origin` that of the system that provided the earlier values.
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
    """The identities that the patient of a study, or of some of its instances, may have had before.

    `items` are the study's items of Original Attributes Sequence, and `now` is the identity of its patient.
    """
    after = {now}
    for item in reversed(items):
        after |= _identities_before(item, after)
    return after - {now}


def completed(items: Sequence[dict[str, Any]], now: Identity, sent: Identity) -> list[dict[str, Any]] | None:
    """The items, if one of them records an earlier identity that `sent` is compatible with; otherwise None.

    Name groups and a birth date that only `sent` has are added to that item. `now` is the identity of the study's
    patient.
    """
    after = {now}
    for index, item in reversed(list(enumerate(items))):
        before = _identities_before(item, after)
        for known in before:
            if compatible(known, sent):
                return [*items[:index], _item_with_additions(item, known, sent), *items[index + 1 :]]
        after |= before
    return None


def _identities_before(item: Mapping[str, Any], after: Iterable[Identity]) -> set[Identity]:
    # An item holds only the attributes that were changed. The others are those of the identity after the change. That
    # may be any identity in `after`, because the instances of a study may have come by different changes.
    (changed,) = item["04000550"]["Value"]
    values = {name: element_text(changed[_tag(each)]) for name, each in _IDENTITY.items() if _tag(each) in changed}
    return {each._replace(**values) for each in after}


def _item_with_additions(item: dict[str, Any], known: Identity, sent: Identity) -> dict[str, Any]:
    """The item, with the name groups and the birth date that `sent` has and `known` lacks."""
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
