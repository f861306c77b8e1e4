"""What the clients of an HTTP port may ask of it: how many, how much, how slowly."""

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pacs_server.kit.addresses import counted_as

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class WebLimits:
    """The limits of one port; sizes in bytes, times in seconds.

    `proxies` are peers behind which there are many clients, so that `per_address` is not for them. In `stall` seconds
    a body or an answer has to get on by `least_rate` bytes a second while this side waits for the client. `max_body`
    of 0 means no limit.
    """

    connections: int = 200
    per_address: int = 100
    proxies: Sequence[IPNetwork] = ()
    max_body: int = 0
    max_url: int = 16 << 10
    max_head: int = 64 << 10
    max_headers: int = 100
    head: float = 10.0
    idle: float = 60.0
    stall: float = 30.0
    least_rate: int = 1 << 10
    linger: float = 2.0


class Window:
    """Holds a flow of bytes to a least rate while somebody has to be waited for."""

    __slots__ = ("_limits", "due", "moved")

    def __init__(self, limits: WebLimits, now: float, moved: int) -> None:
        """`moved` is how many bytes have been moved until `now`."""
        self._limits = limits
        self.restart(now, moved)

    def restart(self, now: float, moved: int) -> None:
        """Count from now on."""
        self.due = now + self._limits.stall
        self.moved = moved

    def kept(self, moved: int) -> bool:
        """Whether enough was moved since the beginning, asked when `due` is over."""
        return moved - self.moved >= int(self._limits.stall * self._limits.least_rate)


class Places:
    """Counts the open connections, in total and for each address, or subnet of IPv6."""

    def __init__(self) -> None:
        self._per_address: Counter[str] = Counter()
        self.taken = 0

    def take(self, address: str, limits: WebLimits) -> str | None:
        """Count a connection from `address`. Returns the name of the limit that forbids it, or None."""
        if self.taken >= limits.connections:
            return "connections"
        place = counted_as(address)
        if self._per_address[place] >= limits.per_address and not _behind(address, limits.proxies):
            return "connections_per_address"
        self._per_address[place] += 1
        self.taken += 1
        return None

    def leave(self, address: str) -> None:
        """A connection from `address` that was counted is over."""
        place = counted_as(address)
        self.taken -= 1
        self._per_address[place] -= 1
        if not self._per_address[place]:
            del self._per_address[place]


def _behind(address: str, proxies: Sequence[IPNetwork]) -> bool:
    if not proxies:
        return False
    ip = ipaddress.ip_address(address.partition("%")[0])
    return any(ip in proxy for proxy in proxies)
