"""UIDs: what is one, and the three that name an instance (PS3.5 9.1)."""

import re
from dataclasses import dataclass

# PS3.5 9.1: digits and dots, 64 at most. Leading zeros in a component are wrong but
# seen in the field and harmless as a name, so they pass.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

IMPLEMENTATION_CLASS_UID = "2.25.230658432960341218462874362874901872643"
IMPLEMENTATION_VERSION_NAME = "PACS_SERVER_0_1"
# Who says what is in the Private Information of our files (PS3.10 7.1).
PRIVATE_INFORMATION_CREATOR_UID = "2.25.161207354982130756643108327391604855121"


@dataclass(frozen=True, slots=True)
class InstanceUIDs:
    """The UIDs that place an instance: study, series, SOP instance."""

    study: str
    series: str
    sop: str


def is_uid(text: str) -> bool:
    """Whether `text` is usable as a UID: digits and single dots, 1 to 64 characters (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def clean_uid(text: str) -> str:
    """`text` without the padding that senders add: trailing NULs and blanks either side."""
    return text.strip(" \0")
