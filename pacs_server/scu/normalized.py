"""N-CREATE, N-SET and N-ACTION as SCU: procedure steps reported to a remote, and its commitment asked for.

Procedure steps: PS3.4 F.7.2. Storage commitment: PS3.4 J.3.2.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pacs_server.dicom.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from pacs_server.dicom.status import Status, is_warning
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.scu.connect import read_response
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.request import SYNTAXES, context_of, encoded, refusal

PROCEDURE_STEP: Final = "1.2.840.10008.3.1.2.3.3"
# PS3.4 J.3.2.1.1: the action type of a request for storage commitment.
_REQUEST: Final = 1


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


def request_commitment(
    pool: Pool, remote: RemoteAE, transaction_uid: str, references: Iterable[tuple[str, str]]
) -> None:
    """Ask a remote to commit to the storage of instances, (SOP class, SOP Instance UID) each.

    Its report comes later, by N-EVENT-REPORT on an association that the remote opens. Raises as `create_step`.
    """
    request = Command(
        command_field=CommandField.N_ACTION,
        requested_sop_class_uid=PUSH_MODEL,
        requested_sop_instance_uid=PUSH_MODEL_INSTANCE,
        action_type_id=_REQUEST,
    )
    _send(pool, remote, PUSH_MODEL, request, _commitment_of(transaction_uid, references))


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
    response = read_response(association, request)
    if response.status is None or not (response.status == Status.SUCCESS or is_warning(response.status)):
        raise refusal(remote, CommandField(request.command_field or 0).name.replace("_", "-"), response)
