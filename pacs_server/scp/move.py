"""Query/Retrieve MOVE SCP (PS3.4 C.4.2): the instances go to another AE, over associations that we request."""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from pacs_server.audit.events import Participant, Role
from pacs_server.dicom.identifier import parse_retrieve
from pacs_server.dicom.status import Status
from pacs_server.errors import UnknownMoveDestination
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.metrics import Metrics
from pacs_server.net.acceptor import Terms
from pacs_server.net.association import Association, Message
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded
from pacs_server.scp.access import check_destination
from pacs_server.scp.auditing import Auditing
from pacs_server.scp.dispatch import Result
from pacs_server.scp.find import identifier_of, model_of
from pacs_server.scp.get import relational
from pacs_server.scp.suboperations import Progress, cancel_requested, counts_of, finish, pending_response, send_instance
from pacs_server.scu.connect import connect, read_response, store_request
from pacs_server.scu.plan import AssociationPlan, plan
from pacs_server.scu.remote import RemoteAE
from pacs_server.services.retrieve import RetrieveService

log = logging.getLogger(__name__)


class QueryRetrieveMoveSCP:
    """Answers C-MOVE."""

    def __init__(
        self,
        retrieve: RetrieveService,
        destinations: Callable[[str], RemoteAE | None],
        terms: Callable[[], Terms],
        ae_title: Callable[[], str],
        *,
        auditing: Auditing,
        metrics: Metrics,
    ) -> None:
        """`destinations` finds a remote AE by title; `terms` are those of our own associations."""
        self._retrieve = retrieve
        self._destinations = destinations
        self._terms = terms
        self._ae_title = ae_title
        self._auditing = auditing
        self._metrics = metrics

    def __call__(self, association: Association, message: Message) -> Result:
        """Send every instance to the destination, each with its own outcome, then the final response."""
        data = identifier_of(association, message)
        title = (message.command.move_destination or "").strip()
        # First, so that nobody learns from the answer which other destinations there are.
        check_destination(association.admitted.rule, title)
        destination = self._destinations(title)
        if destination is None:
            raise UnknownMoveDestination(f"{title or 'no AE title'} is not in remote_aes")
        model = model_of(message)
        keys = parse_retrieve(data, message.context.transfer_syntax, model, relational(association, message))
        instances = self._retrieve.select(keys)
        subjects = self._retrieve.subjects
        to = Participant(title, title, destination.host, Role.DESTINATION)
        with self._auditing.sending(association, lambda: subjects(instances), counts_of(instances), to) as sent:
            move = _Move(self, association, message, destination, Progress(len(instances), sent))
            cancelled = move.run(instances)
        result = finish(association, message, move.progress, self._metrics, cancelled=cancelled)
        return replace(result, details={"destination": title, **result.details})

    def open(self, destination: RemoteAE, planned: AssociationPlan) -> Association:
        """Open an association for what is planned. Raises AssociationEnded."""
        contexts = [
            ProposedContext(context_id, context.abstract_syntax, context.transfer_syntaxes)
            for context_id, context in planned.contexts.items()
        ]
        return connect(destination, self._ae_title(), contexts, self._terms())

    def send(self, link: Association, message: Message, instance: StoredInstance, originator: str) -> int:
        """Send one instance over `link` and return the status it was answered with. Raises AssociationEnded."""
        request = store_request(link, instance.sop_class_uid, instance.uids.sop)
        # PS3.7 9.3.1.1: a sub-operation says who asked for it.
        request.move_originator_ae_title = originator
        request.move_originator_message_id = message.command.message_id
        failure = send_instance(link, self._retrieve, instance, request)
        if failure is not None:
            return failure
        status = read_response(link, request).status
        return Status.CANNOT_UNDERSTAND if status is None else status


class _Move:
    """One running C-MOVE."""

    def __init__(
        self,
        scp: QueryRetrieveMoveSCP,
        association: Association,
        message: Message,
        destination: RemoteAE,
        progress: Progress,
    ) -> None:
        self.progress = progress
        self._scp = scp
        self._association = association
        self._message = message
        self._destination = destination

    def run(self, instances: list[StoredInstance]) -> bool:
        """Send all; True if it was cancelled."""
        for planned in plan((i.sop_class_uid, i.transfer_syntax_uid) for i in instances):
            queue = deque(i for i in instances if (i.sop_class_uid, i.transfer_syntax_uid) in planned.kinds)
            while queue:
                if self._over_one_association(planned, queue):
                    return True
        return False

    def _over_one_association(self, planned: AssociationPlan, queue: deque[StoredInstance]) -> bool:
        """Send what is queued until all is sent, the link breaks or it is cancelled, which returns True.

        A link that breaks costs the instance that was on it; the next call opens another for the
        rest. One that cannot be opened costs all of them: nobody waits for a dead host twice.
        """
        try:
            link = self._scp.open(self._destination, planned)
            # Who asks for it is who it is counted against.
            link.pace = self._association.pace
        except AssociationEnded as error:
            self._failed(queue, len(queue), error)
            return cancel_requested(self._association, self._message)
        released = False
        try:
            cancelled = self._send_queued(link, queue)
            self._release(link)
            released = True
            return cancelled
        except _LinkBroken as broken:
            # Without a success on it there is nothing to hope for from another one.
            self._failed(queue, 1 if broken.sent else len(queue), broken.reason)
            return cancel_requested(self._association, self._message)
        finally:
            if not released:
                link.abort()
            link.transport.close()

    def _send_queued(self, link: Association, queue: deque[StoredInstance]) -> bool:
        sent = 0
        while queue:
            try:
                status = self._scp.send(link, self._message, queue[0], self._association.calling_ae)
            except AssociationEnded as error:
                raise _LinkBroken(error, sent) from error
            self.progress.count(queue.popleft(), status)
            sent += 1
            if cancel_requested(self._association, self._message):
                return True
            if self.progress.remaining:
                self._tell()
        return False

    def _tell(self) -> None:
        response = pending_response(self._message, self.progress)
        self._association.send(self._message.context.context_id, response)

    def _release(self, link: Association) -> None:
        try:
            link.release()
        except AssociationEnded as error:
            # Everything was answered before; how the link ends changes nothing.
            log.info("destination did not release", extra={"reason": error.how})

    def _failed(self, queue: deque[StoredInstance], count: int, error: AssociationEnded) -> None:
        log.warning(
            "sub-operations failed",
            extra={"destination": self._destination.ae_title, "instances": count, "reason": error.how},
        )
        for _ in range(count):
            self.progress.count(queue.popleft(), Status.PROCESSING_FAILURE)
        if self.progress.remaining:
            self._tell()


class _LinkBroken(Exception):
    def __init__(self, reason: AssociationEnded, sent: int) -> None:
        super().__init__(reason.how)
        self.reason = reason
        self.sent = sent
