"""Syslog: records (RFC 5424), and connections that carry them over TLS (RFC 5425) and UDP (RFC 5426).

Syslog has no acknowledgment. A connection can tell that the peer has closed it, and at the end of TLS that the peer has
read everything.
"""

import contextlib
import re
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import Final, Protocol

# PS3.15 A.6: facility 10, security and authorization messages; severity notice, or warning.
_NOTICE: Final = 10 * 8 + 5
_WARNING: Final = 10 * 8 + 4
# PS3.15 A.6, for messages in the format of PS3.15 A.5.
_MSGID: Final = "DICOM+RFC3881"
_APP_NAME: Final = "pacs-server"
_BOM: Final = b"\xef\xbb\xbf"
_NOT_PRINTABLE: Final = re.compile(r"[^!-~]")

# How long the peer may take to read what was sent and to answer the end of TLS, in seconds.
_FAREWELL: Final = 2.0
# The pause between datagrams, in seconds, without which they overrun the receiver's buffer.
_DATAGRAM_PAUSE: Final = 0.002


def syslog_record(xml: bytes, *, at: datetime, host: str, process: int, warning: bool = False) -> bytes:
    """An audit message as a syslog record. RFC 5424 section 6, PS3.15 A.6."""
    priority = _WARNING if warning else _NOTICE
    timestamp = at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    hostname = _NOT_PRINTABLE.sub("?", host)[:255] or "-"
    header = f"<{priority}>1 {timestamp} {hostname} {_APP_NAME} {process} {_MSGID} - "
    return header.encode("ascii") + _BOM + xml


class SyslogConnection(Protocol):
    """A connection to the audit repository, for one thread. Any thread may call `cut`. The methods raise OSError."""

    @property
    def largest(self) -> int:
        """The size of the largest record that can be sent, in bytes."""

    def send(self, record: bytes) -> None:
        """Send one record."""

    def check(self) -> None:
        """Raise OSError if the peer is known to be gone."""

    def finish(self) -> bool:
        """End the connection properly; return whether the peer is known to have read everything."""

    def cut(self) -> None:
        """End the connection at once; any thread may call this."""

    def close(self) -> None:
        """Free the socket."""


class SyslogOverTLS:
    """Records over TLS, each with its length before it (RFC 5425 section 4.3).

    `context` decides what certificate the peer has to have, and which one it is shown. Connecting,
    the handshake and each write end after `timeout` seconds.
    """

    # The protocol has no limit; repositories do not take larger records.
    largest = 1_048_576

    def __init__(self, host: str, port: int, context: ssl.SSLContext, *, timeout: float) -> None:
        self._timeout = timeout
        sock = socket.create_connection((host, port), timeout)
        try:
            _keep_watch(sock, timeout)
            self._socket = context.wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise

    def send(self, record: bytes) -> None:
        """Send one record."""
        self._socket.sendall(b"%d " % len(record) + record)

    def check(self) -> None:
        """Raise OSError if the peer has closed or reset the connection, or left data unacknowledged."""
        # A syslog server sends nothing, so an empty read is the end of the connection.
        if _peek(self._socket, self._timeout) == b"":
            raise ConnectionResetError("the repository closed the connection")

    def finish(self) -> bool:
        """End TLS and wait a moment for the peer's answer, which the peer sends when it has read everything."""
        self._socket.settimeout(_FAREWELL)
        try:
            self._socket.unwrap()
        except (OSError, ValueError):
            return False
        return True

    def cut(self) -> None:
        """End the connection at once; any thread may call this."""
        _cut(self._socket)

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()


class SyslogOverUDP:
    """One record in each datagram (RFC 5426); nothing tells whether it arrived, but for a port that is closed."""

    # The largest payload over IPv4.
    largest = 65507

    def __init__(self, host: str, port: int, *, timeout: float) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._timeout = timeout
        self._socket.settimeout(timeout)
        # Errors of the peer are reported to connected sockets only.
        self._socket.connect(address)

    def send(self, record: bytes) -> None:
        """Send one record."""
        self._socket.send(record)
        time.sleep(_DATAGRAM_PAUSE)

    def check(self) -> None:
        """Raise OSError if the host has reported that nothing listens on the port."""
        _peek(self._socket, self._timeout)

    def finish(self) -> bool:
        """UDP has no end, and so no answer."""
        return False

    def cut(self) -> None:
        """End the connection at once; any thread may call this."""
        _cut(self._socket)

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()


def _peek(sock: socket.socket, timeout: float) -> bytes | None:
    """What the peer has sent, None if nothing; does not wait."""
    sock.settimeout(0)
    try:
        return sock.recv(4096)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return None
    finally:
        sock.settimeout(timeout)


def _keep_watch(sock: socket.socket, timeout: float) -> None:
    """Have the operating system end the connection if the peer acknowledges nothing for `timeout` seconds."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # SSLSocket.shutdown would drop the session, and a write that follows would not be encrypted.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
