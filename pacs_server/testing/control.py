"""Use a temporary server from another process: a line of JSON asks for something, and a line of JSON answers."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from pacs_server.errors import PacsError
from pacs_server.testing.temporary import TemporaryPacs
from pacs_server.testing.waiting import WaitFailed

# Values that are longer, in bytes, are left out of data sets.
_LONGEST_VALUE = 1024


def addresses(pacs: TemporaryPacs) -> dict[str, Any]:
    """Where a server is, and what a client needs to use it."""
    found: dict[str, Any] = {
        "ae_title": pacs.ae_title,
        "host": pacs.host,
        "port": pacs.port,
        "tls_port": pacs.tls_port,
        "url": pacs.url,
        "dicomweb_url": pacs.dicomweb_url,
        "destinations": {title: each.port for title, each in pacs.destinations.items()},
    }
    if pacs.certificates is not None:
        made = pacs.certificates
        found |= {"ca": made.ca, "client_certificate": made.client_certificate, "client_key": made.client_key}
    return {name: str(value) if isinstance(value, Path) else value for name, value in found.items()}


def serve(pacs: TemporaryPacs, lines: Iterable[str], answer: Callable[[str], None]) -> None:
    """Answer each line until there are no more."""
    for line in lines:
        if line.strip():
            answer(json.dumps(_answered(pacs, line), ensure_ascii=False))


def _answered(pacs: TemporaryPacs, line: str) -> dict[str, Any]:
    try:
        asked = json.loads(line)
        do = _DO[asked.pop("do")]
    except (ValueError, AttributeError, KeyError, TypeError):
        return _failed(f"a line has to be a JSON object, and `do` one of {', '.join(_DO)}")
    try:
        return {"ok": True, **do(pacs, asked)}
    except KeyError as error:
        return _failed(f"{error} is missing, or there is none")
    except (PacsError, WaitFailed, TypeError, ValueError, AttributeError) as error:
        return _failed(str(error))


def _failed(why: str) -> dict[str, Any]:
    return {"ok": False, "error": why}


def _fault(pacs: TemporaryPacs, asked: dict[str, Any]) -> dict[str, Any]:
    name, arguments, title = asked.pop("rule"), asked.pop("arguments", []), asked.pop("destination", None)
    faults = pacs.faults if title is None else pacs.destinations[title].faults
    if name.startswith("_") or name in ("remove", "clear", "take"):
        raise ValueError(f"there is no rule {name}")
    getattr(faults, name)(*arguments, **asked)
    return {}


def _clear(pacs: TemporaryPacs, _asked: Mapping[str, Any]) -> dict[str, Any]:
    pacs.faults.clear()
    for destination in pacs.destinations.values():
        destination.faults.clear()
    return {}


def _wait(pacs: TemporaryPacs, asked: dict[str, Any]) -> dict[str, Any]:
    pacs.wait_for(**asked)
    return {}


def _destination(pacs: TemporaryPacs, asked: dict[str, Any]) -> dict[str, Any]:
    pacs.add_destination(**asked)
    return {}


def _show(pacs: TemporaryPacs, _asked: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "received": [_json(each) for each in pacs.received],
        "sent": [_json(each) for each in pacs.sent],
        "steps": [_json(each) for each in pacs.steps],
        "worklist": [_json(each) for each in pacs.worklist.items],
        "operations": [
            {"name": each.name, "calling_ae": each.calling_ae, "status": each.status} for each in pacs.operations
        ],
        "associations": [
            {"calling_ae": each.calling_ae, "refused": each.refused, "outcome": each.outcome}
            for each in pacs.associations
        ],
    }


def _json(data_set: Dataset) -> dict[str, Any]:
    """A data set in DICOM JSON (PS3.18 Annex F), without long values."""
    short = Dataset({element.tag: element for element in data_set if not _is_long(element.value)})
    made: dict[str, Any] = short.to_json_dict()
    return made


def _is_long(value: object) -> bool:
    return isinstance(value, bytes) and len(value) > _LONGEST_VALUE


_DO: dict[str, Callable[[TemporaryPacs, dict[str, Any]], dict[str, Any]]] = {
    "show": _show,
    "wait": _wait,
    "fault": _fault,
    "clear": _clear,
    "worklist": lambda pacs, asked: {"item": _json(pacs.worklist.add(**asked))},
    "destination": _destination,
}
