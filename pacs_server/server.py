"""Wiring and lifecycle: which object knows which, start, reload, drain, stop."""

import logging
import queue
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Self

from pacs_server import __version__, logs
from pacs_server.archive import Archive
from pacs_server.config import Config, RemoteAE, changed_needing_restart
from pacs_server.config_file import check_filesystem
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.errors import ConfigError, PacsError
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.metrics import Metrics
from pacs_server.monitor import Monitor
from pacs_server.net import scu
from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Timeouts
from pacs_server.net.listener import ConnectionLimits, Connections, Listener, bind
from pacs_server.net.message import CommandField
from pacs_server.scp.admission import Admission
from pacs_server.scp.contexts import supports
from pacs_server.scp.dispatch import Dispatcher, Handler
from pacs_server.scp.echo import VerificationSCP
from pacs_server.scp.entity import ApplicationEntity, EntitySettings
from pacs_server.scp.find import QueryRetrieveFindSCP
from pacs_server.scp.get import QueryRetrieveGetSCP
from pacs_server.scp.move import Destination, QueryRetrieveMoveSCP
from pacs_server.scp.store import StorageSCP
from pacs_server.services.query import QueryService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreService
from pacs_server.storage.filesystem import FileSystemStorage

log = logging.getLogger(__name__)

# How long threads may take to notice that their connection was cut, in seconds.
_CUT_SECONDS = 5.0
_COUNTS_MAX_AGE = 2.0


@dataclass(frozen=True, slots=True)
class OpenArchive:
    """The archive and the services on it, open for use."""

    database: Database
    storage: FileSystemStorage
    archive: Archive
    store: StoreService
    queries: QueryService
    retrieve: RetrieveService


@contextmanager
def open_archive(config: Config, metrics: Metrics | None = None) -> Iterator[OpenArchive]:
    """Open storage and index, creating and migrating what is not there yet; closed at the end.

    Raises StorageUnavailable, IndexUnavailable, SchemaError.
    """
    settings = config.storage
    if config.database.url is None:
        config.database.path.parent.mkdir(parents=True, exist_ok=True)
    database = Database(config.database.sqlalchemy_url, wal_mode=config.database.wal_mode, fsync=settings.fsync)
    try:
        if config.database.auto_migrate:
            database.migrate()
        else:
            database.check_schema()
        storage = FileSystemStorage(settings.directory, min_free_space=settings.min_free_space, fsync=settings.fsync)
        storage.prepare()
        index = InstanceIndex(database, on_commit=metrics.committed if metrics else None)
        archive = Archive(storage, index, naming=settings.naming, duplicate_policy=settings.duplicate_policy)
        queries = QueryIndex(database)
        yield OpenArchive(
            database,
            storage,
            archive,
            StoreService(archive),
            QueryService(queries),
            RetrieveService(archive, queries),
        )
    finally:
        database.close()


class PacsServer:
    """The server, to run from the command line or to embed.

    `with PacsServer(config) as pacs:` serves until the block ends; `pacs.address` and
    `pacs.monitoring_address` say where, also when the ports were 0.
    """

    def __init__(self, config: Config, *, reload: Callable[[], Config] | None = None) -> None:
        """`reload` reads the configuration anew for SIGHUP; it may raise ConfigError."""
        self.config = config
        self.metrics = Metrics()
        self.address: tuple[str, int] = (config.server.host, config.server.port)
        self.monitoring_address: tuple[str, int] | None = None
        self._read_config = reload
        self._connections = Connections()
        self._began = time.monotonic()
        self._last_reload: dict[str, object] | None = None
        self._stopping = False
        self._started = False

    # ---------------------------------------------------------------- lifecycle

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bind, open the archive, serve. Raises ConfigError and leaves nothing open when it cannot."""
        check_filesystem(self.config)
        tls = _tls_context(self.config)
        sockets = self._bind()
        try:
            self._open(sockets, tls)
        except BaseException:
            for sock in sockets:
                if sock is not None:
                    sock.close()
            raise
        self._listener.start()
        if self._monitor is not None:
            self._monitor.start()
        self._started = True
        self._announce()

    def stop(self) -> None:
        """Accept no more, let running operations end within `server.shutdown_timeout`, abort the rest, close."""
        if not self._started:
            return
        self._stopping = True
        log.info("stopping", extra={"associations": self._connections.associations()})
        self._listener.stop()
        self._connections.drain(self.config.server.shutdown_timeout)
        self._connections.kill(_CUT_SECONDS)
        if self._monitor is not None:
            self._monitor.stop()
        self._opened.__exit__(None, None, None)
        self._started = False
        log.info("stopped")

    def abort(self) -> None:
        """End every association now; `stop` then has nothing to wait for."""
        self._connections.kill(_CUT_SECONDS)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT and return the exit code; SIGHUP reloads, a second signal aborts."""
        events: queue.SimpleQueue[int] = queue.SimpleQueue()

        def remember(signum: int, frame: FrameType | None) -> None:
            # Nothing but queueing happens in a signal handler.
            events.put(signum)

        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(caught, remember)
        self.start()
        self._print_welcome()
        stopper: threading.Thread | None = None
        while (signum := events.get()) != 0:
            if signum == signal.SIGHUP:
                if stopper is None:
                    self.reload()
            elif stopper is None:
                stopper = threading.Thread(target=self._stop_then, args=(events,), name="stop")
                stopper.start()
            else:
                log.warning("second signal: aborting what still runs")
                self.abort()
        return 0

    def _stop_then(self, events: "queue.SimpleQueue[int]") -> None:
        try:
            self.stop()
        finally:
            events.put(0)

    def reload(self) -> bool:
        """Read the configuration anew and take over what can change live; a bad one changes nothing."""
        logs.reopen()
        if self._read_config is None:
            return False
        try:
            new = self._read_config()
            tls = _tls_context(new) if self.config.tls.enabled else None
        except ConfigError as error:
            self.metrics.reloaded(ok=False)
            self._last_reload = {"at": _now(), "result": str(error)}
            log.error("configuration not reloaded, the old one stays", extra={"reason": str(error)})
            return False
        restart = changed_needing_restart(self.config, new)
        self._apply(new, tls)
        self.metrics.reloaded(ok=True)
        self._last_reload = {"at": _now(), "result": "ok", "needs_restart": restart}
        log.info("configuration reloaded", extra={"needs_restart": " ".join(restart) or "nothing"})
        return True

    # ---------------------------------------------------------------- what monitoring asks

    def status(self) -> dict[str, object]:
        """What `/status` answers and `pacs-server status` prints."""
        storage = self._parts.storage
        connections = self._connections
        return {
            "version": __version__,
            "ae_title": self.config.server.ae_title,
            "address": f"{self.address[0]}:{self.address[1]}",
            "uptime_seconds": round(time.monotonic() - self._began, 1),
            "not_ready": self.not_ready(),
            "associations": {"active": connections.associations(), "connections": len(connections)},
            "counts": self._counts(),
            "storage": {
                "directory": str(self.config.storage.directory),
                "free_bytes": _or_none(storage.free_bytes),
                "total_bytes": _or_none(storage.total_bytes),
                "fsync": self.config.storage.fsync,
            },
            "database": {
                "url": self._parts.database.url_without_password,
                "revision": _or_none(self._parts.database.revision),
            },
            "last_reload": self._last_reload,
        }

    def not_ready(self) -> str | None:
        """Why instances cannot be taken or given right now, or None."""
        if self._stopping:
            return "shutting down"
        try:
            free = self._parts.storage.free_bytes()
            self._parts.database.revision()
        except PacsError as error:
            return str(error)
        if free < self.config.storage.min_free_space:
            return f"{free} bytes free, storage.min_free_space is {self.config.storage.min_free_space}"
        return None

    def _counts(self) -> dict[str, int] | None:
        try:
            counts = self._parts.archive.counts()
        except PacsError:
            return None
        return {
            "patients": counts.patients,
            "studies": counts.studies,
            "series": counts.series,
            "instances": counts.instances,
        }

    def _gauges(self) -> dict[str, float]:
        connections = self._connections
        values: dict[str, float] = {
            "pacs_associations_active": connections.associations(),
            "pacs_connections_open": len(connections),
            "pacs_ready": self.not_ready() is None,
        }
        free = _or_none(self._parts.storage.free_bytes)
        if isinstance(free, int):
            values["pacs_storage_free_bytes"] = free
        return values | {f"pacs_{name}": count for name, count in (self._counts() or {}).items()}

    # ---------------------------------------------------------------- wiring

    def _bind(self) -> tuple[socket.socket, socket.socket | None]:
        """Take the ports before anything is created, so that a port in use changes nothing on disk."""
        config = self.config
        dicom = _bound(config, "server.port", config.server.host, config.server.port)
        self.address = dicom.getsockname()[:2]
        if not config.monitoring.enabled:
            return dicom, None
        try:
            monitoring = _bound(
                config, "monitoring.metrics_port", config.monitoring.host, config.monitoring.metrics_port
            )
        except ConfigError:
            dicom.close()
            raise
        self.monitoring_address = monitoring.getsockname()[:2]
        return dicom, monitoring

    def _open(self, sockets: tuple[socket.socket, socket.socket | None], tls: ssl.SSLContext | None) -> None:
        opened = open_archive(self.config, self.metrics)
        self._parts = opened.__enter__()
        self._opened = opened
        self._destinations = _destinations(self.config)
        self._admission = Admission(self.config.server, self.config.access_control)
        self._entity = ApplicationEntity(
            self._entity_settings(self.config, tls),
            self._admission,
            Dispatcher(self._services(), self.metrics),
            self.metrics,
            self._connections.established,
        )
        self._listener = Listener(
            sockets[0],
            self._connections,
            serve=self._entity.serve,
            limits=self._connection_limits,
            refused=self._refused,
        )
        self._monitor = None
        if sockets[1] is not None:
            self.metrics.watch(self._gauges)
            self._monitor = Monitor(
                sockets[1], metrics=self.metrics.render, status=self.status, not_ready=self.not_ready
            )

    def _services(self) -> dict[CommandField, Handler]:
        parts, metrics = self._parts, self.metrics

        def ae_title() -> str:
            return self.config.server.ae_title

        return {
            CommandField.C_ECHO: VerificationSCP(),
            CommandField.C_STORE: StorageSCP(parts.store, metrics),
            CommandField.C_FIND: QueryRetrieveFindSCP(parts.queries, ae_title, metrics),
            CommandField.C_GET: QueryRetrieveGetSCP(parts.retrieve, metrics),
            CommandField.C_MOVE: QueryRetrieveMoveSCP(
                parts.retrieve, self._destination, self._terms, ae_title, metrics
            ),
        }

    def _destination(self, title: str) -> Destination | None:
        return self._destinations.get(title)

    def _terms(self) -> Terms:
        return self._entity.settings.terms

    def _entity_settings(self, config: Config, tls: ssl.SSLContext | None) -> EntitySettings:
        server = config.server
        terms = Terms(
            max_pdu_size=server.max_pdu_size,
            association_timeout=server.association_timeout,
            timeouts=Timeouts(idle=server.idle_timeout, network=server.network_timeout),
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version_name=IMPLEMENTATION_VERSION_NAME,
        )
        return EntitySettings(terms, supports(accept_unknown=config.storage.accept_unknown_sop_classes), tls)

    def _apply(self, new: Config, tls: ssl.SSLContext | None) -> None:
        """Take over what can change live; associations in force keep what they began with."""
        self.config = new
        self._admission.configure(new.server, new.access_control)
        self._destinations = _destinations(new)
        self._entity.settings = self._entity_settings(new, tls)
        self._parts.storage.min_free_space = new.storage.min_free_space
        self._parts.archive.duplicate_policy = new.storage.duplicate_policy
        logs.set_level(new.logging.level)

    def _connection_limits(self) -> ConnectionLimits:
        server = self.config.server
        return ConnectionLimits(server.max_connections, server.max_connections_per_address)

    def _refused(self, limit: str, address: str) -> None:
        self.metrics.rejected(limit)
        log.warning("connection refused", extra={"peer": address, "limit": limit})

    def _announce(self) -> None:
        host, port = self.address
        monitoring = "off" if self.monitoring_address is None else "{}:{}".format(*self.monitoring_address)
        log.info(
            "listening",
            extra={"host": host, "port": port, "ae_title": self.config.server.ae_title, "monitoring": monitoring},
        )
        if not self.config.storage.fsync:
            log.warning("storage.fsync is off: success does not mean durable, a power loss may lose instances")

    def _print_welcome(self) -> None:
        host, port = self.address
        peer = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        title = self.config.server.ae_title
        print(f"pacs-server {__version__} listening on {host} port {port} as {title}")
        if self.monitoring_address is not None:
            print("monitoring at http://{}:{}/status".format(*self.monitoring_address))
        print(f"try: echoscu -aec {title} {peer} {port}")
        print(f"     storescu -aec {title} {peer} {port} image.dcm")
        sys.stdout.flush()


def _bound(config: Config, key: str, host: str, port: int) -> socket.socket:
    try:
        return bind(host, port)
    except OSError as error:
        raise config.error(key, f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def _tls_context(config: Config) -> ssl.SSLContext | None:
    if not config.tls.enabled:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls.cert_path, config.tls.key_path)
    except OSError as error:
        raise config.error("tls.cert_path", f"cannot be used with tls.key_path: {error}") from None
    return context


def _destinations(config: Config) -> dict[str, Destination]:
    return {remote.ae_title: _destination(remote) for remote in config.remote_aes}


def _destination(remote: RemoteAE) -> Destination:
    tls = ssl.create_default_context() if remote.tls else None
    address = scu.RemoteAE(remote.ae_title, remote.host, remote.port, remote.connect_timeout, tls)
    return Destination(address, remote.response_timeout)


def _or_none(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except PacsError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
