"""Checks of UIDs, the UIDs that identify an instance, and the server's own UIDs (PS3.5 9.1)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

# PS3.5 9.1: digits and dots, 64 characters at most. Leading zeros in a component are forbidden, but they occur in
# practice and do no harm in a name, so they are accepted.
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

IMPLEMENTATION_CLASS_UID = "2.25.230658432960341218462874362874901872643"
IMPLEMENTATION_VERSION_NAME = "PACS_SERVER_0_1"
# Marks the Private Information in a file as written by this server (PS3.10 7.1).
PRIVATE_INFORMATION_CREATOR_UID = "2.25.161207354982130756643108327391604855121"


@dataclass(frozen=True, slots=True)
class InstanceUIDs:
    """The UIDs that identify an instance: study, series, SOP Instance."""

    study: str
    series: str
    sop: str


def is_uid(text: str) -> bool:
    """Whether `text` is usable as a UID: digits and single dots, 1 to 64 characters (PS3.5 9.1)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def are_uids(texts: Sequence[str]) -> bool:
    """Whether all texts are usable as UIDs, as `is_uid` says of each."""
    return _patterns(len(texts)).fullmatch("/".join(texts)) is not None


@lru_cache
def _patterns(number: int) -> re.Pattern[str]:
    # So many texts with slashes in between: a slash in one of them makes it one too many.
    each = r"(?![0-9.]{65})[0-9]+(?:\.[0-9]+)*"
    return re.compile("/".join([each] * number))


def clean_uid(text: str) -> str:
    """`text` without the NULs and blanks that senders add on either side as padding."""
    return text.strip(" \0")
