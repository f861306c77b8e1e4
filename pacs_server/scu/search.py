"""What to search for at a remote, whatever its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid


@dataclass(frozen=True, slots=True)
class Search:
    """What to search for: values to match and attributes to return, by keyword or tag; nested ones joined by dots.

    Values have the form of C-FIND (PS3.4 C.2.2.2): wildcards, ranges, lists of UIDs separated by backslash.
    """

    level: Level
    keys: Mapping[str, str] = field(default_factory=dict)
    returns: Sequence[str] = ()
    fuzzy: bool = False

    def value(self, keyword: str) -> str:
        """The one UID that a key names; '' if it names none, several, or a pattern."""
        uid = self.keys.get(keyword, "")
        return uid if is_uid(uid) else ""
