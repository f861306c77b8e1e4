"""The services that the HTTP door stands on."""

from collections.abc import Callable
from dataclasses import dataclass

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.recorder import Recorder
from pacs_server.config.model import Config
from pacs_server.kit.metrics import Metrics
from pacs_server.services.deletion import DeletionService
from pacs_server.services.metadata import MetadataService
from pacs_server.services.mpps import MPPSService
from pacs_server.services.patients import PatientService
from pacs_server.services.peers import PeersSeenService
from pacs_server.services.query import QueryService
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.store import StoreService
from pacs_server.services.tasks import TaskService
from pacs_server.services.worklist import WorklistService


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """What the HTTP door stands on; `config` gives the settings as they are now."""

    config: Callable[[], Config]
    queries: QueryService
    retrieve: RetrieveService
    metadata: MetadataService
    store: StoreService
    deletions: DeletionService
    patients: PatientService
    worklist: WorklistService
    mpps: MPPSService
    tasks: TaskService
    peers: PeersSeenService
    audit: Recorder
    auditor: Auditor
    metrics: Metrics
