"""The DICOM ports of a running server: which peers may associate, and which service answers which command."""

import logging

from pacs_server.app.runtime import Runtime
from pacs_server.audit.auditor import Auditor
from pacs_server.config.sections.server import ServerConfig
from pacs_server.kit.logs import Sparingly
from pacs_server.net.listener import ConnectionLimits, Listener
from pacs_server.net.message import CommandField
from pacs_server.scp.admission import Admission
from pacs_server.scp.auditing import AssociationAuditor
from pacs_server.scp.commitment_reports import CommitmentReportSCU
from pacs_server.scp.contexts import Service
from pacs_server.scp.dispatch import Dispatcher, Handlers
from pacs_server.scp.echo import VerificationSCP
from pacs_server.scp.entity import ApplicationEntity
from pacs_server.scp.find import QueryRetrieveFindSCP
from pacs_server.scp.get import QueryRetrieveGetSCP
from pacs_server.scp.move import QueryRetrieveMoveSCP
from pacs_server.scp.mpps import ModalityPerformedProcedureStepSCP
from pacs_server.scp.storage_commitment import StorageCommitmentSCP
from pacs_server.scp.store import StorageSCP
from pacs_server.scp.user_identity import UserIdentification
from pacs_server.scp.worklist import ModalityWorklistSCP

log = logging.getLogger(__name__)


class DICOMPorts:
    """Accepts associations and serves them; the part that starts last and stops first."""

    def __init__(self, runtime: Runtime) -> None:
        config, archive, ports = runtime.config(), runtime.archive, runtime.ports
        auditor = Auditor(archive.audit)
        associations = AssociationAuditor(auditor)
        self._runtime = runtime
        self._limits = _limits_of(config.server)
        self._sparingly = Sparingly(log)
        self._identification = UserIdentification(config.user_identity, archive.passwords)
        self._admission = runtime.seams.admission(
            Admission(config.server, config.access_control, identify=self._identification.identify)
        )
        self._entity = ApplicationEntity(
            runtime.settings.entity,
            self._admission,
            Dispatcher(
                runtime.seams.handlers(_handlers(runtime, auditor, associations)), associations, runtime.metrics
            ),
            runtime.metrics,
            runtime.connections.established,
            peers=archive.peers,
            auditor=associations,
            recent=runtime.recent,
            transport=runtime.seams.transport,
        )
        self._listeners = [
            Listener(
                sock,
                runtime.connections,
                serve=self._entity.serve,
                limits=self._connection_limits,
                refused=self._refused,
                tls=sock is ports.tls,
            )
            for sock in {ports.dicom, ports.tls}
            if sock is not None
        ]

    def start(self) -> None:
        """Listen. If one port cannot be served, connections that came in by another one are ended too."""
        try:
            for listener in self._listeners:
                listener.start()
        except BaseException:
            self.stop()
            raise

    def reload(self) -> None:
        """Take over the settings for associations that begin from now on; those in force keep theirs."""
        config = self._runtime.config()
        self._limits = _limits_of(config.server)
        self._admission.configure(config.server, config.access_control)
        self._identification.configure(config.user_identity)
        self._entity.settings = self._runtime.settings.entity

    def stop(self) -> None:
        """Accept no more, let running operations end within `server.shutdown_timeout`, and abort the rest."""
        runtime = self._runtime
        runtime.stopping = True
        log.info("stopping", extra={"associations": runtime.connections.associations()})
        for listener in self._listeners:
            listener.stop()
        runtime.connections.drain(runtime.config().server.shutdown_timeout)
        runtime.abort()
        log.info("stopped")

    def _connection_limits(self) -> ConnectionLimits:
        return self._limits

    def _refused(self, limit: str, address: str) -> None:
        self._runtime.metrics.rejected(limit)
        self._runtime.recent.refused(address, limit, tls=False)
        self._sparingly.log(logging.WARNING, "connection refused", address, limit)


def _limits_of(server: ServerConfig) -> ConnectionLimits:
    return ConnectionLimits(server.max_connections, server.max_connections_per_address)


def commitment_reports(runtime: Runtime) -> Dispatcher:
    """What takes the reports of remotes on associations that asked them for storage commitment."""
    archive, auditor = runtime.archive, Auditor(runtime.archive.audit)
    reports = CommitmentReportSCU(archive.remote_commitments, runtime.title_of, auditor)
    handlers: Handlers = {(Service.COMMITMENT, CommandField.N_EVENT_REPORT): reports}
    return Dispatcher(handlers, AssociationAuditor(auditor), runtime.metrics)


def _handlers(runtime: Runtime, auditor: Auditor, associations: AssociationAuditor) -> Handlers:
    """The service that answers each command."""
    archive, metrics = runtime.archive, runtime.metrics
    steps = ModalityPerformedProcedureStepSCP(archive.mpps, auditor, metrics)
    return {
        (Service.VERIFICATION, CommandField.C_ECHO): VerificationSCP(),
        (Service.STORAGE, CommandField.C_STORE): StorageSCP(archive.store, associations, metrics),
        (Service.FIND, CommandField.C_FIND): QueryRetrieveFindSCP(archive.queries, runtime.ae_title, auditor, metrics),
        (Service.GET, CommandField.C_GET): QueryRetrieveGetSCP(archive.retrieve, auditor, metrics),
        (Service.MOVE, CommandField.C_MOVE): QueryRetrieveMoveSCP(archive.retrieve, runtime.moves, auditor, metrics),
        (Service.COMMITMENT, CommandField.N_ACTION): StorageCommitmentSCP(
            archive.commitment,
            runtime.ae_title,
            lambda: runtime.config().commitment.same_association,
            auditor,
            archive.retrieve.subjects_of,
        ),
        (Service.COMMITMENT, CommandField.N_EVENT_REPORT): CommitmentReportSCU(
            archive.remote_commitments, runtime.title_of, auditor
        ),
        (Service.WORKLIST, CommandField.C_FIND): ModalityWorklistSCP(archive.worklist, auditor, metrics),
        (Service.MPPS, CommandField.N_CREATE): steps.create,
        (Service.MPPS, CommandField.N_SET): steps.set,
        (Service.MPPS_RETRIEVE, CommandField.N_GET): steps.get,
    }
