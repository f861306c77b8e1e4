"""Person names (VR PN): their component groups as text and in the DICOM JSON Model, and their form for comparison.

As text, the groups of a name are joined by "=" and the components of a group by "^" (PS3.5 6.2.1).
"""

import re
import unicodedata
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

GROUPS = ("Alphabetic", "Ideographic", "Phonetic")
"""The component groups in their order, named as in the DICOM JSON Model (PS3.18 F.2.2)."""


def groups_of(text: str) -> dict[str, str]:
    """The component groups of a name that are not empty, by their name in the DICOM JSON Model."""
    return {group: part for group, part in zip(GROUPS, text.split("="), strict=False) if part}


def text_of_groups(groups: Mapping[str, Any]) -> str:
    """A name of the DICOM JSON Model as text; empty groups at the end are left out (PS3.5 6.2.1)."""
    return "=".join(str(groups.get(group, "")) for group in GROUPS).rstrip("=")


def paired_groups(one: str, other: str) -> list[tuple[str, str]]:
    """The component groups of two names side by side; the name with fewer groups has empty ones at its end."""
    return list(zip_longest(one.split("="), other.split("="), fillvalue=""))


def fold_name(text: str) -> str:
    """The form in which PN values are compared. Folding a folded name changes nothing.

    It has no capitals, no accents, no blanks around components, and no empty components or groups at the end.
    """
    return "\\".join("=".join(map(_fold_group, value.split("="))).rstrip("=") for value in text.split("\\"))


def name_words(folded: str) -> list[str]:
    """The words of a folded name."""
    return [word for word in re.split(r"[\s^=\\,.-]+", folded) if word]


def _fold_group(group: str) -> str:
    plain = group.lower() if group.isascii() else _without_accents(group)
    return "^".join(component.strip() for component in plain.split("^")).rstrip("^")


def _without_accents(text: str) -> str:
    for _ in range(2):  # Compatibility forms may expand to capitals or accents, so a second round is needed.
        text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        # Only the general combining marks are dropped. The voicing marks of kana stay, as they distinguish names.
        text = "".join(c for c in text if not "\u0300" <= c <= "\u036f")
    # Normalisation turns a full-width "=" or backslash into a delimiter, though it is part of the name: remove it.
    return unicodedata.normalize("NFKC", text).replace("=", "").replace("\\", "")
