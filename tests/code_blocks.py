"""The code blocks of the documents, and the commands in those of a shell."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
SHELL = ("console", "sh")
_FENCE = re.compile(r"^ *(`{3,}|~{3,})(.*)$")
_LIST = re.compile(r"^ *(?:[-*+]|\d+\.) ")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: where its text begins, its language and its text. The language is empty if none is named."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """A command that can be run by itself, and the lines that the page says it prints."""

    text: str
    printed: tuple[str, ...] = ()


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All code blocks of a page. One that is indented and not fenced has the language "indented"."""
    return list(_blocks(page, read(page).splitlines()))


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    rest = iter(enumerate(lines, 1))
    before, in_list = "", False
    for number, line in rest:
        if fence := _FENCE.match(line):
            # Ends at a line that has nothing but the same mark, or at the end of the page.
            inside = [text for _, text in iter(lambda mark=fence[1]: _next(rest, mark), None)]
            yield Block(page, number + 1, fence[2].strip(), "".join(f"{text}\n" for text in inside))
        elif line.startswith("    ") and not before.strip() and not in_list:
            yield Block(page, number, "indented", line)
        elif line.strip():
            # What is indented below the entry of a list belongs to it.
            in_list = bool(_LIST.match(line)) or (in_list and line.startswith(" "))
        before = line


def _next(rest: "Iterator[tuple[int, str]]", mark: str) -> tuple[int, str] | None:
    found = next(rest, None)
    return None if found is None or found[1].strip() == mark else found


def commands(block: Block) -> list[Command]:
    """The commands of a block of a shell, in their order; those of a console stand behind "$ " and may print."""
    if block.language == "sh":
        return [Command(text) for text in _whole(block.text)]
    joined = block.text.replace("\\\n", " ")
    parts = [part.partition("\n") for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]]
    return [Command(text, tuple(printed.splitlines())) for text, _, printed in parts]


def _whole(script: str) -> Iterator[str]:
    """The lines of a script; one goes on after a backslash, within quotes, a function and a here document."""
    gathered, end = "", None
    for line in script.replace("\\\n", " ").splitlines():
        gathered += f"{line}\n"
        if found := re.search(r"<<'?(\w+)'?$|\(\) ({)$", line):
            end = found[1] or "}"
        if (end is None or line == end) and _closed(gathered):
            if gathered.strip():
                yield gathered.strip()
            gathered, end = "", None
    assert not gathered.strip(), f"this command does not end: {gathered}"


def _closed(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def alike(text: str) -> str:
    """A text without what differs from run to run: numbers, times, the width of columns."""
    return " ".join(re.sub(r"[\d.:TZ-]*\d[\d.:TZ-]*", "0", text).split())


def shows(printed: str, line: str) -> bool:
    """Whether a line of a page was printed.

    A line "..." stands for any line, "..." in a word for what is cut off of it, and " ..." at the end for more words.
    """
    beginning, cut = re.subn(r" \.\.\.}?$", "", line)
    words = beginning.split()
    for each in printed.splitlines():
        others = each.split()[: len(words)] if cut else each.split()
        if len(others) == len(words) and all(map(_same, words, others)):
            return True
    return line == "..."


def _same(word: str, other: str) -> bool:
    return "..." in word or alike(word) == alike(other)
