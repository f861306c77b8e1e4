"""What to search for at a remote, whatever its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid


@dataclass(frozen=True, slots=True)
class Search:
    """What to search for: values to match and attributes to return, by keyword or tag; nested ones joined by dots.

    Values have the form of C-FIND (PS3.4 C.2.2.2): wildcards, ranges, lists of UIDs separated by backslash. The rest is
    asked of the remote by extended negotiation (PS3.4 C.5.1.1): `relational` needs no UIDs of the levels above,
    `combined` takes ranges of date and time together, and `fuzzy` matches names by their sound or words, as the remote
    sees it.
    """

    level: Level
    keys: Mapping[str, str] = field(default_factory=dict)
    returns: Sequence[str] = ()
    fuzzy: bool = False
    relational: bool = False
    combined: bool = False

    def value(self, keyword: str) -> str:
        """The one UID that a key names; '' if it names none, several, or a pattern."""
        uid = self.keys.get(keyword, "")
        return uid if is_uid(uid) else ""
