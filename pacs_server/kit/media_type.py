"""Media types with their parameters, as headers name them (RFC 9110 8.3.1)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105
_NAME = re.compile(rf"\s*({_TOKEN}/{_TOKEN})\s*")
# A value in no quotation marks may hold what has no place in a token, as an unquoted type=application/dicom does.
_PARAMETER = re.compile(rf';\s*(?:({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))\s*)?')


@dataclass(frozen=True, slots=True)
class MediaType:
    """A media type in lower case, and its parameters with their names in lower case."""

    name: str
    parameters: Mapping[str, str]


def parse_media_type(text: str) -> MediaType | None:
    """Read one media type; None if it is none."""
    found = _NAME.match(text)
    if found is None:
        return None
    name, at = found[1].lower(), found.end()
    parameters: dict[str, str] = {}
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None:
            return None
        at = found.end()
        if found[1]:
            value = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else found[3]
            parameters.setdefault(found[1].lower(), value)
    return MediaType(name, parameters)
