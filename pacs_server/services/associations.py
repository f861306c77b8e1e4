"""Associations as people look at them: those that are open now, and the last ones that ended or were refused."""

import itertools
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


Refusals = tuple[int, str]
"""How many commands of an association were refused, and why the last one was."""


@dataclass(frozen=True, slots=True)
class OpenAssociation:
    """An association that is open now.

    `operations` counts the commands that came by name; `doing` is the one that is being carried out, '' for none.
    """

    calling_ae: str
    called_ae: str
    address: str
    user: str | None
    tls: bool
    traffic: Traffic
    operations: Mapping[str, int] = field(default_factory=dict)
    doing: str = ""


@dataclass(frozen=True, slots=True)
class PastAssociation:
    """An association that has ended, or a connection that became none.

    `outcome` says how it ended, or why it was refused: the name of the reason in the metrics. The AE titles of a peer
    that proposed nothing are empty. `operations` counts the commands by name; `refusals` says how many of them were
    refused, and why the last one was.
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
    refusals: Refusals = (0, "")


class RecentAssociations:
    """Remembers the associations that ended or were refused last, in memory; thread-safe, and never waits.

    What is remembered is made into values when somebody looks at it, so that an association pays next to nothing.
    """

    def __init__(self, *, kept: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._numbers = itertools.count(1)
        # Appending to a deque needs no lock.
        self._ended: deque[tuple[int, float, Caller, str, Mapping[str, int], Traffic, Refusals]] = deque(maxlen=kept)
        self._refused: deque[tuple[int, float, str, str, bool, str, str]] = deque(maxlen=kept)

    def ended(
        self,
        caller: Caller,
        outcome: str,
        operations: Mapping[str, int],
        traffic: Traffic,
        refusals: Refusals = (0, ""),
    ) -> None:
        """Remember how an association ended."""  # fmt: skip
        self._ended.append((next(self._numbers), self._clock(), caller, outcome, operations, traffic, refusals))

    def refused(self, address: str, reason: str, *, tls: bool, calling_ae: str = "", called_ae: str = "") -> None:
        """Remember why a connection became no association."""
        titles = (calling_ae[:_MAX_TEXT], called_ae[:_MAX_TEXT])
        self._refused.append((next(self._numbers), self._clock(), address, reason, tls, *titles))

    def list(self, *, refused: bool | None = None) -> list[PastAssociation]:
        """What is remembered, the newest first; with `refused`, only what was refused, or only what was not."""
        found = [] if refused else [_ended(*each) for each in self._ended.copy()]
        found += [] if refused is False else [_refused(*each) for each in self._refused.copy()]
        return sorted(found, key=lambda each: each.number, reverse=True)


def _ended(  # noqa: PLR0917
    number: int,
    at: float,
    caller: Caller,
    outcome: str,
    operations: Mapping[str, int],
    traffic: Traffic,
    refusals: Refusals,
) -> PastAssociation:
    return PastAssociation(
        number, False, caller.ae_title[:_MAX_TEXT], caller.called_ae[:_MAX_TEXT], caller.address, caller.user,
        caller.tls, datetime.fromtimestamp(at, UTC), outcome, operations, traffic, refusals,
    )  # fmt: skip


def _refused(  # noqa: PLR0917
    number: int, at: float, address: str, reason: str, tls: bool, calling_ae: str, called_ae: str
) -> PastAssociation:
    return PastAssociation(
        number, True, calling_ae, called_ae, address, None, tls, datetime.fromtimestamp(at, UTC), reason, {},
        Traffic(0, 0, 0.0),
    )  # fmt: skip
