"""The services that the HTTP door stands on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.trail import AuditTrail
from pacs_server.audit.verification import TrailVerification
from pacs_server.config.model import Config
from pacs_server.config.passwords import PasswordChecker
from pacs_server.kit.metrics import Metrics
from pacs_server.scu.queries import RemoteQueries
from pacs_server.services.api_keys import APIKeyService
from pacs_server.services.associations import OpenAssociation, RecentAssociations
from pacs_server.services.breakers import Breakers
from pacs_server.services.deidentifying import DeidentifyingService
from pacs_server.services.deletion import DeletionService
from pacs_server.services.directory_exports import DirectoryExportService
from pacs_server.services.events import EventHub
from pacs_server.services.export import ExportService
from pacs_server.services.fetching import FetchService
from pacs_server.services.forwarding import ForwardingService
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
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.rule_engine import RuleEngine
from pacs_server.services.sessions import SessionService
from pacs_server.services.share_links import ShareLinkService
from pacs_server.services.statistics import StatisticsService
from pacs_server.services.store import StoreService
from pacs_server.services.study_list import StudyListService
from pacs_server.services.tasks import TaskService
from pacs_server.services.users import UserService
from pacs_server.services.worklist import WorklistService
from pacs_server.upkeep.known_faults import KnownFaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What the server speaks, by the names of the Standard, and its conformance statement in Markdown."""

    sop_classes: Sequence[str]
    storage_sop_classes: Sequence[str]
    transfer_syntaxes: Sequence[str]
    statement: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """What the HTTP door stands on; `config` gives the settings as they are now."""

    config: Callable[[], Config]
    queries: QueryService
    retrieve: RetrieveService
    metadata: MetadataService
    exports: ExportService
    directory_exports: DirectoryExportService
    deidentifying: DeidentifyingService
    store: StoreService
    stores_class: Callable[[str], bool]
    deletions: DeletionService
    marks: MarkService
    patients: PatientService
    worklist: WorklistService
    mpps: MPPSService
    tasks: TaskService
    fetching: FetchService
    polling: PollingService
    prefetching: PrefetchService
    remotes: RemoteQueries
    rules: RuleEngine
    forwarding: ForwardingService
    history: HistoryService
    breakers: Breakers
    peers: PeersSeenService
    passwords: PasswordChecker
    sessions: SessionService
    share_links: ShareLinkService
    auditor: Auditor
    metrics: Metrics
    listing: ListingService
    study_list: StudyListService
    statistics: StatisticsService
    faults: KnownFaults
    users: UserService
    keys: APIKeyService
    events: EventHub
    recent_associations: RecentAssociations
    # The audit trail to search in, None if it is switched off.
    trail: AuditTrail | None
    verification: TrailVerification | None
    # The associations that are open now, the oldest first.
    associations: Callable[[], list[OpenAssociation]]
    spoken: Spoken
    # Reads the configuration again, and says whether that was possible.
    reload: Callable[[], bool]
    # The sections of the status page.
    status: Callable[[], Mapping[str, object]]
