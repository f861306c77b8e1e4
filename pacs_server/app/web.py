"""The HTTP door of a running server: what it needs of the other parts."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping

from pydicom.uid import UID

from pacs_server.app.conformance import statement
from pacs_server.app.lifecycle import Part, Steps
from pacs_server.app.routing import RoutingParts
from pacs_server.app.runtime import Runtime
from pacs_server.audit.auditor import Auditor
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.config.sections.web import WebConfig
from pacs_server.config.types import is_loopback
from pacs_server.kit.periodic import Periodic
from pacs_server.net.listener import Connection, Connections
from pacs_server.scp.contexts import SOP_CLASSES, STORAGE_SOP_CLASSES, STORAGE_TRANSFER_SYNTAXES, is_storage
from pacs_server.scu.queries import RemoteQueries
from pacs_server.services.access import takes_certificates
from pacs_server.services.associations import OpenAssociation, Traffic
from pacs_server.services.events import EventHub
from pacs_server.services.export import ExportService
from pacs_server.services.users import UserService
from pacs_server.web.door import make_app
from pacs_server.web.limits import WebLimits
from pacs_server.web.server import WebServer
from pacs_server.web.services import Spoken, WebServices

log = logging.getLogger(__name__)

# How often cursors are looked for that dead processes left, in seconds.
_TIDY_SECONDS = 3600.0


def web_parts(runtime: Runtime, status: Callable[[], Mapping[str, object]], routing: RoutingParts) -> Iterator[Part]:
    """The parts that serve DICOMweb, the REST API and browsers; `status` gives the sections of the status page."""
    events = EventHub(runtime.archive.feed)
    yield _web_door(runtime, status, events, routing)
    yield Periodic("events", _TIDY_SECONDS, events.tidy)
    # Streams of events end before the server waits for its connections.
    yield Steps(stop=events.stop)


def _web_door(
    runtime: Runtime, status: Callable[[], Mapping[str, object]], events: EventHub, routing: RoutingParts
) -> WebServer:
    assert runtime.ports.web is not None
    archive = runtime.archive
    auditor = Auditor(archive.audit)
    _check_way_in(runtime)
    _tell_of_lost_users(runtime)
    # It is a part of the names of all cookies, and kept from now on: the event loop may not wait for the database.
    archive.sessions.archive_id()
    services = WebServices(
        config=runtime.config,
        queries=archive.queries,
        retrieve=archive.retrieve,
        metadata=archive.metadata,
        exports=ExportService(archive.retrieve, auditor),
        store=archive.store,
        stores_class=lambda uid: is_storage(uid, accept_unknown=runtime.config().storage.accept_unknown_sop_classes),
        deletions=archive.deletions,
        directory_exports=archive.directory_exports,
        marks=archive.marks,
        patients=archive.patients,
        worklist=archive.worklist,
        mpps=archive.mpps,
        tasks=archive.tasks,
        fetching=archive.fetching,
        polling=archive.polling,
        prefetching=archive.prefetching,
        remotes=RemoteQueries(runtime.senders.remotes, OutgoingAuditor(archive.audit)),
        rules=routing.engine,
        deidentifying=routing.deidentifying,
        forwarding=archive.forwarding,
        history=archive.history,
        breakers=archive.breakers,
        peers=archive.peers,
        passwords=archive.passwords,
        sessions=archive.sessions,
        share_links=archive.share_links,
        auditor=auditor,
        metrics=runtime.metrics,
        listing=archive.listing,
        study_list=archive.study_list,
        statistics=archive.statistics,
        faults=archive.faults,
        users=UserService(lambda: runtime.config().user_identity.users_path, archive.audit),
        keys=archive.keys,
        events=events,
        recent_associations=runtime.recent,
        trail=archive.trail,
        verification=archive.verification,
        associations=lambda: open_associations(runtime.connections),
        reload=runtime.reload,
        status=status,
        spoken=_spoken(runtime),
    )
    return WebServer(
        runtime.ports.web,
        runtime.seams.web(make_app(services)),
        name="web",
        limits=lambda: _limits(runtime.config().web),
        metrics=runtime.metrics,
        stop_within=lambda: runtime.config().server.shutdown_timeout,
        tls=lambda: runtime.settings.web_tls,
    )


def _check_way_in(runtime: Runtime) -> None:
    """Raise ConfigError if the port is open to others, and nobody could log in."""
    config, archive = runtime.config(), runtime.archive
    if (
        is_loopback(config.web.host)
        or config.web.oidc.issuer
        or takes_certificates(config)
        or archive.passwords.anybody(config.user_identity.users_path)
        or archive.keys.any()
    ):
        return
    raise config.error(
        "web.host",
        f"nobody can log in, and {config.web.host} is open to others: add a user with `pacs-server user add`, "
        "make a key with `pacs-server key create`, set web.oidc.issuer, or leave web.host at 127.0.0.1",
    )


def _tell_of_lost_users(runtime: Runtime) -> None:
    """Warn if users have logged in here and none is left, as after a restore without their file."""
    archive, path = runtime.archive, runtime.config().user_identity.users_path
    if not archive.passwords.anybody(path) and archive.sessions.had_users():
        log.warning("users have logged in here before, and there are none now", extra={"file": str(path)})


def _spoken(runtime: Runtime) -> Spoken:
    return Spoken(
        sop_classes=[each.name for each in SOP_CLASSES.values()],
        storage_sop_classes=sorted(UID(uid).name for uid in STORAGE_SOP_CLASSES),
        transfer_syntaxes=[UID(uid).name for uid in STORAGE_TRANSFER_SYNTAXES],
        statement=lambda: statement(runtime.config()),
    )


def _limits(web: WebConfig) -> WebLimits:
    """One address may have half of all connections, so that nobody can have them all."""
    return WebLimits(
        connections=web.max_connections,
        per_address=max(1, web.max_connections // 2),
        proxies=web.trusted_proxies,
        max_body=web.max_body,
    )


def open_associations(connections: Connections) -> list[OpenAssociation]:
    """The associations that are open now, the oldest first."""
    return [_association(each) for each in connections.established_now()]


def _association(connection: Connection) -> OpenAssociation:
    association = connection.association
    assert association is not None
    caller, transport = association.caller, association.transport
    traffic = Traffic(transport.bytes_in, transport.bytes_out, round(time.monotonic() - connection.opened, 3))
    return OpenAssociation(
        caller.ae_title, caller.called_ae, caller.address, caller.user, caller.tls, traffic,
        # The thread of the association goes on counting meanwhile.
        dict(connection.operations), association.doing if association.busy else "",
    )  # fmt: skip
