"""Chooses in which transfer syntax, and as what media type, frames are sent (PS3.18 8.7.3, 8.7.5)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pacs_server.dicom.frame_codecs import ENCODERS
from pacs_server.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs_server.web.accept import Accepted
from pacs_server.web.dicomweb.media_types import (
    OCTET_STREAM,
    compressed_media_types,
    media_type_of_frames,
    transfer_syntaxes_of,
)


class Form(NamedTuple):
    """What frames are sent as. `multipart` is None if the client does not mind."""

    media_type: str
    transfer_syntax_uid: str
    multipart: bool | None

    @property
    def content_type(self) -> str:
        """The Content-Type of one frame, with its transfer syntax, which is never *."""
        return f"{self.media_type}; transfer-syntax={self.transfer_syntax_uid}"


def forms(accepted: Sequence[Accepted], stored: str) -> Iterator[Form]:
    """The forms that the client takes, the best first; `stored` is the transfer syntax of the stored frames.

    Of what the client likes equally well, frames as they are stored come first, under their own media type. A client
    that says nothing, or only */*, gets Explicit VR Little Endian, which is the default (PS3.18 8.7.3, 8.7.5).
    """
    for quality in sorted({each.quality for each in accepted}, reverse=True):
        alike = [each for each in accepted if each.quality == quality]
        yield from _as_stored(alike, stored)
        for each in alike:
            yield from _made(each, stored)
    if any(_says_nothing(each) for each in accepted):
        yield Form(media_type_of_frames(stored), stored, None)


def _says_nothing(each: Accepted) -> bool:
    return each.media_type == "*/*" and each.multipart is None and not each.transfer_syntax


def _as_stored(alike: Sequence[Accepted], stored: str) -> Iterator[Form]:
    own = media_type_of_frames(stored)
    for each in alike:
        if each.takes(own) and each.transfer_syntax in ("", "*", stored) and not _says_nothing(each):
            yield Form(own, stored, each.multipart)


def _made(each: Accepted, stored: str) -> Iterator[Form]:
    if each.takes(OCTET_STREAM):
        if each.transfer_syntax in ("", EXPLICIT_VR_LITTLE_ENDIAN):
            yield Form(OCTET_STREAM, EXPLICIT_VR_LITTLE_ENDIAN, each.multipart)
        elif each.transfer_syntax in ("*", stored):
            # Compressed frames have media types of their own, but some viewers ask for them in this way.
            yield Form(OCTET_STREAM, stored, each.multipart)
    for media_type in compressed_media_types():
        if each.takes(media_type):
            yield from _encoded(media_type, each)


def _encoded(media_type: str, each: Accepted) -> Iterator[Form]:
    syntaxes = transfer_syntaxes_of(media_type)
    wanted = syntaxes[:1] if each.transfer_syntax in ("", "*") else (each.transfer_syntax,)
    for syntax in wanted:
        if syntax in syntaxes and syntax in ENCODERS:
            yield Form(media_type, syntax, each.multipart)
