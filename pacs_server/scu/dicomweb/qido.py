"""QIDO-RS: search for studies, series and instances at a remote, page by page (PS3.18 10.6)."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pacs_server.dicom.json_input import checked_element, is_tag
from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import clean_uid
from pacs_server.errors import InvalidIdentifier, RemoteError, RemoteUnreachable
from pacs_server.scu.dicomweb.client import DICOMwebClient, Document
from pacs_server.scu.search import Search

log = logging.getLogger(__name__)

# Asked for at once. Some remotes give less.
PAGE: Final = 200
# More pages than any search needs; a remote that never ends is left then.
_MOST_PAGES: Final = 50_000
_STUDY, _SERIES, _SOP, _PATIENT, _ISSUER = "0020000D", "0020000E", "00080018", "00100020", "00100021"
_UNIQUE: Final = {Level.STUDY: _STUDY, Level.SERIES: _SERIES, Level.IMAGE: _SOP}
_NOT_SEARCHABLE: Final = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED)


def find(client: DICOMwebClient, search: Search, *, page: int = PAGE) -> Iterator[DataSet]:
    """The matches of a search, each a data set in the DICOM JSON Model; pages are asked for when they are needed.

    DICOMweb has no search for patients: those of the matching studies are told, each once.
    Raises InvalidIdentifier, RemoteError and its kinds.
    """
    if search.level == Level.PATIENT:
        yield from _patients(find(client, Search(Level.STUDY, search.keys, search.returns, search.fuzzy), page=page))
        return
    path, parameters = _resource(search)
    unique, seen = _UNIQUE[search.level], frozenset[str]()
    offset = 0
    for _ in range(_MOST_PAGES):
        wanted = [*parameters, ("limit", str(page)), ("offset", str(offset))]
        matches, more = _page(client, path, wanted)
        uids = [text_of(match, unique) for match in matches]
        # What arrives at the remote meanwhile may move matches from the last page to this one.
        fresh = [match for match, uid in zip(matches, uids, strict=True) if not uid or uid not in seen]
        yield from fresh
        # A page that is not full is the last one, unless the remote says that it gives fewer at a time. One that is
        # fuller than asked for, or the same again, comes from a remote that knows no pages.
        if not fresh or len(matches) > page or (len(matches) < page and not more):
            return
        seen = frozenset(uids)
        offset += len(matches)
    raise RemoteError(f"{client.remote.name} answers a search without end")


def probe(client: DICOMwebClient) -> None:
    """Raise RemoteError or one of its kinds unless the remote answers as a DICOMweb service does."""
    found = client.document("GET", "/studies", parameters=[("limit", "1")])
    if found.status in _NOT_SEARCHABLE:
        # Services that only store need not search.
        options = client.document("OPTIONS", "/studies", accept="*/*")
        if options.status < HTTPStatus.MULTIPLE_CHOICES:
            return
    if found.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
        raise client.refusal(found, "a search")
    _matches(client, found)


def holds(client: DICOMwebClient, study: str, series: str, sop: str) -> bool | None:
    """Whether the remote says that it has an instance; None if it does not say."""
    path = f"/studies/{study}/series/{series}/instances"
    try:
        found = client.document("GET", path, parameters=[("SOPInstanceUID", sop), ("limit", "1")])
        if found.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            return None
        return any(clean_uid(text_of(match, _SOP)) == sop for match in _matches(client, found))
    except RemoteUnreachable:
        raise
    except RemoteError:
        return None


def _resource(search: Search) -> tuple[str, list[tuple[str, str]]]:
    """The path to search in and the parameters of the search (PS3.18 Table 10.6.1-1)."""
    keys = dict(search.keys)
    path = ""
    for keyword, tag, part in (("StudyInstanceUID", _STUDY, "studies"), ("SeriesInstanceUID", _SERIES, "series")):
        uid = search.value(keyword) or search.value(tag)
        # A series below all studies is a parameter.
        if not uid or search.level <= (Level.STUDY if part == "studies" else Level.SERIES):
            break
        keys.pop(keyword, None)
        keys.pop(tag, None)
        path += f"/{part}/{uid}"
    path += {Level.STUDY: "/studies", Level.SERIES: "/series", Level.IMAGE: "/instances"}[search.level]
    parameters: list[tuple[str, str]] = []
    returns = dict.fromkeys(search.returns)
    for name, value in keys.items():
        if not all(part.isalnum() and part.isascii() for part in name.split(".")):
            raise InvalidIdentifier(f"{name[:64]!r} is no attribute")
        if value:
            parameters.append((name, value.replace("\\", ",")))
        else:
            returns[name] = None
    parameters += [("includefield", name) for name in returns]
    return path, [*parameters, ("fuzzymatching", "true")] if search.fuzzy else parameters


def _page(client: DICOMwebClient, path: str, parameters: Sequence[tuple[str, str]]) -> tuple[list[DataSet], bool]:
    """The matches of one page, and whether the remote says that there are more."""
    answer = client.document("GET", path, parameters=parameters)
    if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NO_CONTENT):
        raise client.refusal(answer, "a search")
    # PS3.18 8.3.4.4.1: Warning 299 tells of additional results, and, by another sentence, of keys that were ignored.
    more = "299" in (warning := answer.headers.get("warning", "")) and "additional" in warning.lower()
    return _matches(client, answer), more


def _matches(client: DICOMwebClient, answer: Document) -> list[DataSet]:
    if answer.status == HTTPStatus.NO_CONTENT or not answer.body.strip():
        return []
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(match, dict) for match in found):
        raise RemoteError(
            f"{client.remote.name} answers a search with something else than DICOM JSON: is its url right?"
        )
    return [_checked(match) for match in found]


def _checked(match: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a match that are as they have to be; others are left out."""
    found = {}
    for tag, element in match.items():
        if is_tag(tag):
            try:
                found[tag.upper()] = checked_element(element, bulk=True)
            except ValueError as error:
                log.debug("attribute of a match left out", extra={"tag": tag, "reason": str(error)})
    return found


def _patients(studies: Iterator[DataSet]) -> Iterator[DataSet]:
    seen: set[tuple[str, str]] = set()
    for study in studies:
        patient = text_of(study, _PATIENT), text_of(study, _ISSUER)
        if patient not in seen:
            seen.add(patient)
            yield {tag: element for tag, element in study.items() if tag.startswith("0010") or tag == "00080005"}
