"""Steps over the elements of a data set from head to head, and decodes only the values that are wanted.

There is no recursion into sequences, and no value is copied unless it is wanted. The first bytes of a data set are
enough, and common mistakes of senders are tolerated. Malformed input raises only `Cut` and `InvalidInstance`.
"""

import struct
from collections.abc import Callable, Container, Iterator, Mapping
from typing import NamedTuple

from pacs_server.dicom.encoding import Encoding
from pacs_server.dicom.runs import KEY, MOST_STEPS, Runs, Step
from pacs_server.dicom.tags import ITEM, ITEM_END, SEQUENCE_END, UNDEFINED_LENGTH
from pacs_server.dicom.vr import LONG_VRS, SHORT_VRS, looks_like_vr
from pacs_server.errors import InvalidInstance

MAX_DEPTH = 32
MAX_ELEMENTS = 100_000
# A longer value is not read while skimming; only its position is kept.
_MAX_SHORT_BYTES = 256

_DELIMITERS = (ITEM_END, SEQUENCE_END)
# PS3.5 7.5: items and delimiters have no VR.
_NO_VR_GROUP = 0xFFFE
# How heads are read, by byte order: in Implicit VR, the same with an empty VR, in Explicit VR, a long length.
_HEADS = {
    order: tuple(struct.Struct(order + code).unpack_from for code in ("HHL", "HH0sL", "HH2sH", "L")) for order in "<>"
}
_SHORT_VRS = {vr.encode(): vr for vr in SHORT_VRS} | {b"": ""}  # "" in Implicit VR


class ElementPosition(NamedTuple):
    """Where an element's value starts, and its length in bytes as encoded; `vr` is "" if the data set has none."""

    tag: int
    vr: str
    start: int
    length: int


# The texts of short elements that were read a moment ago, by all bytes of the element with its head.
_known: dict[bytes, str] = {}
_MOST_KNOWN = 4096
# By byte order, and whether there are VRs.
_RUNS = {(order, explicit): Runs() for order in "<>" for explicit in (False, True)}


Skimmed = dict[int, ElementPosition | str]
"""The elements found while skimming, by tag: the text of a plain text value, the position of any other element."""


_Read = Callable[[ElementPosition, bytes], str | None]


def _text_of(element: ElementPosition, vr: bytes, raw: bytes, read: _Read) -> str | None:
    """What `read` makes of a short element, which is known by all its bytes `raw` from then on."""
    text = read(element, vr) if element.length <= _MAX_SHORT_BYTES else None
    if text is not None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[raw] = text
    return text


class Cut(Exception):
    """The bytes end in the middle of the element `tag`."""

    def __init__(self, tag: int) -> None:
        self.tag = tag


class Skimmer:
    """Steps over the elements of a data set, `max_elements` at most."""

    def __init__(self, data: bytes, encoding: Encoding, *, max_elements: int = MAX_ELEMENTS) -> None:
        self.data = data
        self.order = encoding.byte_order
        heads = _HEADS[self.order]
        self._implicit_head, self._plain_implicit_head, self._explicit_head, self._long_length = heads
        # Some senders use Explicit VR where Implicit VR was negotiated, or the reverse. The first element shows which.
        self._explicit = not encoding.implicit_vr if len(data) < 6 else looks_like_vr(data[4:6])
        self._max_elements = max_elements
        self._seen = 0

    def skim(self, at: int, last_tag: int, wanted: Mapping[int, bytes], found: Skimmed, read: _Read) -> tuple[int, int]:
        """Step over plain elements from `at` on and put the wanted ones into `found`; returns the end and the last tag.

        An element is plain if it is complete, not past `last_tag` and, in Explicit VR, has a 16-bit length field. Most
        elements of a header are plain, so this fast loop is apart from the general one in `elements`. `wanted` maps
        tags to the VR to use in Implicit VR; b"" stands for an element that is never returned as text. `read` returns
        the text of a short element with its VR, by nothing but its bytes and its tag, or None; then its position is
        found. All callers in a process give the same `last_tag` and `wanted`.
        """
        data, size = self.data, len(self.data)
        head = self._explicit_head if self._explicit else self._plain_implicit_head
        last = seen = 0
        # Nothing is called for what many instances have in common: runs of elements, and texts.
        runs, known = _RUNS[self.order, self._explicit], _known
        by_key = runs.by_key
        steps: list[Step] = []
        while size - at >= 8:
            for run in by_key.get(data[at : at + KEY], ()):
                if data.startswith(run.raw, at):
                    found.update(run.texts)
                    last = run.last
                    seen += run.number
                    at += len(run.raw)
                    break
            else:
                group, number, vr, length = head(data, at)
                tag = group << 16 | number
                end = at + 8 + length
                if vr not in _SHORT_VRS or end > size or tag > last_tag:
                    break
                text: str | bool | None = None
                if tag in wanted:
                    text = known.get(data[at:end]) if length <= _MAX_SHORT_BYTES else None
                    if text is None:
                        element = ElementPosition(tag, _SHORT_VRS[vr], at + 8, length)
                        text = _text_of(element, vr or wanted[tag], data[at:end], read) if wanted[tag] else None
                        found[tag] = element if text is None else text
                        text = text is not None and text
                    else:
                        found[tag] = text
                if seen < MOST_STEPS:
                    steps.append((at, end, tag, text))
                last = tag
                seen += 1
                at = end
        runs.learn(data, steps)
        self._seen += seen
        self._check_count()
        return at, last

    def elements(self, start: int, end: int) -> Iterator[ElementPosition]:
        """Yield the elements of one data set or item, each before stepping over it; raises Cut, InvalidInstance."""
        while end - start >= 8:
            element = self._head(start)
            if element.tag == ITEM_END:
                return
            yield element
            start = self.end(element)
            if start > end:
                raise Cut(element.tag)

    def heads(self, start: int, end: int, found: dict[int, int], until: Container[int] = ()) -> None:
        """Put where each element of a data set or item begins into `found`, by its tag, up to the first tag in `until`.

        Raises Cut, InvalidInstance; what was found up to there stays. Takes a third of the time of `elements`.
        """
        while end - start >= 8:
            start = self._plain_heads(start, end, found, until)
            if end - start < 8:
                break
            element = self._head(start)
            if element.tag == ITEM_END:
                return
            found[element.tag] = start
            if element.tag in until:
                return
            start = self.end(element)
            if start > end:
                raise Cut(element.tag)

    def _plain_heads(self, at: int, end: int, found: dict[int, int], until: Container[int]) -> int:
        """Put elements with a 16-bit length field, or without a VR, into `found`; returns where others begin."""
        data, explicit, seen = self.data, self._explicit, 0
        end = min(end, len(data))
        while end - at >= 8:
            if explicit:
                group, number, vr, length = self._explicit_head(data, at)
            else:
                group, number, length = self._implicit_head(data, at)
                vr = b""
            tag = group << 16 | number
            if vr not in _SHORT_VRS or group == _NO_VR_GROUP or length > end - at - 8 or tag in until:
                break
            found[tag] = at
            at += 8 + length
            seen += 1
        self._seen += seen
        self._check_count()
        return at

    def element(self, start: int) -> ElementPosition:
        """The element that begins at an offset that `heads` has found."""
        return self._head(start)

    def items(self, sequence: ElementPosition) -> Iterator[tuple[int, int]]:
        """Yield where the content of each item starts and ends; raises Cut, InvalidInstance."""
        start = sequence.start
        end = len(self.data) if sequence.length == UNDEFINED_LENGTH else start + sequence.length
        while end - start >= 8:
            item = self._head(start)
            if item.tag != ITEM:
                return
            start = self._end(item)
            yield item.start, start

    def value(self, element: ElementPosition) -> bytes:
        """The bytes of an element's value; empty if its length is undefined."""
        return b"" if element.length == UNDEFINED_LENGTH else self.data[element.start : element.start + element.length]

    def end(self, element: ElementPosition) -> int:
        """Where the element ends, including its delimiter; raises Cut if the delimiter is missing."""
        try:
            return self._end(element)
        except Cut:
            raise Cut(element.tag) from None

    def _end(self, element: ElementPosition) -> int:
        """Where the element ends; an element of undefined length ends with its delimiter."""
        if element.length != UNDEFINED_LENGTH:
            return element.start + element.length
        at, depth = element.start, 1
        while depth:
            inner = self._head(at)
            at = inner.start
            if inner.tag in _DELIMITERS:
                depth -= 1
            elif inner.length == UNDEFINED_LENGTH:
                depth += 1
            else:
                at += inner.length
            # A sequence and its item count as two levels here.
            if depth > 2 * MAX_DEPTH:
                raise InvalidInstance(f"sequences are nested deeper than {MAX_DEPTH} levels")
        return at

    def _head(self, at: int) -> ElementPosition:
        self._seen += 1
        self._check_count()
        try:
            group, number, length = self._implicit_head(self.data, at)
            tag = group << 16 | number
            if not self._explicit or group == _NO_VR_GROUP:
                return ElementPosition(tag, "", at + 8, length)
            _, _, raw_vr, short_length = self._explicit_head(self.data, at)
            vr = raw_vr.decode("latin_1")
            if vr in LONG_VRS:
                return ElementPosition(tag, vr, at + 12, self._long_length(self.data, at + 8)[0])
        except struct.error:
            raise Cut(0) from None
        if looks_like_vr(raw_vr):
            return ElementPosition(tag, vr, at + 8, short_length)
        # PS3.5 6.2.2: the content of a UN element of undefined length is in Implicit VR.
        return ElementPosition(tag, "", at + 8, length)

    def _check_count(self) -> None:
        if self._seen > self._max_elements:
            raise InvalidInstance(f"the header has more than {self._max_elements} elements")
