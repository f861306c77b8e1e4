"""What the server says of itself: status, gauges, readiness."""

import time
from collections.abc import Callable
from typing import TypeVar

from pacs_server import __version__
from pacs_server.assembly import OpenArchive
from pacs_server.config import Config
from pacs_server.errors import PacsError
from pacs_server.net.listener import Connections

T = TypeVar("T")


class Report:
    """Asks the running parts; what one of them cannot tell is None, and the rest is still told."""

    def __init__(self, parts: OpenArchive, connections: Connections, config: Callable[[], Config]) -> None:
        self.stopping = False
        self.last_reload: dict[str, object] | None = None
        self._parts = parts
        self._connections = connections
        self._config = config
        self._began = time.monotonic()

    def status(self, address: tuple[str, int], tls_address: tuple[str, int] | None) -> dict[str, object]:
        """What `/status` answers and `pacs-server status` prints; the server listens at these addresses."""
        config, storage, database = self._config(), self._parts.storage, self._parts.database
        return {
            "version": __version__,
            "ae_title": config.server.ae_title,
            "address": f"{address[0]}:{address[1]}",
            "tls_address": None if tls_address is None else f"{tls_address[0]}:{tls_address[1]}",
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "not_ready": self.not_ready(),
            "associations": {
                "active": self._connections.associations(),
                "connections": len(self._connections),
            },
            "counts": self._counts(),
            "storage": {
                "directory": str(config.storage.directory),
                "free_bytes": _or_none(storage.free_bytes),
                "total_bytes": _or_none(storage.total_bytes),
                "fsync": config.storage.fsync,
            },
            "database": {
                "url": database.url_without_password,
                "revision": _or_none(database.revision),
                "size_bytes": _or_none(database.size_bytes),
            },
            "last_reload": self.last_reload,
        }

    def not_ready(self) -> str | None:
        """Why instances cannot be taken or given right now, or None."""
        if self.stopping:
            return "shutting down"
        least = self._config().storage.min_free_space
        unrecorded = self._parts.audit.problem()
        if unrecorded is not None:
            return unrecorded
        try:
            free = self._parts.storage.free_bytes()
            self._parts.database.revision()
        except PacsError as error:
            return str(error)
        return f"{free} bytes free, storage.min_free_space is {least}" if free < least else None

    def gauges(self) -> dict[str, float]:
        """The values of `metrics.GAUGES`."""
        values: dict[str, float] = {
            "pacs_associations_active": self._connections.associations(),
            "pacs_connections_open": len(self._connections),
            "pacs_ready": self.not_ready() is None,
        }
        free = _or_none(self._parts.storage.free_bytes)
        if free is not None:
            values["pacs_storage_free_bytes"] = free
        values |= _or_none(self._parts.commitment.gauges) or {}
        return values | {f"pacs_{name}": count for name, count in (self._counts() or {}).items()}

    def _counts(self) -> dict[str, int] | None:
        counts = _or_none(self._parts.archive.counts)
        if counts is None:
            return None
        names = ("patients", "studies", "series", "instances")
        return {name: getattr(counts, name) for name in names}


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except PacsError:
        return None
