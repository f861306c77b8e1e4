"""C-ECHO: ask a remote whether it is there (PS3.4 Annex A)."""

import time
from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.implementations import UNKNOWN, Implementation
from pacs_server.dicom.status import Status
from pacs_server.errors import RemoteError
from pacs_server.net.message import Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.scu.connect import read_response
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE

VERIFICATION: Final = "1.2.840.10008.1.1"
_CONTEXTS: Final = (ProposedContext(1, VERIFICATION, ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")),)


@dataclass(frozen=True, slots=True)
class Echo:
    """The answer to a C-ECHO, how many seconds it took with and without the association, and who says to be there."""

    seconds: float
    round_trip: float
    implementation: Implementation = UNKNOWN


def echo(pool: Pool, remote: RemoteAE, *, wait: float | None = None) -> Echo:
    """Send a C-ECHO. Raises RemoteError if the remote does not answer with success."""
    began = time.monotonic()
    with pool.association(remote, _CONTEXTS, wait=wait) as association:
        if not association.contexts:
            raise RemoteError(f"{remote.name} accepts associations and does not take C-ECHO")
        (context_id,) = association.contexts
        request = Command(
            command_field=CommandField.C_ECHO,
            message_id=association.next_message_id(),
            affected_sop_class_uid=VERIFICATION,
        )
        asked = time.monotonic()
        association.send(context_id, request)
        status = read_response(association, request).status
        answered = time.monotonic()
    if status != Status.SUCCESS:
        raise RemoteError(f"{remote.name} answered a C-ECHO with {'no status' if status is None else f'{status:04X}'}")
    return Echo(answered - began, answered - asked, association.implementation)
