"""Reading documents: their text, tables and code blocks."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def document(root: Path) -> Callable[[str], str]:
    """The text of a document by its path from the root."""
    return lambda name: (root / name).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def rows(document: Callable[[str], str]) -> Callable[..., list[list[str]]]:
    """The rows of all tables of a document, or of one section of it, without their heads."""

    def read(name: str, heading: str = "") -> list[list[str]]:
        return tables(section(document(name), heading) if heading else document(name))

    return read


@pytest.fixture(scope="session")
def code_blocks(document: Callable[[str], str]) -> Callable[[str, str], list[str]]:
    """The code blocks of a document in a language."""
    return lambda name, language: re.findall(rf"^```{language}\n(.*?)^```", document(name), re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    """From a heading to the next one of the same or a higher level."""
    marks = re.escape(heading)
    found = re.search(rf"^(#+) {marks}$", text, re.MULTILINE)
    assert found, f"there is no section {heading}"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def tables(text: str) -> list[list[str]]:
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines):
        follows = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("| ") and not line.startswith("| ---") and not follows.startswith("| ---"):
            found.append([cell.strip() for cell in line.strip()[1:-1].split("|")])
    return found
