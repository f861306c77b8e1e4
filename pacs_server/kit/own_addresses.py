"""Under which addresses others may reach this machine; nobody else is asked for them."""

import fcntl
import socket
import struct
from contextlib import suppress
from typing import Final

# Linux, netdevice(7): the address of an interface.
_GET_ADDRESS: Final = 0x8915
_REQUEST: Final = struct.Struct("256s")
_ADDRESS: Final = slice(20, 24)


def host_name() -> str:
    """What this machine calls itself."""
    return socket.gethostname()


def own_addresses() -> list[str]:
    """The IPv4 addresses of the interfaces of this machine, but for its loopback; empty if they cannot be told."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in _interfaces():
            with suppress(OSError):
                answer = fcntl.ioctl(sock, _GET_ADDRESS, _REQUEST.pack(name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[_ADDRESS]))
    return [address for address in dict.fromkeys(found) if not address.startswith("127.")]


def _interfaces() -> list[tuple[int, str]]:
    try:
        return socket.if_nameindex()
    except OSError:
        return []
