"""N-CREATE, N-SET and N-ACTION as SCU: procedure steps reported to a remote, and its commitment asked for.

Procedure steps: PS3.4 F.7.2. Storage commitment: PS3.4 J.3.2.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pacs_server.dicom.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from pacs_server.dicom.status import Status, is_warning
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import AssociationEnded, DeadlineExpired
from pacs_server.scu.connect import read_response
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.request import SYNTAXES, context_of, encoded, refusal

log = logging.getLogger(__name__)

PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
# PS3.4 J.3.2.1.1: the action type of a request for storage commitment.
_REQUEST: Final = 1
# How often to look whether the report came, here or on another association, in seconds.
_LOOK_SECONDS: Final = 0.1


def create_step(pool: Pool, remote: RemoteAE, uid: str, attributes: Mapping[str, Any]) -> None:
    """Report a new procedure step, its attributes in the DICOM JSON Model. Raises RemoteError and its kinds."""
    request = Command(
        command_field=CommandField.N_CREATE, affected_sop_class_uid=PROCEDURE_STEP, affected_sop_instance_uid=uid
    )
    _send(pool, remote, PROCEDURE_STEP, request, attributes)


def set_step(pool: Pool, remote: RemoteAE, uid: str, attributes: Mapping[str, Any]) -> None:
    """Report what changed in a procedure step, such as that it is completed. Raises as `create_step`."""
    request = Command(
        command_field=CommandField.N_SET, requested_sop_class_uid=PROCEDURE_STEP, requested_sop_instance_uid=uid
    )
    _send(pool, remote, PROCEDURE_STEP, request, attributes)


@dataclass(frozen=True, slots=True)
class Listening:
    """How to wait for a report on the association that asked for it.

    `serve` serves one message, which has to begin within so many seconds, and raises AssociationEnded. The wait ends
    when `is_reported`, and after `seconds`.
    """

    serve: Callable[[Association, float], None]
    is_reported: Callable[[], bool]
    seconds: float


def request_commitment(
    pool: Pool, remote: RemoteAE, transaction_uid: str, references: Iterable[tuple[str, str]], listening: Listening
) -> None:
    """Ask a remote to commit to the storage of instances, (SOP class, SOP Instance UID) each.

    PS3.4 J.3.3: its report comes by N-EVENT-REPORT, on this association for as long as `listening` says, or later on
    one that the remote opens. Raises as `create_step`; nothing is raised because of the report.
    """
    request = Command(
        command_field=CommandField.N_ACTION,
        requested_sop_class_uid=PUSH_MODEL,
        requested_sop_instance_uid=PUSH_MODEL_INSTANCE,
        action_type_id=_REQUEST,
    )
    with pool.association(remote, (ProposedContext(1, PUSH_MODEL, SYNTAXES),)) as association:
        context_id, _, transfer_syntax = context_of(association, remote, PUSH_MODEL)
        request.message_id = association.next_message_id()
        answers: list[Command | None] = []
        association.expect(request, answers.append)
        association.send(context_id, request, encoded(_commitment_of(transaction_uid, references), transfer_syntax))
        _check(remote, request, _answer(association, answers, listening))
        _listen(association, listening)


def _answer(association: Association, answers: Sequence[Command | None], listening: Listening) -> Command:
    """The answer to the request; remotes that report at once may be faster than their own answer."""
    ends = time.monotonic() + association.timeouts.idle
    while not answers:
        left = ends - time.monotonic()
        if left <= 0:
            raise DeadlineExpired("no answer to the request")
        listening.serve(association, left)
    return answers[0] or Command()


def _listen(association: Association, listening: Listening) -> None:
    ends = time.monotonic() + listening.seconds
    try:
        while (left := ends - time.monotonic()) > 0 and not listening.is_reported():
            if association.waiting():
                listening.serve(association, left)
            else:
                association.transport.pause(min(left, _LOOK_SECONDS))
    except AssociationEnded as ended:
        log.info("remote ended the association that asked for commitment", extra={"reason": ended.how})


def _commitment_of(transaction_uid: str, references: Iterable[tuple[str, str]]) -> dict[str, Any]:
    items = [
        {"00081150": {"vr": "UI", "Value": [sop_class]}, "00081155": {"vr": "UI", "Value": [uid]}}
        for sop_class, uid in references
    ]
    return {
        "00081195": {"vr": "UI", "Value": [transaction_uid]},
        "00081199": {"vr": "SQ", "Value": items},
    }


def _send(pool: Pool, remote: RemoteAE, sop_class: str, request: Command, data_set: Mapping[str, Any]) -> None:
    with pool.association(remote, (ProposedContext(1, sop_class, SYNTAXES),)) as association:
        _exchange(association, remote, sop_class, request, data_set)


def _exchange(
    association: Association, remote: RemoteAE, sop_class: str, request: Command, data_set: Mapping[str, Any]
) -> None:
    context_id, _, transfer_syntax = context_of(association, remote, sop_class)
    request.message_id = association.next_message_id()
    association.send(context_id, request, encoded(data_set, transfer_syntax))
    _check(remote, request, read_response(association, request))


def _check(remote: RemoteAE, request: Command, response: Command) -> None:
    if response.status is None or not (response.status == Status.SUCCESS or is_warning(response.status)):
        raise refusal(remote, CommandField(request.command_field or 0).name.replace("_", "-"), response)
