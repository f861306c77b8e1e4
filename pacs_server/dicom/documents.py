"""Finds the document that an instance encapsulates, without reading it (PS3.3 C.24.2)."""

from pacs_server.dicom.encoding import encoding_of
from pacs_server.dicom.frames import Readable
from pacs_server.dicom.skim import Cut, Skimmer
from pacs_server.dicom.tags import UNDEFINED_LENGTH
from pacs_server.errors import FrameNotFound, InvalidInstance, TranscodeError

_ENCAPSULATED_DOCUMENT, _DOCUMENT_LENGTH = 0x00420011, 0x00420015
_HEADS = (1 << 16, 1 << 20, 1 << 23)
_TAIL = 4096


def find_document(source: Readable, transfer_syntax_uid: str) -> tuple[int, int]:
    """Offset and length of Encapsulated Document in a data set that is not deflated. Raises FrameNotFound."""
    encoding = encoding_of(transfer_syntax_uid)
    for length in _HEADS:
        data = source.read(0, length)
        try:
            for element in Skimmer(data, encoding).elements(0, len(data)):
                if element.tag == _ENCAPSULATED_DOCUMENT and element.length != UNDEFINED_LENGTH:
                    stored = min(element.length, source.size - element.start)
                    told = _told_length(source.read(element.start + stored, _TAIL), transfer_syntax_uid)
                    return element.start, told if stored - 1 <= told <= stored else stored
        except Cut:
            pass
        except InvalidInstance as error:
            raise TranscodeError(str(error)) from error
        if len(data) >= source.size:
            break
    raise FrameNotFound("the instance holds no document")


def _told_length(data: bytes, transfer_syntax_uid: str) -> int:
    """Encapsulated Document Length, which tells whether the last byte is padding; 0 if it is not there."""
    skimmer = Skimmer(data, encoding_of(transfer_syntax_uid))
    try:
        for element in skimmer.elements(0, len(data)):
            if element.tag == _DOCUMENT_LENGTH:
                return int.from_bytes(skimmer.value(element)[:4], "little" if skimmer.order == "<" else "big")
    except (Cut, InvalidInstance):
        pass
    return 0
