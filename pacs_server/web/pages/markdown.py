"""Documents in Markdown as parts of pages. HTML in them stays text, and links lead nowhere that runs a script."""

import re
from dataclasses import dataclass
from functools import lru_cache

from markdown_it import MarkdownIt
from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Document:
    """A document as HTML; `chapters` are its headings of the second level, each with the id of its place."""

    title: str
    html: Markup
    chapters: tuple[tuple[str, str], ...]


# Few documents are shown: the conformance statement, and the one before a reload.
@lru_cache(maxsize=4)
def document(text: str) -> Document:
    """The document of a text in CommonMark with tables; its title is left out of the HTML."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    title, chapters = "", []
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            told = tokens[number + 1].content.replace("`", "")
            if token.tag == "h1" and not title:
                title = told
            elif token.tag == "h2":
                place = re.sub(r"[^a-z0-9]+", "-", told.lower()).strip("-")
                token.attrSet("id", place)
                chapters.append((place, told))
    html = parser.renderer.render(tokens, parser.options, {})
    return Document(title, Markup(re.sub(r"<h1>.*?</h1>\n?", "", html, count=1)), tuple(chapters))  # noqa: S704
