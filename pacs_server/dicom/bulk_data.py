"""Finds the value of one element of a data set by the path that a Bulkdata URI holds (PS3.18 F.2.6).

The path of an element is its tag; that of an element of an item is the sequence, the number of the item from 1, and
the tag, as in 0040A730/1/0040A160.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pacs_server.dicom.element_stream import DataSetBytes, ElementStream, StreamedElement
from pacs_server.dicom.metadata import as_sequence
from pacs_server.dicom.tags import BITS_ALLOCATED, is_private_creator
from pacs_server.errors import BulkDataNotFound, TranscodeError

_PATH = re.compile(r"(?:[0-9A-F]{8}/[1-9][0-9]{0,6}/){0,64}[0-9A-F]{8}")
_SHORT = 1024
# A sequence that was sent as UN is read as a whole.
_LONGEST_UNKNOWN = 16 * 1024


@dataclass(frozen=True, slots=True)
class BulkData:
    """The value of an element, in little endian.

    `offset` is where it begins in the data set; None if the value does not stand there as it is to be sent. Then
    `chunks` has it, once. An encapsulated value has a length of None, and neither of them: it is no bytes but frames.
    """

    length: int | None
    offset: int | None
    element: StreamedElement

    @property
    def is_encapsulated(self) -> bool:
        """Whether the value is frames."""
        return self.length is None

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`; the data set is read from its beginning for them."""
        position = 0
        for chunk in self.element.chunks():
            part = chunk[max(0, start - position) : max(0, stop - position)]
            if part:
                yield part
            position += len(chunk)
            if position >= stop:
                return


def find_bulk_data(data_set: DataSetBytes, path: str) -> BulkData:
    """Find the value at a path. Raises BulkDataNotFound if there is none, and what `read` of the data set raises."""
    if not _PATH.fullmatch(path):
        raise BulkDataNotFound(f"{path!r} is no path of an element")
    steps = path.split("/")
    try:
        level = data_set.heads()
        for tag, number in zip(steps[:-1:2], steps[1::2], strict=True):
            level = _item(_element(level, int(tag, 16)), int(number))
        element = _element(level, int(steps[-1], 16))
    except TranscodeError as error:
        raise BulkDataNotFound(f"the instance has no element {path} that can be read: {error}") from error
    if element.is_encapsulated:
        return BulkData(None, None, element)
    if element.is_sequence:
        raise BulkDataNotFound(f"{path} is a sequence")
    as_it_is = element.word == 1 and level.source.is_seekable
    return BulkData(element.length, level.source.position if as_it_is else None, element)


def _element(level: ElementStream, tag: int) -> StreamedElement:
    while (element := level.next()) is not None and element.tag <= tag:
        if element.tag == tag:
            return element
        if element.length <= _SHORT and (element.tag == BITS_ALLOCATED or is_private_creator(element.tag)):
            element.value(_SHORT)
        else:
            element.skip()
    raise BulkDataNotFound("the instance has no such element")


def _item(element: StreamedElement, number: int) -> ElementStream:
    if not element.is_sequence:
        if element.vr != "UN":
            raise BulkDataNotFound("the instance has no such item")
        element = as_sequence(element, element.value(_LONGEST_UNKNOWN))
    for position, item in enumerate(element.items(), 1):
        if position == number:
            return item
        while (inner := item.next()) is not None:
            inner.skip()
    raise BulkDataNotFound("the instance has no such item")
