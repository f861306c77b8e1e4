"""Media types and their parameters, as HTTP headers have them."""

import re
from typing import Final

# PS3.18 8.7.3: DICOM files, and data sets in the DICOM JSON Model.
DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json"
# A part of a list that is separated by a character, which counts only outside of quotes.
QUOTED: Final = r'(?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+'
_BETWEEN_SEMICOLONS: Final = re.compile(QUOTED.replace("{separator}", ";"))


def media_type_of(text: str) -> tuple[str, dict[str, str]]:
    """A media type in lower case, and its parameters by name in lower case (RFC 9110 8.3.1)."""
    media_type, *rest = [part.strip() for part in _BETWEEN_SEMICOLONS.findall(text)] or [""]
    pairs = (part.partition("=") for part in rest)
    return media_type.lower(), {name.strip().lower(): _unquoted(value.strip()) for name, _, value in pairs}


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text
