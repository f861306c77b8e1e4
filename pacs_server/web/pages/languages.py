"""The languages of the pages: which one a reader gets, and its texts.

The catalogues of a language are the files `catalogues/<language>/*.po`, one for each room, read when somebody asks for
the language first; so a new language is a new folder. English needs none: its texts are in the templates.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from babel import Locale, UnknownLocaleError
from babel.messages.pofile import read_po
from starlette.requests import HTTPConnection

COOKIE: Final = "pacs-language"
DEFAULT: Final = "en"
CATALOGUES: Final = Path(__file__).parent / "catalogues"


def marked(text: str) -> str:
    """The text itself: this only says that a text of a program is one for the catalogues, which templates translate."""
    return text


class Language:
    """One language: its texts, and the ways to write dates and numbers of one of its regions."""

    def __init__(self, code: str, texts: Mapping[object, object], region: str = "") -> None:
        self.code = code
        self.locale = Locale.parse(region or code, sep="-")
        self.name = Locale.parse(code).get_display_name(code) or code
        self._texts = texts
        # How many forms a count has, and which one is for a number.
        self._form: Callable[[int], int] = _german_plural

    def gettext(self, text: str) -> str:
        """A text in this language; in English where nobody has translated it."""
        return str(self._texts.get(text) or text)

    def ngettext(self, singular: str, plural: str, number: int) -> str:
        """A text about `number` things."""
        found = self._texts.get(singular)
        if isinstance(found, tuple | list) and all(found):
            return str(found[min(self._form(number), len(found) - 1)])
        return singular if number == 1 else plural


def _german_plural(number: int) -> int:
    return 0 if number == 1 else 1


class Languages:
    """All languages that there are catalogues for, and English."""

    def __init__(self, folder: Path = CATALOGUES) -> None:
        self._folder = folder
        self.codes = (DEFAULT, *sorted(path.name for path in folder.iterdir() if any(path.glob("*.po"))))
        self._lock = threading.Lock()
        self._read: dict[tuple[str, str], Language] = {}

    def of(self, request: HTTPConnection) -> Language:
        """The language of a reader: the one that was chosen here, else the first of the browser's that there is."""
        chosen = request.cookies.get(COOKIE, "") if "cookie" in request.headers else ""
        accepted = _accepted(request.headers.get("accept-language", ""))
        for wanted in (chosen, *accepted):
            code = wanted if wanted in self.codes else wanted.partition("-")[0]
            if code in self.codes:
                # Who reads English in Britain has dates as they are written there.
                region = next((each for each in accepted if each.partition("-")[0] == code and "-" in each), "")
                return self.language(code, region)
        return self.language(DEFAULT)

    def language(self, code: str, region: str = "") -> Language:
        """The language of one of `codes`, with the dates and numbers of a region such as en-GB."""
        with self._lock:
            if (code, region) not in self._read:
                self._read[code, region] = Language(code, {} if code == DEFAULT else self._texts(code), region)
            return self._read[code, region]

    def _texts(self, code: str) -> dict[object, object]:
        texts: dict[object, object] = {}
        for path in sorted((self._folder / code).glob("*.po")):
            with path.open("rb") as file:
                for message in read_po(file, locale=code):
                    if message.id and not message.fuzzy:
                        texts[message.id[0] if isinstance(message.id, tuple | list) else message.id] = message.string
        return texts


def _accepted(header: str) -> list[str]:
    """The languages of an Accept-Language header, the dearest first (RFC 9110 12.5.4)."""
    found = []
    for place, element in enumerate(header[:1000].split(",")):
        name, _, rest = element.strip().partition(";")
        weight = rest.strip().removeprefix("q=")
        try:
            Locale.parse(name, sep="-")
            found.append((-float(weight or 1), place, name.strip()))
        except (ValueError, UnknownLocaleError, TypeError):
            continue
    return [name for _, _, name in sorted(found)]
