"""A TCP proxy in front of a database that can refuse, cut and swallow, as networks do."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

_CHUNK = 65536


class Proxy:
    """Forwards from a port on the loopback to `target`, until it is told otherwise."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._links: list[socket.socket] = []
        self._flowing = threading.Event()
        self._flowing.set()
        self._ended = threading.Event()
        self.accepted = 0
        self._listener: socket.socket | None = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accept()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.break_links()

    def break_links(self) -> None:
        """Break every connection; new ones are forwarded."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Take connections and bytes, and forward nothing."""
        self._flowing.clear()

    def restore(self) -> None:
        """Forward again."""
        self._flowing.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accept()

    def end(self) -> None:
        """Break everything for good."""
        self._ended.set()
        self._flowing.set()
        self.cut()

    def _accept(self) -> None:
        assert self._listener is not None
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
            far = socket.socket(family)
            far.connect(self._target)
            with self._lock:
                self._links += [near, far]
                self.accepted += 1
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(_CHUNK):
                self._flowing.wait()
                if self._ended.is_set():
                    break
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        one.close()


@contextmanager
def in_front_of(database_url: str, **query: Any) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of a PostgreSQL server, and the URL of the same database through it."""
    url = make_url(database_url)
    host = str(url.query.get("host", url.host))
    port = int(str(url.query.get("port", url.port or 5432)))
    proxy = Proxy(str(Path(host) / f".s.PGSQL.{port}") if host.startswith("/") else (host, port))
    through = url.difference_update_query(["host", "port"]).set(host="127.0.0.1", port=proxy.port)
    try:
        yield proxy, through.update_query_dict(query).render_as_string(hide_password=False)
    finally:
        proxy.end()
