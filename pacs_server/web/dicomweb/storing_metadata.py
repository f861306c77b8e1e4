"""Stores instances that come as metadata with bulk data apart (PS3.18 10.5.1.4); runs in a thread.

The metadata is kept in memory, within a limit, and all bulk data in one file on the disk, until the body is complete:
bulk data may come before or after what refers to it. Then each instance is put together and stored like any other.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from pacs_server.dicom.bulk_input import instance_pieces, is_native
from pacs_server.dicom.bulk_syntax import syntax_of
from pacs_server.dicom.json_input import checked_data_set
from pacs_server.dicom.json_model import DataSet, first_value
from pacs_server.dicom.native_xml_input import read_native_xml
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.dicom.uids import clean_uid, is_uid
from pacs_server.errors import InvalidInstance, PacsError
from pacs_server.kit.media_types import media_type_of
from pacs_server.kit.multipart import MalformedMultipart, Part, parts
from pacs_server.storage.contract import Bytes
from pacs_server.storage.spool import IncomingFile
from pacs_server.web.dicomweb.media_types import JSON, XML
from pacs_server.web.dicomweb.storing import MOST_PARTS, Storing

log = logging.getLogger(__name__)

METADATA_LIMIT: Final = 16 * 1024 * 1024
# Each of them costs memory and time, however small it is.
_MOST_DATA_SETS: Final = 10_000
# As Python objects, small ones take many times the memory of their text.
_MOST_OBJECTS: Final = 400_000
_MOST_VALUES: Final = 2_000_000
_SOP_CLASS_UID, _SOP_INSTANCE_UID, _PIXEL_DATA = "00080016", "00080018", "7FE00010"
_READ_SIZE: Final = 1024 * 1024
# The first bytes of compressed bulk data tell its transfer syntax.
_START: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Spooled:
    """Bulk data on the disk; `syntax` is its transfer syntax if it is compressed, else ""."""

    file: IncomingFile
    begin: int
    size: int
    syntax: str

    def pieces(self) -> Iterator[bytes]:
        at, end = self.begin, self.begin + self.size
        while at < end:
            piece = self.file.read(at, min(_READ_SIZE, end - at))
            yield piece
            at += len(piece)


class MetadataStoring:
    """Collects what the body of one request holds, and stores it at the end."""

    def __init__(self, storing: Storing) -> None:
        self._storing = storing
        self._data_sets: list[DataSet] = []
        self._bulk: dict[str, list[_Spooled]] = {}
        self._file: IncomingFile | None = None
        self._room = METADATA_LIMIT
        self._number = 0

    def body(self, pieces: Iterator[bytes], boundary: str, media_type: str) -> None:
        """Store what a multipart body holds; parts that name no media type are `media_type`."""
        try:
            for number, part in enumerate(parts(pieces, boundary)):
                if number >= MOST_PARTS:
                    raise MalformedMultipart(f"more than {MOST_PARTS} parts")
                try:
                    self._part(part, media_type)
                except PacsError as error:
                    self._storing.failed(error)
            self._store_all()
        finally:
            self._discard()

    def metadata(self, pieces: Iterable[Bytes], media_type: str) -> None:
        """Store what a body of metadata alone holds."""
        try:
            self._read_metadata(pieces, media_type)
        except PacsError as error:
            self._storing.failed(error)
        self._store_all()

    def _part(self, part: Part, media_type: str) -> None:
        if part.fault:
            raise InvalidInstance(part.fault)
        told, parameters = media_type_of(part.headers.get("content-type", media_type))
        location = part.headers.get("content-location", "")
        if told in (JSON, XML):
            self._read_metadata(part, told)
        elif location:
            self._spool(part, location, told, parameters.get("transfer-syntax", ""))
        else:
            raise InvalidInstance("a part with bulk data has no Content-Location")

    def _read_metadata(self, pieces: Iterable[Bytes], media_type: str) -> None:
        document = bytearray()
        for piece in pieces:
            self._room -= len(piece)
            if self._room < 0:
                raise InvalidInstance(f"the metadata has more than {METADATA_LIMIT} bytes")
            document += piece
        try:
            found = _json(document) if media_type == JSON else [read_native_xml(bytes(document))]
        except (ValueError, RecursionError) as error:
            raise InvalidInstance(f"the metadata cannot be read: {error}") from error
        self._number += len(found)
        if self._number > _MOST_DATA_SETS:
            raise InvalidInstance(f"the metadata has more than {_MOST_DATA_SETS} data sets")
        for data_set in found:
            self._check(data_set)

    def _check(self, data_set: Any) -> None:
        named = ("", "")
        try:
            if not isinstance(data_set, dict):
                raise ValueError("a data set is no object")
            named = (_uid(data_set, _SOP_CLASS_UID), _uid(data_set, _SOP_INSTANCE_UID))
            self._data_sets.append(checked_data_set(data_set, bulk=True))
        except (ValueError, TypeError, AttributeError) as error:
            self._storing.failed(InvalidInstance(f"the metadata cannot be used: {error}"), *named)

    def _spool(self, part: Part, location: str, media_type: str, syntax: str) -> None:
        if self._file is None:
            self._file = self._storing.scratch()
        begin = self._file.size
        for piece in part:
            self._file.write(piece)
        size = self._file.size - begin
        if is_native(syntax):
            syntax = syntax_of(media_type, self._file.read(begin, min(size, _START))) or ""
        self._bulk.setdefault(location, []).append(_Spooled(self._file, begin, size, syntax))

    def _store_all(self) -> None:
        for data_set in self._data_sets:
            named = (_uid(data_set, _SOP_CLASS_UID), _uid(data_set, _SOP_INSTANCE_UID))
            try:
                if not all(map(is_uid, named)):
                    raise InvalidInstance("SOPClassUID or SOPInstanceUID is missing or is not a UID")
                syntax = self._syntax(data_set)
                self._storing.instance(
                    self._storing.request(*named, syntax), instance_pieces(data_set, syntax, self._bulk)
                )
            except PacsError as error:
                self._storing.failed(error, *named)

    def _syntax(self, data_set: DataSet) -> str:
        """The transfer syntax of an instance is that of its compressed Pixel Data, if it has such."""
        uri = data_set.get(_PIXEL_DATA, {}).get("BulkDataURI", "")
        syntaxes = {each.syntax for each in self._bulk.get(uri, ())}
        if len(syntaxes) > 1:
            raise InvalidInstance("the frames are in several transfer syntaxes")
        syntax = next(iter(syntaxes), "")
        if syntax and not is_uid(syntax):
            raise InvalidInstance("the transfer-syntax of a part is not a UID")
        return syntax or EXPLICIT_VR_LITTLE_ENDIAN

    def _discard(self) -> None:
        if self._file is not None:
            self._file.discard()


def _json(document: bytes | bytearray) -> list[Any]:
    if document.count(b"{") + document.count(b"[") > _MOST_OBJECTS or document.count(b",") > _MOST_VALUES:
        raise InvalidInstance("the metadata has too many attributes or values")
    # PS3.18 10.5.1.4: an array of data sets. A single one without the array is taken too.
    found = json.loads(document)
    return found if isinstance(found, list) else [found]


def _uid(data_set: DataSet, tag: str) -> str:
    return clean_uid(first_value(data_set, tag))
