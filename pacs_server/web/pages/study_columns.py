"""The columns of the list of studies, and which of them a browser shows: kept in a cookie."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection

from pacs_server.web.pages.languages import marked

COOKIE: Final = "pacs-columns"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name in templates and cookies, its title, and what the list is sorted by at it, '' for nothing."""

    name: str
    title: str
    sort: str = ""
    shown: bool = True
    is_number: bool = False


# The name of the patient comes before them in any case.
COLUMNS: Final = (
    Column("patient_id", marked("Patient ID"), "patient_id"),
    Column("birth_date", marked("Born"), shown=False),
    Column("sex", marked("Sex"), shown=False),
    Column("date", marked("Date"), "date"),
    Column("description", marked("Description"), "description"),
    Column("modality", marked("Modality"), "modality"),
    Column("accession", marked("Accession"), "accession"),
    Column("physician", marked("Referred by"), "physician", shown=False),
    Column("marks", marked("Labels"), "labels"),
    Column("received", marked("Received"), "received", shown=False),
    Column("series", marked("Series"), "series", shown=False, is_number=True),
    Column("images", marked("Images"), "images", is_number=True),
)
_NONE: Final = "none"


def columns_of(request: HTTPConnection) -> tuple[Column, ...]:
    """The columns that this browser shows."""
    kept = request.cookies.get(COOKIE, "") if "cookie" in request.headers else ""
    names = kept.split(".")
    found = tuple(each for each in COLUMNS if each.name in names)
    return found if found or kept == _NONE else tuple(each for each in COLUMNS if each.shown)


def kept_as(names: Iterable[str]) -> str:
    """What the cookie says of these columns."""
    wanted = set(names)
    return ".".join(each.name for each in COLUMNS if each.name in wanted) or _NONE
