"""Valid bytes made wrong, the same way for the same random numbers."""

import random
import struct
from collections.abc import Sequence

_LENGTHS = (0, 1, 2, 3, 0x7F, 0xFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_PIECES = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0", b"SQ", b"UN",
    b"UT", b"../", b"*", b"?", b"\\", b"=", b"^", b"-", b"\r", b"\n", b"\x1b[2J", b"%s", b"1.2.840.10008.1.2.1.99",
    b"ISO 2022 IR 87\\ISO 2022 IR 159", b"\x1b$B", b"|", b"~", b"&", b": ", b"- ", b"!!int ", b"\x80\x81",
    b"\xe2\x80\xa8",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` with a few changes: bytes, lengths, pieces put in, taken out, said again or taken from `others`."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 9))):
        rng.choice(_CHANGES)(changed, rng)
    if others and rng.random() < 0.2:
        other = rng.choice(others)
        at = rng.randint(0, len(changed))
        changed[at:] = other[rng.randint(0, len(other)) :]
    return bytes(changed)


def _byte(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _bit(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _length(data: bytearray, rng: random.Random) -> None:
    layout = rng.choice(("<H", ">H", "<I", ">I"))
    size = struct.calcsize(layout)
    if len(data) >= size:
        at = rng.randint(0, len(data) - size)
        struct.pack_into(layout, data, at, rng.choice(_LENGTHS) & (1 << 8 * size) - 1)


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.choice(_PIECES) * rng.choice((1, 1, 1, 2, 40))


def _delete(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    del data[at : at + rng.choice((1, 2, 4, 8, 50))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = data[at : at + rng.choice((1, 4, 8, 30, 100))] * rng.choice((1, 2, 10))


def _cut(data: bytearray, rng: random.Random) -> None:
    if rng.random() < 0.3:
        del data[rng.randint(0, len(data)) :]


_CHANGES = (_byte, _byte, _bit, _length, _length, _insert, _delete, _repeat, _cut)
