"""What the system knows of the other end of a connection: its certificate, and how much it has taken."""

import socket
import ssl
import struct
from typing import Any

from pacs_server.config.tls import peer_names

# `tcpi_bytes_acked` of Linux' struct tcp_info.
_ACKED = struct.Struct("Q")
_ACKED_OFFSET = 120


def acknowledged_by(sock: socket.socket) -> int:
    """How many bytes the other end has acknowledged."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_OFFSET + _ACKED.size)
    acknowledged: int = _ACKED.unpack_from(info, _ACKED_OFFSET)[0]
    return acknowledged


def tls_extension(ssl_object: ssl.SSLObject) -> dict[str, Any]:
    """The extension `tls` of an ASGI scope; `peer_names` are the names in a certificate that was checked."""
    return {"peer_names": peer_names(ssl_object)}
