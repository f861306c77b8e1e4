"""Instances sent to a remote by C-STORE, over associations of the pool (PS3.4 Annex B)."""

import logging
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Final, Self

from pydicom.uid import UID

from pacs_server.dicom.status import Status
from pacs_server.errors import StorageUnavailable, TranscodeError
from pacs_server.net.association import Association, MessageCut
from pacs_server.net.transport import AssociationEnded, DeadlineExpired
from pacs_server.scu.connect import read_response
from pacs_server.scu.faults import broken
from pacs_server.scu.plan import choose, plan
from pacs_server.scu.pool import Pool, PooledLink
from pacs_server.scu.read_ahead import ReadAhead
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.sending import Answer, OpenDataSet, Outgoing
from pacs_server.scu.store import store_request
from pacs_server.services.transcode import transcode

log = logging.getLogger(__name__)

Kind = tuple[str, str]

# PS3.7 C.5.6: SOP class not supported.
_NO_SUCH_SOP_CLASS: Final = 0x0122
# Refusals that say something about the instance, or about what the remote takes at all: it would be refused again.
_PERMANENT: Final = frozenset(
    {0x0106, 0x0111, 0x0115, 0x0117, _NO_SUCH_SOP_CLASS, Status.NOT_AUTHORISED, 0x0211, 0x0212}
)
# When so many associations have ended in a row, each while an instance was sent, the remote is at fault.
_BREAKS_IN_A_ROW: Final = 2


def is_permanent(status: int) -> bool:
    """Whether a C-STORE with this status would be answered the same again (PS3.4 B.2.3, PS3.7 Annex C).

    A700 is not permanent: a remote that is full today has room tomorrow.
    """
    return status in _PERMANENT or status & 0xFF00 == Status.DOES_NOT_MATCH_SOP_CLASS or status & 0xF000 == 0xC000


class DIMSESender:
    """Sends instances to one remote, over one association of the pool at a time.

    The association proposes what all instances so far need. Its contexts follow `remote.transfer_syntaxes`, and an
    instance is decompressed if the remote does not take it as it is.
    """

    def __init__(self, pool: Pool, remote: RemoteAE) -> None:
        self._pool = pool
        self._remote = remote
        self._kinds: set[Kind] = set()
        self._planned: frozenset[Kind] = frozenset()
        self._open: AbstractContextManager[PooledLink] | None = None
        self._link: PooledLink | None = None
        self._breaks = 0
        # What was opened while the answer before it was awaited.
        self._ahead: tuple[Outgoing, ReadAhead] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._forget_ahead()
        self._close(kind, error, traceback)

    def send(self, instance: Outgoing, upcoming: Outgoing | None = None) -> Answer:
        """Send one instance; see `Sender.send`. Raises also what `instance.open` raises."""
        link = self._link_for((instance.sop_class_uid, instance.transfer_syntax_uid))
        if link is None:
            detail = f"transfer_syntaxes of {self._remote.name} has none in which it can be sent"
            return Answer(_NO_SUCH_SOP_CLASS, permanent=True, detail=detail)
        try:
            answer = link.exchange(lambda association: self._store(association, instance, upcoming, link.name))
        except AssociationEnded as ended:
            # If the message was cut, it is the stored object that could not be read on.
            self._breaks += not isinstance(ended, MessageCut)
            if isinstance(ended, DeadlineExpired) or self._breaks >= _BREAKS_IN_A_ROW:
                raise broken(self._remote, ended) from ended
            # Perhaps this instance is what the remote cannot bear: the others are tried.
            detail = f"the association ended while it was sent: {ended.how}"
            return Answer(Status.PROCESSING_FAILURE, detail=detail, association=link.name)
        self._breaks = 0
        return answer

    def expect(self, *kinds: Kind) -> None:
        """Say which kinds of instances (SOP class, transfer syntax) will be sent: saves associations."""
        self._kinds.update(kinds)

    def _link_for(self, kind: Kind) -> PooledLink | None:
        """The link for instances of this kind, None if `remote.transfer_syntaxes` leave nothing to propose."""
        if self._link is None or kind not in self._planned:
            self._close()
            self._kinds.add(kind)
            plans = plan(self._kinds, self._remote.transfer_syntaxes)
            planned = next(each for each in plans if kind in each.kinds)
            if not planned.contexts:
                return None
            self._planned = planned.kinds
            self._open = self._pool.link(self._remote, planned.contexts)
            self._link = self._open.__enter__()
        return self._link

    def _close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        opened, self._open, self._link = self._open, None, None
        if opened is not None:
            opened.__exit__(kind, error, traceback)

    def _store(self, association: Association, instance: Outgoing, upcoming: Outgoing | None, name: str) -> Answer:
        """Store one instance; the answer of the remote, or why nothing was sent."""
        choice = choose(association.contexts_as_scu, instance.sop_class_uid, instance.transfer_syntax_uid)
        if choice is None:
            return self._not_accepted(association, instance, name)
        context_id, transfer_syntax = choice
        request = store_request(association, instance.sop_class_uid, instance.uids.sop)
        try:
            source = self._opened(instance)
            if isinstance(source, bytes) or transfer_syntax != instance.transfer_syntax_uid:
                data = source if isinstance(source, bytes) else _whole(source)
                association.send(context_id, request, transcode(data, instance.transfer_syntax_uid, transfer_syntax))
            else:
                with source:
                    association.send_source(context_id, request, source)
        except TranscodeError as error:
            return Answer(Status.PROCESSING_FAILURE, permanent=True, detail=str(error), association=name)
        if upcoming is not None:
            self._open_ahead(association, upcoming)
        response = read_response(association, request)
        return self._answer(response.status, response.error_comment, name)

    def _open_ahead(self, association: Association, instance: Outgoing) -> None:
        """Open what is to be sent next, if it is sent as it is; what fails now fails again in its turn."""
        accepted = association.contexts_as_scu
        if self._ahead is not None or (instance.sop_class_uid, instance.transfer_syntax_uid) not in accepted:
            return
        with suppress(StorageUnavailable):
            source = instance.open()
            if not isinstance(source, bytes):
                self._ahead = (instance, ReadAhead(source))

    def _opened(self, instance: Outgoing) -> OpenDataSet | bytes:
        ahead = self._ahead
        if ahead is not None and ahead[0] is instance:
            self._ahead = None
            return ahead[1]
        self._forget_ahead()
        return instance.open()

    def _forget_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].close()

    def _answer(self, status: int | None, comment: str | None, name: str) -> Answer:
        if status is None:
            detail = f"{self._remote.name} answered without a status"
            return Answer(Status.CANNOT_UNDERSTAND, permanent=False, detail=detail, association=name)
        if status == Status.SUCCESS:
            return Answer(status, association=name)
        detail = f"{self._remote.name} answered {status:04X}" + (f": {comment}" if comment else "")
        return Answer(status, is_permanent(status), detail, name)

    def _not_accepted(self, association: Association, instance: Outgoing, name: str) -> Answer:
        accepted = association.contexts_as_scu
        taken = sorted(UID(syntax).name for sop_class, syntax in accepted if sop_class == instance.sop_class_uid)
        stored = UID(instance.transfer_syntax_uid).name
        why = f"takes {UID(instance.sop_class_uid).name} " + (f"only in {', '.join(taken)}" if taken else "not at all")
        detail = f"{self._remote.name} {why}; it is stored in {stored}"
        return Answer(_NO_SUCH_SOP_CLASS, permanent=True, detail=detail, association=name)


def _whole(source: OpenDataSet) -> bytes:
    with source:
        return source.read(0, source.size)
