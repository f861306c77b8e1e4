"""Associations as people look at them: those that are open now, and the last ones that ended or were refused."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pacs_server.dicom.caller import Caller

# How many ended and how many refused associations are kept, each: a flood of refusals pushes no others out.
KEPT: Final = 500
# Peers propose titles of any length.
_MAX_TEXT: Final = 64


class Traffic(NamedTuple):
    """The bytes that an association has received and sent, and how long it was open, in seconds."""

    bytes_in: int
    bytes_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class OpenAssociation:
    """An association that is open now."""

    calling_ae: str
    called_ae: str
    address: str
    user: str | None
    tls: bool
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class PastAssociation:
    """An association that has ended, or a connection that became none.

    `outcome` says how it ended, or why it was refused: the name of the reason in the metrics. The AE titles of a peer
    that proposed nothing are empty. `operations` counts the commands by name.
    """

    number: int
    refused: bool
    calling_ae: str
    called_ae: str
    address: str
    user: str | None
    tls: bool
    at: datetime
    outcome: str
    operations: Mapping[str, int]
    traffic: Traffic


class RecentAssociations:
    """Remembers the associations that ended or were refused last, in memory; thread-safe, and never waits for long."""

    def __init__(self, *, kept: int = KEPT, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._number = 0
        self._ended: deque[PastAssociation] = deque(maxlen=kept)
        self._refused: deque[PastAssociation] = deque(maxlen=kept)

    def ended(self, caller: Caller, outcome: str, operations: Mapping[str, int], traffic: Traffic) -> None:
        """Remember how an association ended."""
        now, titles = self._now(), (caller.ae_title[:_MAX_TEXT], caller.called_ae[:_MAX_TEXT])
        with self._lock:
            self._number += 1
            self._ended.append(
                PastAssociation(
                    self._number, False, *titles, caller.address, caller.user, caller.tls, now, outcome, operations,
                    traffic,
                )
            )  # fmt: skip

    def refused(self, address: str, reason: str, *, tls: bool, calling_ae: str = "", called_ae: str = "") -> None:
        """Remember why a connection became no association."""
        now, titles = self._now(), (calling_ae[:_MAX_TEXT], called_ae[:_MAX_TEXT])
        with self._lock:
            self._number += 1
            self._refused.append(
                PastAssociation(
                    self._number, True, *titles, address, None, tls, now, reason, {}, Traffic(0, 0, 0.0)
                )
            )  # fmt: skip

    def list(self, *, refused: bool | None = None) -> list[PastAssociation]:
        """What is remembered, the newest first; with `refused`, only what was refused, or only what was not."""
        with self._lock:
            found = [*(() if refused else self._ended), *(() if refused is False else self._refused)]
        return sorted(found, key=lambda each: each.number, reverse=True)
