"""C-GET: instances come on the association that asks for them (PS3.4 C.4.3)."""

import logging
import time
from typing import Final

from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import clean_uid
from pacs_server.errors import PacsError
from pacs_server.net.association import Association, Message
from pacs_server.net.message import RESPONSE, Command, CommandField
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.net.transport import DeadlineExpired
from pacs_server.scu.find import ask_to_stop
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.request import context_of, data_set_of, encoded
from pacs_server.scu.retrieving import GET, Progress, Retrieved, Take, Wanted, status_of

log = logging.getLogger(__name__)

_MOST_REASONS: Final = 5


def get(association: Association, remote: RemoteAE, wanted: Wanted, take: Take, progress: Progress) -> Retrieved:
    """Ask for instances and give each of them to `take` while it arrives. Raises AssociationEnded and RemoteError."""
    context_id, sop_class, transfer_syntax = context_of(association, remote, *GET)
    request = Command(
        command_field=CommandField.C_GET,
        message_id=association.next_message_id(),
        affected_sop_class_uid=sop_class,
        priority=0,
    )
    association.send(context_id, request, encoded(data_set_of(wanted.keys()), transfer_syntax))
    done, ends = Retrieved("C-GET"), 0.0
    while True:
        message = association.read_message()
        if message.command.command_field == CommandField.C_STORE:
            _store(association, message, take, done)
        elif _ends(association, message.command, request, done):
            return done
        progress.told(done)
        if not ends and progress.stop():
            ends = ask_to_stop(association, context_id, request)
        elif ends and time.monotonic() > ends:
            raise DeadlineExpired("it went on after a C-CANCEL")


def _ends(association: Association, response: Command, request: Command, done: Retrieved) -> bool:
    """Take a response to the C-GET; whether it is the final one."""
    wanted = (request.command_field or 0) | RESPONSE
    if response.command_field != wanted or response.message_id_being_responded_to != request.message_id:
        raise ProtocolError("response to something else than was asked", AbortReason.UNEXPECTED_PDU)
    association.skip_data()
    association.busy = False
    done.count(response)
    done.status = response.status
    if response.error_comment and response.status not in (Status.SUCCESS, Status.PENDING):
        done.reasons.append(response.error_comment)
    return response.status != Status.PENDING


def _store(association: Association, message: Message, take: Take, done: Retrieved) -> None:
    """Store one instance of a sub-operation and answer."""
    command, context = message.command, message.context
    status = Status.SUCCESS
    uid = clean_uid(command.affected_sop_instance_uid or "")
    try:
        take(context.abstract_syntax, uid, context.transfer_syntax, association.data())
        done.taken += 1
    except PacsError as error:
        status = Status(status_of(error))
        log.warning("instance not fetched", extra={"sop_instance_uid": uid, "reason": str(error)})
        if len(done.reasons) < _MOST_REASONS:
            done.reasons.append(f"{uid}: {error}")
    association.skip_data()
    association.busy = False
    response = Command(
        command_field=CommandField.C_STORE | RESPONSE,
        message_id_being_responded_to=command.message_id,
        affected_sop_class_uid=command.affected_sop_class_uid,
        affected_sop_instance_uid=command.affected_sop_instance_uid,
        status=status,
    )
    association.send(context.context_id, response)
