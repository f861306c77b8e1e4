"""Make the objects that the settings describe: the open archive with its services, the terms, the remote AEs."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pacs_server.archive.archive import Archive
from pacs_server.archive.changes import Feed
from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import NoAudit
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.trail import AuditTrail, open_trail
from pacs_server.audit.verification import TrailVerification
from pacs_server.config.model import Config
from pacs_server.config.passwords import PasswordChecker
from pacs_server.config.sections.polling import AT_ONCE
from pacs_server.config.sections.storage import StorageConfig
from pacs_server.config.tls import client_contexts
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.errors import IndexUnavailable, StorageUnavailable
from pacs_server.index import commitment, deliveries, remote_studies
from pacs_server.index.commitment import CommitmentIndex
from pacs_server.index.database import Database
from pacs_server.index.deletions import DeletionIndex
from pacs_server.index.deliveries import FORWARD, DeliveryIndex
from pacs_server.index.delivery_overview import DeliveryOverview
from pacs_server.index.history import HistoryIndex
from pacs_server.index.instances import InstanceIndex
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.listing import ListingIndex
from pacs_server.index.logins import KeyIndex, SessionIndex
from pacs_server.index.marks import MarkIndex
from pacs_server.index.metadata import MetadataIndex
from pacs_server.index.mpps import ProcedureStepIndex
from pacs_server.index.peers import PeerIndex
from pacs_server.index.prefetching import PrefetchIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.index.remote_commitments import RemoteCommitmentIndex
from pacs_server.index.remote_states import RemoteStateIndex
from pacs_server.index.remote_studies import RemoteStudyIndex
from pacs_server.index.scope import ScopeIndex
from pacs_server.index.share_links import ShareLinkIndex
from pacs_server.index.state import StateIndex
from pacs_server.index.statistics import StatisticsIndex
from pacs_server.index.study_list import StudyListIndex
from pacs_server.index.task_overview import TaskOverview
from pacs_server.index.tasks import TaskIndex
from pacs_server.index.worklist import WorklistIndex
from pacs_server.kit.metrics import Metrics
from pacs_server.kit.private_files import make_directory
from pacs_server.kit.words import counted
from pacs_server.net.acceptor import Acceptor, Terms
from pacs_server.net.association import Timeouts
from pacs_server.scp.contexts import supports
from pacs_server.scp.entity import EntitySettings
from pacs_server.scu.remote import RemoteAE
from pacs_server.services.api_keys import APIKeyService
from pacs_server.services.breakers import Breakers
from pacs_server.services.commitment import StorageCommitmentService, retry_policy
from pacs_server.services.deletion import DeletionService
from pacs_server.services.directory_exports import DirectoryExportService
from pacs_server.services.fetching import FETCH, FetchService
from pacs_server.services.fetching import retry_policy as fetching_policy
from pacs_server.services.forwarding import ForwardingService
from pacs_server.services.forwarding import retry_policy as forwarding_policy
from pacs_server.services.history import HistoryService
from pacs_server.services.listing import ListingService
from pacs_server.services.marks import MarkService
from pacs_server.services.metadata import MetadataService
from pacs_server.services.mpps import MPPSService
from pacs_server.services.patients import PatientService
from pacs_server.services.peers import PeersSeenService
from pacs_server.services.polling import PollingService
from pacs_server.services.prefetching import PrefetchService
from pacs_server.services.query import QueryService
from pacs_server.services.remote_commitments import RemoteCommitmentService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.sessions import Lasting, SessionService
from pacs_server.services.share_links import ShareLinkService, SharingTerms
from pacs_server.services.statistics import StatisticsService
from pacs_server.services.store import StoreService
from pacs_server.services.study_list import StudyListService
from pacs_server.services.tasks import TaskService
from pacs_server.services.worklist import WorklistService
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.assembly import files_of
from pacs_server.upkeep.known_faults import KnownFaults
from pacs_server.upkeep.recovery import recover


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenArchive:
    """The archive and the services on it, open for use; a part of a running server."""

    config: Callable[[], Config]
    resources: ExitStack
    database: Database
    files: ArchiveFiles
    archive: Archive
    feed: Feed
    store: StoreService
    queries: QueryService
    retrieve: RetrieveService
    metadata: MetadataService
    tasks: TaskService
    commitment: StorageCommitmentService
    forwarding: ForwardingService
    history: HistoryService
    breakers: Breakers
    fetching: FetchService
    polling: PollingService
    prefetching: PrefetchService
    worklist: WorklistService
    mpps: MPPSService
    peers: PeersSeenService
    listing: ListingService
    study_list: StudyListService
    statistics: StatisticsService
    faults: KnownFaults
    deletions: DeletionService
    directory_exports: DirectoryExportService
    marks: MarkService
    remote_commitments: RemoteCommitmentService
    patients: PatientService
    audit: Recorder
    trail: AuditTrail | None
    verification: TrailVerification | None
    passwords: PasswordChecker
    keys: APIKeyService
    sessions: SessionService
    share_links: ShareLinkService

    def reload(self) -> None:
        """Take over the settings that may change live; the services read theirs whenever they need them."""
        settings = self.config().storage
        self.files.spool.min_free_space = settings.min_free_space
        self.archive.duplicate_policy = settings.duplicate_policy

    def recover(self, counted: Callable[[str], None] = lambda outcome: None) -> None:
        """Deal with what dead processes left; `counted` is told each outcome. Raises what `upkeep.recovery` raises."""
        # A file without a row may be on its way into the trash.
        with self.deletions.settled():
            recover(self.archive, self.files, self.audit, counted)

    def stop(self) -> None:
        """Close the audit trail, the storage and the database."""
        self.statistics.stop()
        self.resources.close()


@contextmanager
def open_archive(config: Config) -> Iterator[OpenArchive]:
    """The open archive until the block ends. Raises what `start_archive` raises."""
    archive = start_archive(lambda: config)
    try:
        yield archive
    finally:
        archive.stop()


def start_archive(config: Callable[[], Config], metrics: Metrics | None = None) -> OpenArchive:
    """Open storage, index and audit trail, creating and migrating what is not there yet.

    `config` gives the settings as they are now. Raises StorageUnavailable, IndexUnavailable, SchemaError,
    AuditUnavailable, and ConfigError for the key of the audit trail; then nothing is left open.
    """
    resources = ExitStack()
    try:
        return _opened(config, metrics, resources)
    except BaseException:
        resources.close()
        raise


def _opened(config: Callable[[], Config], metrics: Metrics | None, resources: ExitStack) -> OpenArchive:
    files = files_of(config().storage)
    database = _open_database(config(), files, resources)
    archive = _open_instances(config().storage, files, database, metrics, resources)
    trail = resources.enter_context(open_trail(config().audit)) if config().audit.enabled else None
    audit = Recorder(trail or NoAudit(), lambda: config().server.ae_title)
    auditor = Auditor(audit)
    verification = (
        None if trail is None else resources.enter_context(TrailVerification(lambda: config().audit, auditor))
    )
    queries = QueryIndex(database)
    retrieve = RetrieveService(archive, queries)
    tasks = TaskService(
        TaskIndex(
            database, {commitment.KIND: commitment.follow, FORWARD: deliveries.follow, FETCH: remote_studies.follow}
        ),
        TaskOverview(database),
        {
            commitment.KIND: lambda: retry_policy(config().commitment),
            FORWARD: lambda: forwarding_policy(config().forwarding),
            FETCH: lambda: fetching_policy(config().fetching),
        },
        counted=metrics.task if metrics else None,
    )
    deletions = DeletionService(DeletionIndex(database), files, archive.checkpoints, audit)
    patients = PatientService(database, files.decisions, audit, lambda: config().server.ae_title)
    forwarding = ForwardingService(
        DeliveryIndex(database),
        DeliveryOverview(database),
        retrieve=retrieve,
        tasks=tasks,
        remotes=lambda: config().remote_aes,
        auditor=auditor,
    )
    sessions = SessionService(SessionIndex(database), lambda: _lasting(config()), StateIndex(database))
    return OpenArchive(
        fetching=FetchService(tasks, lambda: config().remote_aes, RemoteStudyIndex(database)),
        polling=PollingService(RemoteStudyIndex(database), tasks, lambda remote: _fetches_at_once(config(), remote)),
        forwarding=forwarding,
        history=HistoryService(HistoryIndex(database), forwarding, patients, deletions),
        breakers=Breakers(
            RemoteStateIndex(database),
            remotes=lambda: config().remote_aes,
            settings=lambda: config().forwarding,
            auditor=auditor,
        ),
        prefetching=PrefetchService(
            PrefetchIndex(database), ListingService(ListingIndex(database)), lambda: config().prefetch
        ),
        config=config,
        resources=resources,
        database=database,
        files=files,
        archive=archive,
        feed=Feed(database),
        store=StoreService(archive, ScopeIndex(database)),
        queries=QueryService(queries),
        retrieve=retrieve,
        metadata=MetadataService(retrieve, MetadataIndex(database)),
        tasks=tasks,
        commitment=StorageCommitmentService(
            archive,
            CommitmentIndex(database),
            tasks,
            lambda: config().commitment,
            counted=metrics.commitment if metrics else None,
        ),
        worklist=WorklistService(
            WorklistIndex(database), audit, only_own_station=lambda: config().worklist.only_own_station
        ),
        mpps=MPPSService(
            ProcedureStepIndex(database), discontinued_returns=lambda: config().worklist.discontinued_returns
        ),
        peers=PeersSeenService(PeerIndex(database)),
        listing=ListingService(ListingIndex(database)),
        study_list=StudyListService(StudyListIndex(database)),
        statistics=StatisticsService(StatisticsIndex(database)),
        faults=KnownFaults(archive, files.storage, IntegrityIndex(database), StateIndex(database)),
        marks=MarkService(MarkIndex(database), files.marks, audit),
        deletions=deletions,
        directory_exports=DirectoryExportService(
            tasks,
            retrieve,
            auditor,
            lambda: config().web.export_directory,
            lambda: config().storage.min_free_space,
        ),
        remote_commitments=RemoteCommitmentService(RemoteCommitmentIndex(database), tasks, deletions),
        patients=patients,
        audit=audit,
        trail=trail,
        verification=verification,
        passwords=PasswordChecker(),
        keys=APIKeyService(KeyIndex(database), audit),
        sessions=sessions,
        share_links=ShareLinkService(ShareLinkIndex(database), sessions, audit, lambda: _sharing(config())),
    )


def _open_instances(
    settings: StorageConfig, files: ArchiveFiles, database: Database, metrics: Metrics | None, resources: ExitStack
) -> Archive:
    """Open the files and the index of the instances, as one."""
    files.spool.prepare()
    index = InstanceIndex(database, on_commit=metrics.committed if metrics else None)
    _refuse_lost_files(files, index)
    resources.callback(files.spool.close)
    archive = Archive(
        files.storage,
        files.spool,
        index,
        naming=settings.naming,
        duplicate_policy=settings.duplicate_policy,
        counted=metrics.checkpoint if metrics else None,
    )
    resources.callback(archive.checkpoints.stop)
    return archive


def _lasting(config: Config) -> Lasting:
    return Lasting(config.web.sessions.lifetime, config.web.sessions.idle)


def _fetches_at_once(config: Config, remote: str) -> int:
    """How many studies of a remote may be fetched at a time, or wait for it in the queue of tasks."""
    return max((each.at_once for each in config.polling if each.remote == remote), default=AT_ONCE)


def _sharing(config: Config) -> SharingTerms:
    return SharingTerms(config.web.share_links.enabled, config.web.share_links.lifetime)


def _open_database(config: Config, files: ArchiveFiles, resources: ExitStack) -> Database:
    """Open the database with a schema of today, and hold the lock of the archive that it belongs to."""
    settings = config.database
    make_database_directory(config)
    fsync = config.storage.fsync != "off"
    database = Database(settings.sqlalchemy_url, wal_mode=settings.wal_mode, fsync=fsync)
    resources.callback(database.close)
    resources.enter_context(files.lock.shared())
    refuse_lost_index(files, database)
    if settings.auto_migrate:
        database.migrate()
    else:
        database.check_schema()
    return database


def make_database_directory(config: Config) -> None:
    """Make the directory of the embedded database if it is missing. Raises ConfigError."""
    directory = config.database.path.parent
    try:
        if config.database.url is None:
            make_directory(directory)
    except OSError as error:
        raise config.error("database.path", f"cannot make {directory}: {error.strerror}") from None


def refuse_lost_index(files: ArchiveFiles, database: Database) -> None:
    """Raise IndexUnavailable if the database is new and the archive is not: it would begin without its index."""
    if database.revision() is None:
        refuse_instances(files)


def refuse_instances(files: ArchiveFiles) -> None:
    """Raise IndexUnavailable if there are instances, whose index is missing."""
    if files.storage.holds_instances():
        raise IndexUnavailable(
            f"the database is empty and {files.name} holds instances: is it the right database? "
            "Put the index back, or make a new one with `pacs-server rebuild-index`"
        )


def _refuse_lost_files(files: ArchiveFiles, index: InstanceIndex) -> None:
    """Raise StorageUnavailable if the index knows instances and there is not a single file.

    A power loss may have taken the names of all there were, if they were few: then recovery finds them in their slots.
    """
    known = index.counts().instances
    if known and not files.storage.holds_instances() and not files.spool.count():
        raise StorageUnavailable(
            f"the index knows {counted(known, 'instance')} and {files.name} holds none: is its file system mounted?"
        )


def entity_settings(config: Config, tls: ssl.SSLContext | None) -> EntitySettings:
    """What holds for connections that begin under `config`."""
    server = config.server
    terms = Terms(
        max_pdu_size=server.max_pdu_size,
        association_timeout=server.association_timeout,
        timeouts=Timeouts(server.idle_timeout, server.network_timeout, server.message_timeout),
        implementation_class_uid=IMPLEMENTATION_CLASS_UID,
        implementation_version_name=IMPLEMENTATION_VERSION_NAME,
    )
    return EntitySettings(Acceptor(terms, supports(accept_unknown=config.storage.accept_unknown_sop_classes)), tls)


def remote_aes(config: Config) -> dict[str, RemoteAE]:
    """The remote AEs that this server may call, by AE title. Raises ConfigError if TLS to them cannot work."""
    contexts = client_contexts(config)
    return {
        remote.ae_title: RemoteAE(
            remote.ae_title,
            remote.host,
            remote.port,
            remote.connect_timeout,
            remote.response_timeout,
            contexts[remote.tls_check_hostname] if remote.tls else None,
            remote.name,
            remote.max_associations,
            remote.rate,
            remote.transfer_syntaxes,
            remote.commitment,
            remote.vendor,
        )
        for remote in config.remote_aes
        if remote.kind == "dimse"
    }
