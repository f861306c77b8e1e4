"""WADO-RS: retrieve studies, series and instances from a remote, and hand them on while they arrive (PS3.18 10.4)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import httpx2 as httpx

from pacs_server.dicom.part10 import MEDIA_STORAGE_DIRECTORY
from pacs_server.dicom.part10_stream import Bytes, Part10Stream
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import (
    AuditUnavailable,
    IndexUnavailable,
    InstanceNotFound,
    InvalidIdentifier,
    InvalidInstance,
    PacsError,
    RemoteError,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.kit.media_types import DICOM, media_type_of
from pacs_server.kit.multipart import MalformedMultipart, Part, parts
from pacs_server.scu.dicomweb.client import DICOMwebClient
from pacs_server.scu.dicomweb.wire import LEAST_RATE
from pacs_server.scu.retrieving import Take

# PS3.18 8.7.3.5.2: any transfer syntax, which is the one that the remote has stored.
_AS_STORED: Final = f'multipart/related; type="{DICOM}"; transfer-syntax=*'
_ANYHOW: Final = f'multipart/related; type="{DICOM}"'
_MOST_PARTS: Final = 100_000
# Nothing more can be stored after these.
_END: Final = (StorageFull, StorageUnavailable, IndexUnavailable, AuditUnavailable, RemoteError)


@dataclass(slots=True)
class Retrieved:
    """What came of a retrieval.

    `taken` are the UIDs of the instances that were stored, `failed` those that were not with the reason, and the UID ''
    if nobody knows it. `broken` says why the answer ended before its end.
    """

    taken: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    broken: str = ""


def retrieve(client: DICOMwebClient, take: Take, study: str, series: str = "", sop: str = "") -> Retrieved:
    """Retrieve a study, a series of it or an instance of that, and have `take` store each part while it arrives.

    An instance that cannot be stored does not cost the others theirs, and an answer that breaks off keeps what came
    before. Raises InstanceNotFound, RemoteError and its kinds if nothing comes, and what `take` raises if nothing more
    can be stored.
    """
    path = _path(study, series, sop)
    for accept in (_AS_STORED, _ANYHOW):
        with client.exchange("GET", path, accept=accept, least_rate=LEAST_RATE) as answer:
            if answer.status_code == HTTPStatus.NOT_ACCEPTABLE and accept != _ANYHOW:
                continue
            if answer.status_code in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.NO_CONTENT):
                raise InstanceNotFound(f"{client.remote.name} does not have it")
            if answer.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise client.refusal(answer, "a retrieval")
            return _taken(client, answer, take)
    raise AssertionError("the last form is not passed over")


def _path(study: str, series: str, sop: str) -> str:
    for uid in (study, series or study, sop or study):
        if not is_uid(uid):
            raise InvalidIdentifier(f"{uid[:64]!r} is no UID")
    if sop and not series:
        raise InvalidIdentifier("an instance is retrieved with its series")
    path = f"/studies/{study}"
    return path + (f"/series/{series}" if series else "") + (f"/instances/{sop}" if sop else "")


def _taken(client: DICOMwebClient, answer: httpx.Response, take: Take) -> Retrieved:
    done = Retrieved()
    media_type, parameters = media_type_of(answer.headers.get("content-type", ""))
    try:
        if media_type == DICOM:
            _take(done, take, client.pieces(answer), parameters)
        elif media_type == "multipart/related":
            for part in _parts(client.pieces(answer), parameters.get("boundary", "")):
                _take_part(done, take, part)
        else:
            raise RemoteError(f"{client.remote.name} answers a retrieval with {media_type[:60] or 'no media type'}")
    except MalformedMultipart as error:
        _break_off(done, RemoteError(f"the answer of {client.remote.name} is damaged: {error}"))
    except RemoteError as error:
        _break_off(done, error)
    return done


def _break_off(done: Retrieved, error: RemoteError) -> None:
    """Keep what came before the error, if anything did."""
    if not done.taken and not done.failed:
        raise error
    done.broken = str(error)


def _parts(pieces: Iterator[bytes], boundary: str) -> Iterator[Part]:
    for number, part in enumerate(parts(pieces, boundary)):
        if number >= _MOST_PARTS:
            raise MalformedMultipart(f"more than {_MOST_PARTS} parts")
        yield part


def _take_part(done: Retrieved, take: Take, part: Part) -> None:
    media_type, parameters = media_type_of(part.headers.get("content-type", DICOM))
    if part.fault or media_type != DICOM:
        done.failed.append(("", part.fault or f"a part is {media_type[:60]} and not {DICOM}"))
        return
    _take(done, take, part, parameters)


def _take(done: Retrieved, take: Take, pieces: Iterable[Bytes], parameters: dict[str, str]) -> None:
    sop = ""
    try:
        stream = Part10Stream(pieces)
        head = stream.head
        if head is None or head.media_storage_sop_class_uid == MEDIA_STORAGE_DIRECTORY:
            raise InvalidInstance("a part is no DICOM file with an instance")
        sop_class, sop = stream.sop_uids()
        named = parameters.get("transfer-syntax", "")
        bare = head.data_set_offset == 0 and named not in ("", "*")
        take(sop_class, sop, named if bare else head.transfer_syntax_uid, stream.data_set())
    except _END:
        raise
    except PacsError as error:
        done.failed.append((sop, str(error)))
    else:
        done.taken.append(sop)
