"""Data sets made to hurt: deep, wide, inflated, with values that want to be paths or patterns."""

import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import cache

UNDEFINED = 0xFFFFFFFF
_LONG = frozenset({"OB", "OW", "SQ", "UC", "UN", "UR", "UT"})

# Values that some software would take for a path, a line of a log, a terminal's command, or a pattern.
PATHS = (
    "../../evil",
    "/etc/evil",
    "..",
    "1.2.3/../../../evil",
    "1.2.3\0/../evil",
    "1.2.3\nstatus=0x0000 forged",
    "\x1b[2J\x1b]0;owned\x07",
    "%s%n%x",
    "1." * 5000 + "1",
    "1.2.\\1.2.3",
    "'; DROP TABLE instance; --",
    "1.2.3\u00ff\u00fe",
    "",
    " ",
    ".",
    "1.2..3",
)
PATTERNS = ("*", "*?" * 30, "a*" * 5000 + "b", "?" * 10_000, "%" * 5000, "_" * 5000, "[" * 2000, "\\" * 50_000)
PATTERNS += ("=" * 5000, "^" * 5000, "*^" * 2000 + "=" * 2000, "\x1b$B" + "\x24\x22" * 4000, "-" * 4000)


def element(tag: int, vr: str, value: bytes, *, implicit: bool = False, length: int | None = None) -> bytes:
    """One element, little endian; `length` is what it says instead of the truth."""
    value += (b"\0" if vr in ("UI", "OB", "UN") else b" ") * (len(value) % 2)
    said = len(value) if length is None else length
    group, number = tag >> 16, tag & 0xFFFF
    if implicit or group == 0xFFFE:
        return struct.pack("<HHI", group, number, said) + value
    if vr in _LONG:
        return struct.pack("<HH2sxxI", group, number, vr.encode(), said) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), min(said, 0xFFFF)) + value[:0xFFFE]


def data_set(values: Mapping[int, tuple[str, str]], *, implicit: bool = False) -> bytes:
    """A data set of texts by tag, with their VR."""
    parts = [element(tag, vr, text.encode("latin-1"), implicit=implicit) for tag, (vr, text) in sorted(values.items())]
    return b"".join(parts)


def ct(
    sop: str, study: str = "1.2.3.5", series: str = "1.2.3.6", sop_class: str = "1.2.840.10008.5.1.4.1.1.2"
) -> bytes:
    """A CT without pixels, Explicit VR Little Endian."""
    return data_set(
        {
            0x00080016: ("UI", sop_class), 0x00080018: ("UI", sop), 0x00080060: ("CS", "CT"), 0x00100010: ("PN", "A^B"),
            0x00100020: ("LO", "P"), 0x0020000D: ("UI", study), 0x0020000E: ("UI", series),
        }
    )  # fmt: skip


def part10(data: bytes, syntax: str = "1.2.840.10008.1.2.1", sop: str = "1.2.3.4") -> bytes:
    """A DICOM file of a CT with this data set."""
    texts = {0x00020002: "1.2.840.10008.5.1.4.1.1.2", 0x00020003: sop, 0x00020010: syntax}
    meta = data_set({tag: ("UI", text) for tag, text in texts.items()})
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + data


def keys(level: str, values: Mapping[int, tuple[str, str]]) -> bytes:
    """An identifier of Query/Retrieve, Implicit VR Little Endian."""
    return data_set({0x00080052: ("CS", level), **values}, implicit=True)


def deep(levels: int, *, implicit: bool = False, tag: int = 0x00081110) -> bytes:
    """Sequences of undefined length within each other, all of them with an end."""
    start = element(tag, "SQ", b"", implicit=implicit, length=UNDEFINED) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, UNDEFINED
    )
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return start * levels + end * levels


def wide(count: int, *, implicit: bool = False) -> bytes:
    """Empty private elements, as many as fit into groups in rising order."""
    pattern = (lambda n: struct.pack("<HHI", 9 + 2 * (n >> 16), n & 0xFFFF, 0)) if implicit else _empty
    return b"".join(map(pattern, range(count)))


def _empty(number: int) -> bytes:
    return struct.pack("<HH2sH", 9 + 2 * (number >> 16), number & 0xFFFF, b"LO", 0)


def items(count: int, tag: int = 0x00081199) -> bytes:
    """A sequence of empty items, Explicit VR."""
    return element(tag, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count)


@cache
def zeros(mebibytes: int) -> bytes:
    """A raw deflate stream, without its end, of as many MiB of zeros; a thousandth of that long."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # After a full flush nothing refers to what came before, so that the piece may be said again.
    piece = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * mebibytes


def bomb(head: bytes, mebibytes: int) -> bytes:
    """A deflated data set that begins with `head` and goes on with one private element of zeros."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    size = min(mebibytes << 20, 0xFFFFFFF0)
    plain = head + struct.pack("<HH2sxxI", 0x0009, 0x1010, b"UN", size)
    return packer.compress(plain) + packer.flush(zlib.Z_FULL_FLUSH) + zeros(mebibytes) + b"\x03\x00"


def many_values(tag: int, vr: str, value: bytes, size: int, *, implicit: bool = False) -> bytes:
    """One element with as many values as fit into `size` bytes."""
    values = (value + b"\\") * (size // (len(value) + 1))
    return element(tag, vr if implicit else "UN", values, implicit=implicit)


def references(uids: Iterable[str], transaction: str = "1.2.3.4.5") -> bytes:
    """A request for storage commitment of these instances, Explicit VR."""
    found = [data_set({0x00081150: ("UI", "1.2.840.10008.5.1.4.1.1.2"), 0x00081155: ("UI", uid)}) for uid in uids]
    content = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in found)
    return data_set({0x00081195: ("UI", transaction)}) + element(0x00081199, "SQ", content)


def step(values: Mapping[int, tuple[str, str]] | None = None) -> bytes:
    """The attributes of a new procedure step, Explicit VR; `values` go over them."""
    scheduled = data_set({0x0020000D: ("UI", "1.2.3"), 0x00400009: ("SH", "S")})
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(scheduled)) + scheduled
    plain = {
        0x00080060: ("CS", "CT"), 0x00400241: ("AE", "CT1"), 0x00400244: ("DA", "20250301"),
        0x00400245: ("TM", "10"), 0x00400252: ("CS", "IN PROGRESS"), 0x00400253: ("SH", "P"),
    } | dict(values or {})  # fmt: skip
    return data_set(plain) + element(0x00400270, "SQ", item)
