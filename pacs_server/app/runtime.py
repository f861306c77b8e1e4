"""What the parts of a running server share: the settings in force, the metrics, the open connections."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from pacs_server.app.assembly import OpenArchive, entity_settings, remote_aes
from pacs_server.app.polled import check_queries
from pacs_server.app.ports import Addresses, Ports
from pacs_server.app.remotes import dicomweb_remotes
from pacs_server.app.seams import Seams
from pacs_server.config.model import Config
from pacs_server.config.tls import client_context, server_context, web_context
from pacs_server.kit.metrics import Metrics
from pacs_server.net.acceptor import Terms
from pacs_server.net.listener import Connections
from pacs_server.scp.entity import EntitySettings
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dicomweb.remote import DICOMwebRemote
from pacs_server.scu.link import Requestor
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.remotes import Remote
from pacs_server.scu.senders import Senders
from pacs_server.services.associations import RecentAssociations
from pacs_server.services.routing import Rules, compile_rules

# How long threads may take to notice that their connection was cut, in seconds.
_CUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """The configuration in force, and everything that is made of it and can fail: certificates and remote AEs.

    A reload makes a new value. If that raises ConfigError, the old value stays and nothing has changed.
    """

    config: Config
    entity: EntitySettings
    remote_aes: dict[str, RemoteAE]
    audit_repository_tls: ssl.SSLContext | None
    web_tls: ssl.SSLContext | None = None
    dicomweb_remotes: dict[str, DICOMwebRemote] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)

    @classmethod
    def of(cls, config: Config, *, listening_tls: ssl.SSLContext | None = None) -> "LiveSettings":
        """The settings that follow from `config`. Raises ConfigError.

        A server that listens for TLS keeps `listening_tls` if `config` switches TLS off: that needs a restart.
        """
        check_queries(config)
        audit = config.audit
        sends_audit_over_tls = audit.syslog_host is not None and audit.syslog_protocol == "tls"
        return cls(
            config,
            entity_settings(config, server_context(config) or listening_tls),
            remote_aes(config),
            client_context(config, check_hostname=True) if sends_audit_over_tls else None,
            web_context(config),
            dicomweb_remotes(config),
            compile_rules(config),
        )


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What became of a reload of the configuration; `needs_restart` is None if the reload was refused."""

    at: datetime
    text: str
    needs_restart: list[str] | None = None


@dataclass(slots=True)
class Runtime:
    """What the parts of one server share. Parts get their settings from here, so that they see a reload."""

    settings: LiveSettings
    metrics: Metrics
    connections: Connections = field(default_factory=Connections)
    recent: RecentAssociations = field(default_factory=RecentAssociations)
    own_logs: bool = False
    seams: Seams = field(default_factory=Seams)
    # Has the server read its configuration again, and says whether it did.
    reload: Callable[[], bool] = lambda: False
    moves: Requestor = field(init=False)
    # The associations and connections by which this server forwards, fetches and asks of its own accord.
    pool: Pool = field(init=False)
    senders: Senders = field(init=False)
    stopping: bool = False
    last_reload: ReloadResult | None = None
    # Made by the first parts, for those that follow.
    ports: Ports = field(init=False)
    addresses: Addresses = field(init=False)
    archive: OpenArchive = field(init=False)

    def __post_init__(self) -> None:
        self.moves = self.requestor()
        self.pool = Pool(
            self.requestor(),
            opened=lambda remote, association: self.archive.breakers.seen(remote.name, association.implementation),
        )
        self.senders = Senders(self.pool, DICOMwebClients(), self.remote)

    def config(self) -> Config:
        """The configuration in force."""
        return self.settings.config

    def ae_title(self) -> str:
        """The AE title of this server."""
        return self.settings.config.server.ae_title

    def terms(self) -> Terms:
        """What this server offers and expects in associations."""
        return self.settings.entity.terms

    def remote_ae(self, ae_title: str) -> RemoteAE | None:
        """The remote AE with this title, None if it is not configured."""
        return self.settings.remote_aes.get(ae_title)

    def remote(self, name: str) -> Remote | None:
        """The remote of any kind with this name, None if it is not configured."""
        named = (each for each in self.settings.remote_aes.values() if each.name == name)
        return next(named, None) or self.settings.dicomweb_remotes.get(name)

    def dimse_remote(self, name: str) -> RemoteAE | None:
        """The remote with this name that is called by DIMSE, None if there is none."""
        remote = self.remote(name)
        return remote if isinstance(remote, RemoteAE) else None

    def title_of(self, name: str) -> str | None:
        """The AE title of a remote, None if it has none."""
        remote = self.config().remote(name)
        return remote.ae_title or None if remote is not None else None

    def requestor(self) -> Requestor:
        """A requestor of associations, for a part that ends its own associations when it stops."""
        return Requestor(self.remote_ae, self.ae_title, self.terms)

    def abort(self) -> None:
        """End every association that a peer has requested, and those that serve a C-MOVE."""
        # The peers' associations end first, so that no C-MOVE tells its peer that the destination failed.
        self.connections.kill(0)
        self.moves.kill()
        self.connections.kill(_CUT_SECONDS)
