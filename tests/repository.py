"""Audit repositories for tests: syslog receivers over TLS and UDP that keep what they got."""

import contextlib
import re
import socket
import ssl
import struct
import threading
from types import TracebackType
from typing import Self

_RESET = struct.pack("ii", 1, 0)


class Receiver:
    """What every receiver has: a port, a thread, and the records it got, in their order."""

    kind: socket.SocketKind

    def __init__(self, port: int = 0) -> None:
        self.records: list[bytes] = []
        self._socket = socket.socket(socket.AF_INET, self.kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End as a killed process does."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def numbers(self) -> list[int]:
        """The numbers in the records that say `n<number>`, each where it came first."""
        found = [int(match[1]) for record in list(self.records) if (match := re.search(rb">n(\d+)<", record))]
        return list(dict.fromkeys(found))

    def _run(self) -> None:
        raise NotImplementedError


class UDPReceiver(Receiver):
    """One record in a datagram."""

    kind = socket.SOCK_DGRAM

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while datagram := self._socket.recv(65536):
                self.records.append(datagram)


class TLSReceiver(Receiver):
    """Records with their length before them.

    `reading` cleared, it accepts and reads no more; not `polite`, it answers no goodbye.
    """

    kind = socket.SOCK_STREAM

    def __init__(self, context: ssl.SSLContext, port: int = 0, *, polite: bool = True) -> None:
        super().__init__(port)
        self._context = context
        self._polite = polite
        self._links: list[tuple[socket.socket, threading.Thread]] = []
        self.connections = 0
        self.reading = threading.Event()
        self.reading.set()
        self._dropping = False
        self._socket.listen()

    def kill(self) -> None:
        super().kill()
        self.drop()

    def drop(self) -> None:
        """Reset all connections, and read nothing more from them."""
        self._dropping = True
        self.reading.set()
        for link, thread in self._links:
            with contextlib.suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                socket.socket.shutdown(link, socket.SHUT_RD)
            thread.join()
            link.close()
        self._links.clear()
        self._dropping = False

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = self._socket.accept()
                self.connections += 1
                link = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                thread = threading.Thread(target=self._serve, args=(link,), daemon=True)
                self._links.append((link, thread))
                thread.start()

    def _serve(self, link: ssl.SSLSocket) -> None:
        with contextlib.suppress(OSError, ValueError):
            link.do_handshake()
            self._read(link)
            if self._polite and not self._dropping:
                link.unwrap()
        link.close()

    def _read(self, link: ssl.SSLSocket) -> None:
        pending = bytearray()
        while True:
            self.reading.wait()
            data = b"" if self._dropping else link.recv(65536)
            if not data:
                return
            pending += data
            while match := re.match(rb"(\d+) ", pending):
                end = match.end() + int(match[1])
                if len(pending) < end:
                    break
                self.records.append(bytes(pending[match.end() : end]))
                del pending[:end]
