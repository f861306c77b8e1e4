"""Ids of rows for callers with limits: from plain ones they could count what they do not see.

A caller with limits gets each id as another number, which only this process can turn back, until it stops.
"""

import hashlib
import secrets
from typing import Final

from pacs_server.dicom.scope import Scope

_KEY: Final = secrets.token_bytes(32)
# Hidden numbers have so few bits that a script of a browser still reads them exactly.
_HALF: Final = 26
_MASK: Final = (1 << _HALF) - 1
_ROUNDS: Final = (0, 1, 2, 3)
# No table has so many rows: what stands for more is no number that was hidden here.
_MOST: Final = 1 << 40


def outward(number: int, scope: Scope) -> int:
    """The id of a row as a caller with `scope` sees it."""
    if not scope.is_limited:
        return number
    left, right = number >> _HALF, number & _MASK
    for turn in _ROUNDS:
        left, right = right, left ^ _mixed(right, turn)
    return (left << _HALF | right) + 1


def inward(number: int, scope: Scope) -> int | None:
    """The id of the row that a caller with `scope` means; None if this process has given no such number."""
    if not scope.is_limited:
        return number
    if not 0 < number <= 1 << 2 * _HALF:
        return None
    left, right = number - 1 >> _HALF, number - 1 & _MASK
    for turn in reversed(_ROUNDS):
        left, right = right ^ _mixed(left, turn), left
    found = left << _HALF | right
    return found if 0 < found < _MOST else None


def _mixed(half: int, turn: int) -> int:
    """A round of the Feistel network: half of the bits, mixed in a way that nobody knows without the key."""
    told = half.to_bytes(8, "big") + bytes([turn])
    return int.from_bytes(hashlib.blake2b(told, digest_size=4, key=_KEY).digest(), "big") & _MASK
