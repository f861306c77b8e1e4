"""Taking away who the patient is: the Basic Application Level Confidentiality Profile (PS3.15 E.1).

What happens to each attribute stands in Table E.1-1, which the package dicom-anonymizer holds. Where the table leaves a
choice by the type of the attribute, the value is replaced and not removed, so that the object stays a valid one. UIDs
are replaced by others that follow from them and a secret, so that objects still refer to each other, whichever of them
is sent first. Private attributes are removed. Pixels stay as they are: an object that says that identifying text is
burned into them is refused.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from enum import Enum
from functools import cache
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from pacs_server.errors import TranscodeError

# The edition of the table; PS3.15 is updated several times a year.
EDITION: Final = "2026c"
_METHOD: Final = "PS3.15 Basic Application Level Confidentiality Profile"
# PS3.16 CID 7050.
_METHOD_CODE: Final = ("113100", "DCM", "Basic Application Confidentiality Profile")
_DATE, _TIME = "19000101", "000000"
# A value for each VR that tells nothing.
_DUMMIES: Final[Mapping[str, Any]] = {
    "AE": "ANONYMOUS", "AS": "000Y", "CS": "ANONYMOUS", "DA": _DATE, "DS": "0", "DT": _DATE + _TIME, "IS": "0",
    "LO": "ANONYMOUS", "LT": "ANONYMOUS", "PN": "ANONYMOUS", "SH": "ANONYMOUS", "ST": "ANONYMOUS", "TM": _TIME,
    "UC": "ANONYMOUS", "UT": "ANONYMOUS", "UR": "urn:anonymous", "US": 0, "SS": 0, "UL": 0, "SL": 0, "FL": 0.0,
    "FD": 0.0, "UV": 0, "SV": 0, "AT": 0, "OB": b"\0\0", "OW": b"\0\0", "OF": bytes(4), "OL": bytes(4),
    "OD": bytes(8), "OV": bytes(8), "UN": b"\0\0",
}  # fmt: skip


class Action(Enum):
    """What happens to an attribute, by the codes of PS3.15 E.1.1."""

    REMOVE = "X"
    EMPTY = "Z"
    REPLACE = "D"
    NEW_UID = "U"


# Of several actions that the table allows, the one that leaves a valid object whatever the type of the attribute.
_ACTIONS: Final = {
    "X_TAGS": Action.REMOVE, "Z_TAGS": Action.EMPTY, "D_TAGS": Action.REPLACE, "U_TAGS": Action.NEW_UID,
    "Z_D_TAGS": Action.REPLACE, "X_Z_TAGS": Action.EMPTY, "X_D_TAGS": Action.REPLACE, "X_Z_D_TAGS": Action.REPLACE,
    "X_Z_U_STAR_TAGS": Action.NEW_UID,
}  # fmt: skip
# These say what an object is, and not whose it is; UIDs that the Standard itself defines are kept.
_STANDARD_UIDS: Final = "1.2.840.10008."


# Why an object is refused: these tell nothing of the patient.
BURNED_IN: Final = "Burned In Annotation says that the pixels tell something"
FACE: Final = "Recognizable Visual Features says that a face is shown"


@cache
def table() -> tuple[Mapping[int, Action], tuple[tuple[int, int, Action], ...]]:
    """The actions by tag, and those for repeating groups as tag, mask and action."""
    from importlib import import_module

    held = import_module(f"dicomanonymizer.dicom_anonymization_databases.dicomfields_{EDITION}")
    single: dict[int, Action] = {}
    repeating: list[tuple[int, int, Action]] = []
    for name, action in _ACTIONS.items():
        for tag in getattr(held, name):
            if len(tag) == 2:
                single[tag[0] << 16 | tag[1]] = action
            else:
                repeating.append((tag[0] << 16 | tag[1], tag[2] << 16 | tag[3], action))
    return single, tuple(repeating)


def action_of(tag: int) -> Action | None:
    """What happens to an attribute; None if it is kept."""
    if tag >> 16 & 1:
        return Action.REMOVE
    single, repeating = table()
    found = single.get(tag)
    if found is None:
        found = next((action for pattern, mask, action in repeating if tag & mask == pattern & mask), None)
    return found


class Deidentifier:
    """Takes away who the patient is; may be shared by all threads."""

    def __init__(self, secret: Callable[[], bytes]) -> None:
        """`secret` decides which UIDs are replaced by which; nobody who does not know it finds the old ones."""
        self._secret = secret

    def __call__(self, data_set: Dataset) -> None:
        """Change a data set without its pixels. Raises TranscodeError if text may be burned into them."""
        if str(data_set.get("BurnedInAnnotation", "")).upper() == "YES":
            raise TranscodeError(f"it cannot be de-identified: {BURNED_IN}")
        if str(data_set.get("RecognizableVisualFeatures", "")).upper() == "YES":
            raise TranscodeError(f"it cannot be de-identified: {FACE}")
        self._clean(data_set)
        data_set.PatientIdentityRemoved = "YES"
        methods = data_set.get("DeidentificationMethod") or []
        data_set.DeidentificationMethod = [*([methods] if isinstance(methods, str) else methods), _METHOD]
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = _METHOD_CODE
        data_set.DeidentificationMethodCodeSequence = [*data_set.get("DeidentificationMethodCodeSequence", ()), code]

    def new_uid(self, uid: str) -> str:
        """The UID in place of another one: always the same (PS3.5 B.2)."""
        digest = self._digest(uid)
        # A UUID of version 8 (RFC 9562 5.8), whose bits are free but for these.
        number = int.from_bytes(digest[:16]) & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return f"2.25.{number}"

    def _digest(self, text: str) -> bytes:
        return hmac.new(self._secret(), text.encode(), hashlib.sha256).digest()

    def _clean(self, data_set: Dataset) -> None:
        for tag in list(data_set.keys()):
            action = action_of(int(tag))
            if action is Action.REMOVE:
                del data_set[tag]
            elif action is None or data_set[tag].VR == "SQ":
                self._clean_items(data_set, tag, action)
            else:
                self._replace(data_set[tag], action)

    def _clean_items(self, data_set: Dataset, tag: BaseTag, action: Action | None) -> None:
        """Clean the items of a sequence; one that is to be replaced keeps its cleaned items, so that it stays valid."""
        element = data_set[tag]
        if element.VR != "SQ":
            return
        if action is Action.EMPTY:
            element.value = []
            return
        for item in element.value or ():
            self._clean(item)

    def _replace(self, element: DataElement, action: Action) -> None:
        if action is Action.EMPTY or element.is_empty:
            element.value = None if element.VR not in ("OB", "OW", "UN") else b""
        elif action is Action.NEW_UID or element.VR == "UI":
            values = [element.value] if isinstance(element.value, str) else list(element.value)
            renewed = [each if each.startswith(_STANDARD_UIDS) else UID(self.new_uid(each)) for each in values]
            element.value = renewed if len(renewed) > 1 else renewed[0]
        elif element.keyword == "PatientID":
            # Otherwise all patients would be one for the receiver.
            element.value = f"ANON-{self._digest(str(element.value))[:8].hex()}"
        else:
            element.value = _DUMMIES.get(element.VR, b"")
