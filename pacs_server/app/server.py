"""`PacsServer`: start, reload and stop a server, as a command that handles signals or embedded in another program."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Self

from pacs_server.app.allocator import give_back_large_blocks
from pacs_server.app.assembly import OpenArchive
from pacs_server.app.lifecycle import RunningParts
from pacs_server.app.parts import server_parts
from pacs_server.app.ports import Addresses
from pacs_server.app.runtime import LiveSettings, ReloadResult, Runtime
from pacs_server.app.seams import Seams
from pacs_server.app.web import open_associations
from pacs_server.app.welcome import welcome
from pacs_server.config.cautions import cautions
from pacs_server.config.disk import check_filesystem
from pacs_server.config.model import Config, changed, changed_needing_restart, is_about_security
from pacs_server.errors import ConfigError
from pacs_server.kit import logs
from pacs_server.kit.metrics import Metrics
from pacs_server.net.listener import Connections
from pacs_server.services.associations import OpenAssociation, RecentAssociations

log = logging.getLogger(__name__)

# How long a computing thread may keep the interpreter from other threads, in seconds.
_SWITCH_SECONDS = 0.001
# Sent to the main thread like the number of a signal, and not the number of any signal.
_STOPPED = 0


class PacsServer:
    """The server, to run from the command line or to embed.

    `with PacsServer(config) as pacs:` serves until the block ends. `pacs.address`, `pacs.tls_address`,
    `pacs.monitoring_address`, `pacs.hl7_address` and `pacs.web_address` say where it listens, also if a port in the
    settings is 0. If TLS is on and has no port of its own, `address` and `tls_address` are the same and only TLS is
    spoken there.
    """

    def __init__(
        self, config: Config, *, reload: Callable[[], Config] | None = None, seams: Seams | None = None
    ) -> None:
        """`reload` reads the configuration again at SIGHUP; it may raise ConfigError.

        `seams` put something of the embedding program around the protocol engine.
        """
        self.config = config
        self.metrics = Metrics()
        self._listening_at(Addresses((config.server.host, config.server.port)))
        self._started_with = config
        self._read_config = reload
        self._seams = seams or Seams()
        self._connections = Connections()
        self.recent_associations = RecentAssociations()
        self._parts = RunningParts()
        # A signal and a page may ask for it at the same time.
        self._reloading = threading.Lock()
        self.metrics.watch(self._parts.gauges)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *, own_logs: bool = False) -> None:
        """Bind the ports, open the archive and serve. With `own_logs`, set up logging as the settings say.

        If the server cannot start, raise a PacsError and leave nothing open.
        """
        check_filesystem(self.config)
        # What needs a restart stays as it is in this configuration, whatever a reload reads.
        self._started_with = self.config
        settings = LiveSettings.of(self.config)
        self._runtime = Runtime(
            settings, self.metrics, self._connections, self.recent_associations, own_logs=own_logs, seams=self._seams
        )
        self._runtime.reload = self.reload
        self._parts.start(server_parts(self._runtime, self._parts))
        self._listening_at(self._runtime.addresses)
        self._announce()

    def stop(self) -> None:
        """Accept no more associations, let running operations end within `server.shutdown_timeout`, and close."""
        self._parts.stop()

    def abort(self) -> None:
        """Abort every association now, so that `stop` has nothing to wait for."""
        self._runtime.abort()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT and return the exit code. SIGHUP reloads; a second signal aborts."""
        # Every call of a thread that waits for the interpreter takes this long; the default of 5 ms is too much.
        sys.setswitchinterval(_SWITCH_SECONDS)
        give_back_large_blocks()
        # Python runs signal handlers in the main thread, between two of its instructions. A signal that arrives just
        # before the main thread waits would be lost. The byte that Python writes to the wake-up descriptor is not.
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
        """Read the configuration again and take over what can change live; a wrong one changes nothing."""
        logs.reopen()
        if self._read_config is None:
            return False
        with self._reloading:
            return self._reload(self._read_config)

    def _reload(self, read: Callable[[], Config]) -> bool:
        try:
            new = LiveSettings.of(read(), listening_tls=self._runtime.settings.entity.tls)
        except ConfigError as error:
            self._reload_ended(str(error))
            log.error("configuration not reloaded, the old one stays", extra={"reason": str(error)})
            self.archive.audit.configured(f"refused, the old one stays: {error}", security=True, ok=False)
            return False
        self._take_over(new)
        self._warn_of_cautions()
        return True

    def status(self) -> dict[str, object]:
        """The status page, as `/status` answers and `pacs-server status` prints it."""
        return self._parts.status()

    def open_associations(self) -> list[OpenAssociation]:
        """The associations that are open now, the oldest first."""
        return open_associations(self._connections)

    @property
    def archive(self) -> OpenArchive:
        """The open archive with its services, while the server runs."""
        return self._runtime.archive

    def _take_over(self, new: LiveSettings) -> None:
        restart, changes = changed_needing_restart(self._started_with, new.config), changed(self.config, new.config)
        self.config, self._runtime.settings = new.config, new
        self._parts.reload()
        self._reload_ended("ok", needs_restart=restart)
        if changes:
            security = any(map(is_about_security, changes))
            self.archive.audit.configured(f"changed: {', '.join(changes)}", security=security)
        extra = {"needs_restart": " ".join(restart) or "nothing"}
        if new.config.source is None:
            log.info("configuration reloaded, but no file was read: the server was started without one", extra=extra)
        else:
            log.info("configuration reloaded", extra=extra)

    def _reload_ended(self, text: str, *, needs_restart: list[str] | None = None) -> None:
        self.metrics.reloaded(ok=needs_restart is not None)
        self._runtime.last_reload = ReloadResult(datetime.now(UTC), text, needs_restart)

    def _listening_at(self, addresses: Addresses) -> None:
        self.address = addresses.dicom
        self.tls_address = addresses.tls
        self.monitoring_address = addresses.monitoring
        self.hl7_address = addresses.hl7
        self.web_address = addresses.web

    # ---------------------------------------------------------------- signals

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

    # ---------------------------------------------------------------- what people read

    def _announce(self) -> None:
        host, port = self.address
        monitoring = "off" if self.monitoring_address is None else "{}:{}".format(*self.monitoring_address)
        hl7 = "off" if self.hl7_address is None else "{}:{}".format(*self.hl7_address)
        tls = "off" if self.tls_address is None else "{}:{}".format(*self.tls_address)
        web = "off" if self.web_address is None else "{}:{}".format(*self.web_address)
        log.info(
            "listening",
            extra={
                **{"host": host, "port": port, "tls": tls, "ae_title": self.config.server.ae_title},
                **{"monitoring": monitoring, "hl7": hl7, "web": web},
            },
        )
        if os.geteuid() == 0:
            log.warning("running as root: give the server a user of its own")
        self._warn_of_cautions()
        if self.config.storage.fsync == "off":
            log.warning("storage.fsync is off: success does not mean durable, a power loss may lose instances")

    def _warn_of_cautions(self) -> None:
        for warning in cautions(self.config):
            log.warning(warning)

    def _print_welcome(self) -> None:
        for line in welcome(self.config, self._runtime.addresses):
            print(line)
        sys.stdout.flush()
