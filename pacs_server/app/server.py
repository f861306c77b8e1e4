"""Lifecycle: bind, open, serve, reload, drain, stop; as a command or embedded."""

import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime
from typing import Self

from pacs_server import __version__
from pacs_server.app.allocator import give_back_large_blocks
from pacs_server.app.assembly import OpenArchive, entity_settings, open_archive, remote_aes
from pacs_server.app.health import LOOK_SECONDS, Report, Watch
from pacs_server.app.logging import configure as configure_logging
from pacs_server.app.ports import Ports, address_of, bind_ports
from pacs_server.app.sources import worklist_sources
from pacs_server.audit.forward import Forwarder
from pacs_server.audit.running import recording
from pacs_server.config.load import cautions, check_filesystem
from pacs_server.config.model import SECURITY_SECTIONS, Config, changed, changed_needing_restart
from pacs_server.config.tls import ExpiryWatch, client_context, server_context
from pacs_server.errors import ConfigError
from pacs_server.kit import logs
from pacs_server.kit.metrics import Metrics
from pacs_server.kit.periodic import DAY_SECONDS, Periodic
from pacs_server.net.acceptor import Terms
from pacs_server.net.listener import ConnectionLimits, Connections, Listener
from pacs_server.net.message import CommandField
from pacs_server.outbox.commitment import Reporter
from pacs_server.scp.admission import Admission
from pacs_server.scp.auditing import Auditing
from pacs_server.scp.contexts import Service
from pacs_server.scp.dispatch import Dispatcher, Handlers
from pacs_server.scp.echo import VerificationSCP
from pacs_server.scp.entity import ApplicationEntity
from pacs_server.scp.find import QueryRetrieveFindSCP
from pacs_server.scp.get import QueryRetrieveGetSCP
from pacs_server.scp.identity import Identification
from pacs_server.scp.move import QueryRetrieveMoveSCP
from pacs_server.scp.mpps import ModalityPerformedProcedureStepSCP
from pacs_server.scp.storage_commitment import StorageCommitmentSCP
from pacs_server.scp.store import StorageSCP
from pacs_server.scp.worklist import ModalityWorklistSCP
from pacs_server.scu.link import Requestor
from pacs_server.scu.remote import RemoteAE
from pacs_server.upkeep.recovery import recover
from pacs_server.upkeep.scrub import Scrub
from pacs_server.upkeep.trash_keeper import trash_keeper
from pacs_server.web.monitor import Monitor

log = logging.getLogger(__name__)

# How long threads may take to notice that their connection was cut, in seconds.
_CUT_SECONDS = 5.0
_SWITCH_SECONDS = 0.001
# Not the number of any signal.
_STOPPED = 0


class PacsServer:
    """The server, to run from the command line or to embed.

    `with PacsServer(config) as pacs:` serves until the block ends; `pacs.address`, `pacs.tls_address`,
    `pacs.monitoring_address` and `pacs.hl7_address` say where, also when the ports were 0. Without `tls.port`
    but with TLS, `address` and `tls_address` are the same and nothing but TLS is spoken there.
    """

    def __init__(self, config: Config, *, reload: Callable[[], Config] | None = None) -> None:
        """`reload` reads the configuration anew for SIGHUP; it may raise ConfigError."""
        self.config = config
        self.metrics = Metrics()
        self.address: tuple[str, int] = (config.server.host, config.server.port)
        self.tls_address: tuple[str, int] | None = None
        self.monitoring_address: tuple[str, int] | None = None
        self.hl7_address: tuple[str, int] | None = None
        self._read_config = reload
        self._connections = Connections()
        self._sparingly = logs.Sparingly(log)
        self._expiry = ExpiryWatch()
        # What is open, to be closed in the opposite order.
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, own_logs: bool = False) -> None:
        """Bind, open the archive, serve; with `own_logs` logging is set up as section logging says.

        Raises a PacsError and leaves nothing open when it cannot.
        """
        check_filesystem(self.config)
        tls = server_context(self.config)
        with ExitStack() as stack:
            # The ports come first, so that a port in use changes nothing on disk.
            ports = bind_ports(self.config, stack)
            self._listening_at(ports)
            if own_logs:
                configure_logging(self.config.logging)
            parts = stack.enter_context(open_archive(self.config, self.metrics, current=lambda: self.config))
            self._forwarder = stack.enter_context(self._recording(parts))
            parts.identity.catch_up()
            # A file without a row may be on its way into the trash.
            with parts.deletions.settled():
                recover(parts.archive, parts.storage, parts.audit, self.metrics.recovered)
            self._wire(parts, ports.monitoring, tls)
            self._listeners = [
                self._listener(sock, tls=sock is ports.tls) for sock in {ports.dicom, ports.tls} if sock is not None
            ]
            stack.enter_context(worklist_sources(self.config, parts.worklist, ports.hl7, self.metrics))
            if self._monitor is not None:
                self._monitor.start()
                stack.callback(self._monitor.stop)
            self._reporter.start()
            stack.callback(self._reporter.stop)
            parts.peers.start()
            stack.callback(parts.peers.stop)
            self._scrub.start()
            stack.callback(self._scrub.stop)
            self._expiry.take(self.config)
            for task in self._tasks(parts):
                stack.enter_context(task)
            # Before they start: what one of them has accepted is ended as well if another cannot start.
            stack.callback(self._drain)
            for listener in self._listeners:
                listener.start()
            self._open = stack.pop_all()
        self._announce()

    def stop(self) -> None:
        """Accept no more, let running operations end within `server.shutdown_timeout`, abort the rest, close."""
        self._open.close()

    def abort(self) -> None:
        """End every association now; `stop` then has nothing to wait for."""
        # The peers' associations end first, so that no C-MOVE tells its peer that the destination failed.
        self._connections.kill(0)
        self._moves.kill()
        self._connections.kill(_CUT_SECONDS)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT and return the exit code; SIGHUP reloads, a second signal aborts."""
        # A thread that computes holds up the others for this long at each of their calls; the default is 5 ms.
        sys.setswitchinterval(_SWITCH_SECONDS)
        give_back_large_blocks()
        # Python's own handlers run only when the main thread gets to it, and a signal that comes just before
        # it waits would be lost; the byte that the wake-up descriptor gets is not.
        events, wake = socket.socketpair()
        wake.setblocking(False)
        with events, wake:
            before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
            try:
                for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(caught, lambda signum, frame: None)
                self.start(own_logs=True)
                self._print_welcome()
                self._act_on(events, wake)
            finally:
                signal.set_wakeup_fd(before)
        return 0

    def reload(self) -> bool:
        """Read the configuration anew and take over what can change live; a bad one changes nothing."""
        logs.reopen()
        if self._read_config is None:
            return False
        try:
            new = self._read_config()
            # While it listens for TLS it never goes without: switching it off needs a restart.
            tls = server_context(new) or self._entity.settings.tls
            remotes = remote_aes(new)
            repository = _repository_context(new)
        except ConfigError as error:
            self._reloaded(ok=False, result=str(error))
            log.error("configuration not reloaded, the old one stays", extra={"reason": str(error)})
            self._parts.audit.configured(f"refused, the old one stays: {error}", security=True, ok=False)
            return False
        restart = changed_needing_restart(self.config, new)
        changes = changed(self.config, new)
        self._apply(new, tls, remotes)
        if self._forwarder is not None:
            self._forwarder.renew(repository)
        self._reloaded(ok=True, result="ok", needs_restart=restart)
        if changes:
            security = any(key.startswith(SECURITY_SECTIONS) for key in changes)
            self._parts.audit.configured(f"changed: {', '.join(changes)}", security=security)
        log.info("configuration reloaded", extra={"needs_restart": " ".join(restart) or "nothing"})
        self._warn_if_open()
        return True

    def status(self) -> dict[str, object]:
        """What `/status` answers and `pacs-server status` prints."""
        return self._report.status(self.address, self.tls_address) | {"scrub": self._scrub.status()}

    # ---------------------------------------------------------------- start and stop

    def _listening_at(self, ports: Ports) -> None:
        self.address = address_of(ports.dicom)
        self.tls_address = address_of(ports.tls) if ports.tls else None
        self.monitoring_address = address_of(ports.monitoring) if ports.monitoring else None
        self.hl7_address = address_of(ports.hl7) if ports.hl7 else None

    def _wire(
        self,
        parts: OpenArchive,
        monitoring: socket.socket | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._parts = parts
        self._report = Report(parts, self._connections, lambda: self.config)
        self._remote_aes = remote_aes(self.config)
        self._identification = Identification(self.config.user_identity)
        self._admission = Admission(
            self.config.server, self.config.access_control, identify=self._identification.identify
        )
        self._moves = Requestor(self._remote_ae, self._ae_title, self._terms)
        auditing = Auditing(parts.audit)
        self._entity = ApplicationEntity(
            entity_settings(self.config, tls),
            self._admission,
            Dispatcher(self._handlers(parts, auditing), auditing, self.metrics),
            self.metrics,
            self._connections.established,
            peers=parts.peers,
            auditing=auditing,
        )
        self._scrub = Scrub(
            parts.storage, parts.database, lambda: self.config.storage.scrub_rate, counted=self.metrics.scrubbed
        )
        self.metrics.watch_scrub(self._scrub.findings)
        self._reporter = Reporter(parts.commitment, Requestor(self._remote_ae, self._ae_title, self._terms))
        self.metrics.watch(lambda: self._report.gauges() | self._expiry.gauges() | self._scrub.gauges())
        self._monitor = (
            Monitor(monitoring, metrics=self.metrics.render, status=self.status, not_ready=self._report.not_ready)
            if monitoring is not None
            else None
        )

    def _tasks(self, parts: OpenArchive) -> list[Periodic]:
        return [
            trash_keeper(parts.deletions, lambda: self.config.storage.trash_days, parts.audit.own),
            Periodic("expiry", DAY_SECONDS, self._expiry.warn, at_once=False),
            Periodic("watch", LOOK_SECONDS, Watch(self._report).look),
        ]

    def _listener(self, sock: socket.socket, *, tls: bool) -> Listener:
        return Listener(
            sock,
            self._connections,
            serve=self._entity.serve,
            limits=self._connection_limits,
            refused=self._refused,
            tls=tls,
        )

    def _recording(self, parts: OpenArchive) -> AbstractContextManager[Forwarder | None]:
        tls = _repository_context(self.config)
        return recording(parts.trail, parts.audit, lambda: self.config.audit, tls, self.metrics)

    def _handlers(self, parts: OpenArchive, auditing: Auditing) -> Handlers:
        metrics = self.metrics
        steps = ModalityPerformedProcedureStepSCP(parts.mpps, auditing, metrics)
        return {
            (Service.VERIFICATION, CommandField.C_ECHO): VerificationSCP(),
            (Service.STORAGE, CommandField.C_STORE): StorageSCP(parts.store, auditing, metrics),
            (Service.FIND, CommandField.C_FIND): QueryRetrieveFindSCP(parts.queries, self._ae_title, auditing, metrics),
            (Service.GET, CommandField.C_GET): QueryRetrieveGetSCP(parts.retrieve, auditing, metrics),
            (Service.MOVE, CommandField.C_MOVE): QueryRetrieveMoveSCP(parts.retrieve, self._moves, auditing, metrics),
            (Service.COMMITMENT, CommandField.N_ACTION): StorageCommitmentSCP(
                parts.commitment,
                self._ae_title,
                lambda: self.config.commitment.same_association,
                auditing,
                parts.retrieve.subjects_of,
            ),
            (Service.WORKLIST, CommandField.C_FIND): ModalityWorklistSCP(parts.worklist, auditing, metrics),
            (Service.MPPS, CommandField.N_CREATE): steps.create,
            (Service.MPPS, CommandField.N_SET): steps.set,
            (Service.MPPS_RETRIEVE, CommandField.N_GET): steps.get,
        }

    def _drain(self) -> None:
        self._report.stopping = True
        log.info("stopping", extra={"associations": self._connections.associations()})
        for listener in self._listeners:
            listener.stop()
        self._connections.drain(self.config.server.shutdown_timeout)
        self.abort()
        log.info("stopped")

    def _act_on(self, events: socket.socket, wake: socket.socket) -> None:
        """Act on each signal whose number comes in, until the server has stopped."""
        stopper: threading.Thread | None = None
        while (signum := events.recv(1)[0]) != _STOPPED:
            if signum == signal.SIGHUP:
                if stopper is None:
                    self.reload()
            elif stopper is None:
                stopper = threading.Thread(target=self._stop_then, args=(wake,), name="stop")
                stopper.start()
            else:
                log.warning("second signal: aborting what still runs")
                self.abort()

    def _stop_then(self, wake: socket.socket) -> None:
        try:
            self.stop()
        finally:
            wake.send(bytes((_STOPPED,)))

    # ---------------------------------------------------------------- what may change live

    def _apply(self, new: Config, tls: ssl.SSLContext | None, remotes: dict[str, RemoteAE]) -> None:
        """Take over what can change live; associations in force keep what they began with."""
        self.config = new
        self._admission.configure(new.server, new.access_control)
        self._identification.configure(new.user_identity)
        self._remote_aes = remotes
        self._expiry.take(new)
        self._scrub.configured()
        self._entity.settings = entity_settings(new, tls)
        self._parts.storage.min_free_space = new.storage.min_free_space
        self._parts.archive.duplicate_policy = new.storage.duplicate_policy
        logs.set_level(new.logging.level)

    def _reloaded(self, *, ok: bool, **result: object) -> None:
        self.metrics.reloaded(ok=ok)
        self._report.last_reload = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **result}

    def _ae_title(self) -> str:
        return self.config.server.ae_title

    def _remote_ae(self, title: str) -> RemoteAE | None:
        return self._remote_aes.get(title)

    def _terms(self) -> Terms:
        return self._entity.settings.terms

    def _connection_limits(self) -> ConnectionLimits:
        server = self.config.server
        return ConnectionLimits(server.max_connections, server.max_connections_per_address)

    def _refused(self, limit: str, address: str) -> None:
        self.metrics.rejected(limit)
        self._sparingly.log(logging.WARNING, "connection refused", address, limit)

    # ---------------------------------------------------------------- what people read

    def _announce(self) -> None:
        host, port = self.address
        monitoring = "off" if self.monitoring_address is None else "{}:{}".format(*self.monitoring_address)
        hl7 = "off" if self.hl7_address is None else "{}:{}".format(*self.hl7_address)
        tls = "off" if self.tls_address is None else "{}:{}".format(*self.tls_address)
        log.info(
            "listening",
            extra={
                **{"host": host, "port": port, "tls": tls, "ae_title": self._ae_title()},
                **{"monitoring": monitoring, "hl7": hl7},
            },
        )
        if os.geteuid() == 0:
            log.warning("running as root: give the server a user of its own")
        self._warn_if_open()
        if not self.config.storage.fsync:
            log.warning("storage.fsync is off: success does not mean durable, a power loss may lose instances")

    def _warn_if_open(self) -> None:
        for warning in cautions(self.config):
            log.warning(warning)

    def _print_welcome(self) -> None:
        host, port = self.address
        peer = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        title = self._ae_title()
        print(f"pacs-server {__version__} listening on {host} port {port} as {title}")
        if self.tls_address is not None:
            print("DICOM over TLS at {} port {}".format(*self.tls_address))
        if self.monitoring_address is not None:
            print("monitoring at http://{}:{}/status".format(*self.monitoring_address))
        if self.hl7_address is not None:
            print("HL7 orders at {} port {}".format(*self.hl7_address))
        # DCMTK's options for TLS without a certificate of our own, and without a look at the server's.
        tls = " +tla -ic" if self.tls_address == self.address else ""
        print(f"try: echoscu -aec {title}{tls} {peer} {port}")
        print(f"     storescu -aec {title}{tls} {peer} {port} image.dcm")
        sys.stdout.flush()


def _repository_context(config: Config) -> ssl.SSLContext | None:
    """The TLS context for the audit repository, None if there is none or it takes no TLS. Raises ConfigError."""
    if config.audit.syslog_host is None or config.audit.syslog_protocol != "tls":
        return None
    return client_context(config, check_hostname=True)
