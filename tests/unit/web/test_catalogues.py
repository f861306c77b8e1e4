"""Every text of the pages is translated, and no catalogue translates what no page says."""

from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po
from starlette.requests import HTTPConnection

from pacs_server.web.pages.formats import Formats
from pacs_server.web.pages.languages import CATALOGUES, Languages

_PAGES = CATALOGUES.parent
_CODES = [code for code in Languages().codes if code != "en"]


def said() -> dict[str, tuple[str, ...]]:
    """The texts of the templates and of the programs, each with where it is."""
    found: dict[str, tuple[str, ...]] = {}
    methods = [("**.py", "python"), ("templates/**.html", "jinja2")]
    options = {"templates/**.html": {"newstyle_gettext": "true", "trimmed": "false"}}
    for name, line, text, *_ in extract_from_dir(_PAGES, methods, options, {"marked": None, "_": None, "gettext": None,
                                                                            "ngettext": (1, 2)}):  # fmt: skip
        for each in (text,) if isinstance(text, str) else text[:1]:
            found[each] = (*found.get(each, ()), f"{name}:{line}")
    assert len(found) > 20
    return found


def translated(code: str) -> dict[str, set[str]]:
    """The translations of each text in the catalogues of a language."""
    texts: dict[str, set[str]] = {}
    for path in (CATALOGUES / code).glob("*.po"):
        with path.open("rb") as file:
            for message in read_po(file, locale=code):
                strings = [message.string] if isinstance(message.string, str) else message.string
                if message.id and all(strings) and not message.fuzzy:
                    texts.setdefault(message.id if isinstance(message.id, str) else message.id[0], set()).add(
                        " / ".join(strings)
                    )
    return texts


@pytest.mark.parametrize("code", _CODES)
def test_every_text_is_translated_in_one_way(code: str) -> None:
    texts, known = said(), translated(code)
    missing = [f"{text!r} of {', '.join(texts[text])}" for text in texts.keys() - known.keys()]
    assert sorted(missing) == []
    assert sorted(known.keys() - texts.keys()) == [], "no page says this any more"
    assert {text: some for text, some in known.items() if len(some) > 1} == {}, "translated in two ways"


@pytest.mark.parametrize("code", _CODES)
def test_translations_have_the_same_places(code: str) -> None:
    for path in (CATALOGUES / code).glob("*.po"):
        with path.open("rb") as file:
            catalogue = read_po(file, locale=code)
        wrong = [(message.id, str(error)) for message, errors in catalogue.check() for error in errors]
        assert wrong == [], path


@pytest.mark.parametrize(
    ("header", "cookie", "code"),
    [
        ("", "", "en"),
        ("de-AT,de;q=0.9,en;q=0.8", "", "de"),
        ("en;q=0.5, de;q=0.9", "", "de"),
        ("fr, xx-yy;q=b, *", "", "en"),
        ("de", "en", "en"),
        ("de", "../../etc", "de"),
    ],
)
def test_the_language_of_a_reader(header: str, cookie: str, code: str) -> None:
    headers = [(b"accept-language", header.encode()), (b"cookie", f"pacs-language={cookie}".encode())]
    request = HTTPConnection({"type": "http", "headers": headers})
    assert Languages().of(request).code == code


def test_a_language_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "fr").mkdir()
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
    (tmp_path / "fr" / "frame.po").write_text(f'{header}msgid "Menu"\nmsgstr "Le menu"\n', encoding="utf-8")
    languages = Languages(tmp_path)
    assert languages.codes == ("en", "fr")
    assert languages.language("fr").gettext("Menu") == "Le menu"
    assert languages.language("fr").gettext("Search") == "Search"


def test_dates_are_those_of_the_region() -> None:
    def of(header: str) -> str:
        request = HTTPConnection({"type": "http", "headers": [(b"accept-language", header.encode())]})
        return str(Formats(Languages().of(request).locale).da("20261231"))

    assert of("en-GB,en;q=0.9") == "31 Dec 2026"
    assert of("en-US,en;q=0.9") == "Dec 31, 2026"
    assert of("de-DE,en-GB;q=0.5") == "31.12.2026"
