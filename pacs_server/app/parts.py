"""**The** list of the parts of the server, in the order in which they start. They stop in the reverse order.

To add a part, add one line at its place: `yield` an object with the methods that it needs of `start`, `reload`, `stop`,
`gauges` and `status` (see `lifecycle.py`). A part is made when all parts above it have started, and settings come from
`runtime`, so that the part sees a reload.
"""

import logging
from collections.abc import Iterator
from functools import partial

from pacs_server.app.assembly import start_archive
from pacs_server.app.dimse import DICOMPorts, commitment_reports
from pacs_server.app.health import UPDATE_SECONDS, Health, HealthLog
from pacs_server.app.lifecycle import Part, RunningParts, Steps
from pacs_server.app.logging import Logging
from pacs_server.app.ports import Addresses, bind_ports
from pacs_server.app.routing import RoutingParts
from pacs_server.app.runtime import Runtime
from pacs_server.app.web import web_parts
from pacs_server.audit.auditor import Auditor
from pacs_server.audit.forward import Forwarder
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.audit.running import retention
from pacs_server.config.tls import ExpiryWatch
from pacs_server.errors import PacsError
from pacs_server.hl7.mllp import MLLPServer
from pacs_server.hl7.orders import OrderService
from pacs_server.index import commitment
from pacs_server.index.deliveries import FORWARD, DeliveryIndex, Forwarding
from pacs_server.index.presence import Presence
from pacs_server.index.remote_commitments import RemoteCommitmentIndex
from pacs_server.index.state import StateIndex
from pacs_server.intake.worklist_folder import WorklistFolder
from pacs_server.kit.periodic import DAY_SECONDS, Periodic
from pacs_server.outbox import prefetch
from pacs_server.outbox.cache import CacheKeeper
from pacs_server.outbox.commitment import CommitmentHandler
from pacs_server.outbox.commitment_asking import CommitmentAskingHandler, asking
from pacs_server.outbox.export import ExportHandler
from pacs_server.outbox.fetch import FetchHandler
from pacs_server.outbox.forward import ForwardHandler, probe_by
from pacs_server.outbox.handler import Handler
from pacs_server.outbox.polling import POLL, PollHandler, Polls
from pacs_server.outbox.retention import task_retention
from pacs_server.outbox.worker import Worker
from pacs_server.services.directory_exports import EXPORT
from pacs_server.services.export import ExportService
from pacs_server.services.fetching import FETCH
from pacs_server.services.remote_commitments import ASK_COMMITMENT
from pacs_server.upkeep.metadata_keeper import CONSUMER, MetadataKeeper
from pacs_server.upkeep.scrub import Scrub
from pacs_server.upkeep.trash_keeper import trash_keeper
from pacs_server.web.monitor import Monitor

log = logging.getLogger(__name__)

# How often what may be deleted after commitment is looked for, in seconds.
_DELETION_SECONDS = 3600.0
# How long a message that is being committed may take when the server stops, in seconds.
_HL7_STOP_SECONDS = 5.0


def server_parts(runtime: Runtime, running: RunningParts) -> Iterator[Part]:
    """Every part of a server; `running` holds them while it runs. Raises a PacsError if one cannot be made."""
    # The ports come first, so that a port in use changes nothing on disk.
    runtime.ports = bind_ports(runtime.config())
    runtime.addresses = Addresses.of(runtime.ports)
    yield runtime.ports
    yield Logging(runtime)
    runtime.archive = start_archive(runtime.config, runtime.metrics)
    yield runtime.archive
    yield from _audit_trail(runtime)
    yield Steps(start=partial(_recover, runtime))
    yield Steps(start=runtime.archive.archive.checkpoints.start)
    health = Health(runtime)
    runtime.metrics.watch_tasks(health.task_counts)
    runtime.metrics.watch_remotes(health.remote_counts)
    runtime.metrics.watch_polling(health.polling_counts)
    yield health
    yield from _worklist_sources(runtime)
    if runtime.ports.monitoring is not None:
        yield Monitor(
            runtime.ports.monitoring,
            metrics=runtime.metrics,
            status=running.status,
            not_ready=health.not_ready,
        )
    routing = RoutingParts(runtime)
    forward, fetch = _forward_handler(runtime, routing), _fetch_handler(runtime)
    yield Steps(stop=runtime.senders.stop)
    yield Worker(
        runtime.archive.tasks,
        {**_task_handlers(runtime), **routing.handlers(), FORWARD: forward, FETCH: fetch},
        stop_within=lambda: runtime.config().server.shutdown_timeout,
        closed=lambda: forward.closed() | fetch.closed(),
        presence=Presence(runtime.archive.database.file),
    )
    yield Polls(
        lambda: runtime.config().polling,
        runtime.archive.tasks,
        partial(prefetch.look, runtime.archive.prefetching, runtime.archive.tasks),
    )
    yield _cache(runtime)
    yield task_retention(runtime.archive.tasks)
    yield runtime.archive.peers
    yield _scrub(runtime)
    expiry = ExpiryWatch(runtime.config)
    yield expiry
    yield trash_keeper(
        runtime.archive.deletions, lambda: runtime.config().storage.trash_days, runtime.archive.audit.own
    )
    yield _deletions_after_commitment(runtime)
    yield Periodic("expiry", DAY_SECONDS, expiry.warn, at_once=False)
    yield Periodic("watch", UPDATE_SECONDS, HealthLog(health, stopping=lambda: runtime.stopping).update)
    yield from _metadata(runtime)
    yield routing.router()
    if runtime.ports.web is not None:
        yield from web_parts(runtime, running.status, routing)
    # Peers come in last, when everything else is ready for them, and leave first.
    yield DICOMPorts(runtime)


def _task_handlers(runtime: Runtime) -> dict[str, Handler]:
    """What runs each kind of background task. To add a kind of work, add one line."""
    archive = runtime.archive
    return {
        commitment.KIND: CommitmentHandler(archive.commitment, runtime.requestor()),
        ASK_COMMITMENT: CommitmentAskingHandler(
            RemoteCommitmentIndex(archive.database),
            runtime.pool,
            runtime.dimse_remote,
            lambda: [rule.name for rule in runtime.config().routing.rules if rule.deidentify or rule.changes],
            commitment_reports(runtime).serve_next,
        ),
        EXPORT: ExportHandler(ExportService(archive.retrieve, Auditor(archive.audit)), archive.directory_exports),
        POLL: PollHandler(
            lambda: runtime.config().polling,
            runtime.senders.remotes,
            archive.polling,
            OutgoingAuditor(archive.audit),
        ),
        prefetch.PREFETCH: prefetch.PrefetchHandler(
            runtime.senders.remotes,
            archive.prefetching,
            archive.polling,
            archive.worklist,
            OutgoingAuditor(archive.audit),
            tasks=archive.tasks,
        ),
    }


def _forward_handler(runtime: Runtime, routing: RoutingParts) -> ForwardHandler:
    archive = runtime.archive
    handler = ForwardHandler(
        DeliveryIndex(archive.database),
        archive.breakers,
        runtime.senders,
        tasks=archive.tasks,
        prepare=routing.prepare,
        auditor=Auditor(archive.audit),
        retrieve=archive.retrieve,
        counted=runtime.metrics.delivery,
    )
    handler.delivered = partial(_ask_for_commitment, runtime)
    return handler


def _fetch_handler(runtime: Runtime) -> FetchHandler:
    archive = runtime.archive
    return FetchHandler(
        runtime.senders.remotes,
        archive.store,
        archive.retrieve,
        OutgoingAuditor(archive.audit),
        tasks=archive.tasks,
        breakers=archive.breakers,
        probe=probe_by(runtime.senders),
        ae_title=lambda: runtime.config().server.ae_title,
        problem=archive.files.spool.problem,
        most=lambda name: remote.max_associations if (remote := runtime.config().remote(name)) else 1,
        ended=archive.polling.start_waiting,
    )


def _ask_for_commitment(runtime: Runtime, forwarding: Forwarding) -> None:
    """Have a remote asked to commit to the storage of what it got, if it is to be asked."""
    remote = runtime.config().remote(forwarding.remote)
    if remote is not None and remote.commitment:
        runtime.archive.tasks.add(asking(forwarding.remote, forwarding.study_instance_uid))


def _cache(runtime: Runtime) -> CacheKeeper:
    archive = runtime.archive
    return CacheKeeper(
        lambda: runtime.config().cache,
        runtime.senders.remotes,
        archive.polling,
        retrieve=archive.retrieve,
        deletions=archive.deletions,
        own=archive.audit.own,
        clock=archive.tasks.now,
    )


def _deletions_after_commitment(runtime: Runtime) -> Periodic:
    """Every hour, what remotes have committed to is deleted here, as rules say."""

    def delete() -> None:
        rules = runtime.config().routing.delete
        try:
            if rules:
                own = runtime.archive.audit.own
                runtime.archive.remote_commitments.delete(rules, own, deleter.stopping.is_set)
        except PacsError as error:
            log.warning("nothing deleted after commitment", extra={"reason": str(error)})

    deleter = Periodic("deletion", _DELETION_SECONDS, delete, at_once=False)
    return deleter


def _audit_trail(runtime: Runtime) -> Iterator[Part]:
    """The parts of the audit trail: it is sent on and pruned, and tells when the application started and stopped."""
    trail, audit = runtime.archive.trail, runtime.config().audit
    if trail is not None and audit.syslog_host is not None:
        forwarder = Forwarder(trail, audit, runtime.settings.audit_repository_tls, runtime.metrics)
        yield Steps(forwarder.start, forwarder.stop, lambda: forwarder.renew(runtime.settings.audit_repository_tls))
    if trail is not None:
        yield retention(trail, lambda: runtime.config().audit.retention_years)
    yield Steps(runtime.archive.audit.begin, runtime.archive.audit.end)


def _recover(runtime: Runtime) -> None:
    """Finish what a crash or an upgrade interrupted: changes of patients, instances being stored, and reports."""
    archive = runtime.archive
    archive.patients.catch_up()
    archive.recover(runtime.metrics.recovered)
    archive.commitment.take_over()


def _metadata(runtime: Runtime) -> Iterator[Part]:
    """The part that keeps metadata for the HTTP door; without the door nobody asks for them."""
    archive = runtime.archive
    if runtime.ports.web is None:
        yield Steps(start=lambda: archive.feed.leave(CONSUMER.name))
    else:
        yield MetadataKeeper(archive.metadata, archive.feed, StateIndex(archive.database))


def _worklist_sources(runtime: Runtime) -> Iterator[Part]:
    """The parts that take worklist items from elsewhere: the watched folder and the HL7 port, each if there is one."""
    settings, worklist, count = runtime.config().worklist, runtime.archive.worklist, runtime.metrics.worklist_input
    if settings.folder is not None:
        folder = WorklistFolder(
            settings.folder,
            worklist,
            interval=settings.folder_interval,
            taken=lambda accepted: count("folder", accepted=accepted),
        )
        yield Steps(partial(_start_folder, runtime, folder), folder.stop)
    if runtime.ports.hl7 is not None:
        orders = OrderService(worklist, taken=lambda accepted: count("hl7", accepted=accepted))
        server = MLLPServer(runtime.ports.hl7, orders.take)
        yield Steps(server.start, partial(server.stop, _HL7_STOP_SECONDS))


def _start_folder(runtime: Runtime, folder: WorklistFolder) -> None:
    try:
        folder.start()
    except OSError as error:
        raise runtime.config().error("worklist.folder", f"cannot be made: {error.strerror}") from None


def _scrub(runtime: Runtime) -> Scrub:
    archive = runtime.archive
    scrub = Scrub(
        archive.files.storage,
        archive.database,
        lambda: runtime.config().storage.scrub_rate,
        counted=runtime.metrics.scrubbed,
    )
    runtime.metrics.watch_scrub(scrub.findings)
    return scrub
