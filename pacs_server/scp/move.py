"""Query/Retrieve MOVE SCP (PS3.4 C.4.2): the instances go to another AE, over associations that we request."""

from collections.abc import Sequence

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import Participant, Role
from pacs_server.dicom.identifier import parse_retrieve
from pacs_server.errors import UnknownMoveDestination
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.scp.dispatch import Result
from pacs_server.scp.find import identifier_of, model_of
from pacs_server.scp.get import relational
from pacs_server.scp.suboperations import SubOperations
from pacs_server.scu.link import Requestor
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.store import MoveOriginator, StorageSCU
from pacs_server.services.access import check_destination
from pacs_server.services.retrieve import RetrieveService, counts_of


class QueryRetrieveMoveSCP:
    """Answers C-MOVE."""

    def __init__(self, retrieve: RetrieveService, requestor: Requestor, auditor: Auditor, metrics: Metrics) -> None:
        self._retrieve = retrieve
        self._remote = requestor.remote
        self._storage = StorageSCU(requestor, retrieve)
        self._auditor = auditor
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send every instance to the destination, each with its own outcome, then the final response."""
        data = identifier_of(association, message)
        destination = self._destination(association, message)
        title = destination.ae_title
        model = model_of(message)
        keys = parse_retrieve(data, message.context.transfer_syntax, model, relational(association, message))
        instances = self._retrieve.select(keys, association.caller.scope)
        subjects = self._retrieve.subjects
        to = Participant(title, title, destination.host, Role.DESTINATION)
        caller, counts = association.caller, counts_of(instances)
        with self._auditor.sending(caller, lambda: subjects(instances), counts, to) as sent:
            suboperations = SubOperations(association, message, len(instances), sent)
            cancelled = self._send(destination, instances, suboperations)
        result = suboperations.finish(self._metrics, cancelled=cancelled)
        return result._replace(details={"destination": title, **result.details})

    def _destination(self, association: Association, message: Message) -> RemoteAE:
        title = (message.command.move_destination or "").strip()
        # Access is checked first, so that nobody learns from the answer which other destinations there are.
        check_destination(association.caller, title)
        destination = self._remote(title)
        if destination is None:
            raise UnknownMoveDestination(f"{title or 'no AE title'} is not in remote_aes")
        return destination

    def _send(self, destination: RemoteAE, instances: Sequence[StoredInstance], suboperations: SubOperations) -> bool:
        """Send all instances; return whether a C-CANCEL ended the operation."""
        association, message = suboperations.association, suboperations.message

        def report(ended: Sequence[StoredInstance], status: int) -> bool:
            for instance in ended:
                suboperations.count(instance, status)
            if suboperations.cancel_requested():
                return True
            # At least one, even if nothing remains: GDCM, which is both requester and destination, answers the release
            # of the other association only after a pending response.
            if suboperations.remaining or len(instances) == 1:
                association.send(message.context.context_id, suboperations.pending_response())
            return False

        originator = MoveOriginator(association.calling_ae, message.command.message_id)
        # The data rate of the AE that asks is the limit, because the instances are sent on its behalf.
        return self._storage.send(destination, instances, report, originator=originator, throttle=association.throttle)
