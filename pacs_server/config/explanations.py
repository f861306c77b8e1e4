"""What each setting does, in the sentences of docs/configuration.md: they are written in one place only."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pacs_server

_ROW: Final = re.compile(r"\| `([a-z0-9_.\[\]]+)` \| (.*) \|\s*")
# Of no use where there is only this sentence: ([operations.md](operations.md)).
_ELSEWHERE: Final = re.compile(r" \(\[[a-z.-]+\.md\]\([^)]*\)\)")
_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_EMPHASIS: Final = re.compile(r"(?<![\w*`])\*([^*`]+)\*(?![\w*`])")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a setting does, and which default and values it has: text with `code` in it."""

    default: str
    values: str
    effect: str


@cache
def explanations() -> Mapping[str, Explanation]:
    """The explanations by key; none if the document is not there."""
    package = Path(pacs_server.__file__).parent
    # A wheel carries the document inside the package; a checkout has it beside it.
    for path in (package / "configuration.md", package.parent / "docs" / "configuration.md"):
        if path.is_file():
            return read(path.read_text(encoding="utf-8"))
    return {}


def read(text: str) -> dict[str, Explanation]:
    """The explanations in the tables of a document, whose columns are key, default, values, when it changes, effect."""
    found = {}
    for line in text.splitlines():
        if (match := _ROW.fullmatch(line)) is not None:
            cells = [_plain(cell) for cell in re.split(r"(?<!\\) \| ", match[2])]
            if len(cells) == 4:
                found[match[1]] = Explanation(cells[0], cells[1], cells[3])
    return found


def _plain(cell: str) -> str:
    """Markdown without links and emphasis."""
    return _EMPHASIS.sub(r"\1", _LINK.sub(r"\1", _ELSEWHERE.sub("", cell))).replace("\\|", "|").strip()
