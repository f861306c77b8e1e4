"""What attributes were before somebody changed them: items of Original Attributes Sequence (PS3.3 C.12.1)."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pacs_server.dicom.attributes import Attribute, at_level
from pacs_server.dicom.levels import Level

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def original_item(
    before: Mapping[str, str], after: Mapping[str, str], *, at: datetime, system: str, reason: str, origin: str
) -> dict[str, Any]:
    """An item in the DICOM JSON Model: what of a patient was changed from `before` to `after`, both by column.

    `reason` is COERCE or CORRECT; `system` made the change, `origin` provided the earlier values.
    """
    changed = [each for each in at_level(Level.PATIENT) if before.get(each.column, "") != after.get(each.column, "")]
    values = {f"{each.tag:08X}": _element(each, before.get(each.column, "")) for each in changed}
    return {
        "04000550": {"vr": "SQ", "Value": [dict(sorted(values.items()))]},
        "04000562": {"vr": "DT", "Value": [f"{at:%Y%m%d%H%M%S.%f%z}"]},
        "04000563": {"vr": "LO", "Value": [system]},
        "04000564": {"vr": "LO", "Value": [origin]} if origin else {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [reason]},
    }


def _element(attribute: Attribute, text: str) -> dict[str, Any]:
    if not text:
        return {"vr": attribute.vr}
    values = text.split("\\") if attribute.multiple else [text]
    if attribute.vr != "PN":
        return {"vr": attribute.vr, "Value": values}
    return {"vr": "PN", "Value": [dict(zip(_GROUPS, value.split("="), strict=False)) for value in values]}
