"""C-MOVE to this server: a remote sends instances to our DICOM port (PS3.4 C.4.2)."""

import time
from typing import Final

from pacs_server.dicom.status import Status
from pacs_server.net.association import Association
from pacs_server.net.message import Command, CommandField
from pacs_server.net.transport import DeadlineExpired
from pacs_server.scu.find import ask_to_stop, next_response
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.request import context_of, data_set_of, encoded, refusal
from pacs_server.scu.retrieving import MOVE, Progress, Retrieved, Wanted

# While nothing is answered, the one who waits is asked whether to go on, so often.
_LOOK_SECONDS: Final = 1.0
_REFUSED: Final = frozenset(
    {Status.MOVE_DESTINATION_UNKNOWN, Status.OUT_OF_RESOURCES, Status.DOES_NOT_MATCH_SOP_CLASS, Status.NOT_AUTHORISED}
)


def move(association: Association, remote: RemoteAE, wanted: Wanted, progress: Progress) -> Retrieved:
    """Have instances sent to the AE title under which we called, and wait until the remote says that it is done.

    Raises AssociationEnded, and RemoteError if the remote refuses.
    """
    context_id, sop_class, transfer_syntax = context_of(association, remote, *MOVE)
    request = Command(
        command_field=CommandField.C_MOVE,
        message_id=association.next_message_id(),
        affected_sop_class_uid=sop_class,
        move_destination=association.calling_ae,
        priority=0,
    )
    association.send(context_id, request, encoded(data_set_of(wanted.keys()), transfer_syntax))
    done, ends = Retrieved("C-MOVE"), 0.0
    while True:
        response = _response(association, request, remote.response_timeout, progress, done)
        if not ends and progress.stop():
            ends = ask_to_stop(association, context_id, request)
        elif ends and time.monotonic() > ends:
            raise DeadlineExpired("it went on after a C-CANCEL")
        if response is None:
            continue
        done.count(response)
        done.status = response.status
        progress.told(done)
        if response.status in _REFUSED or response.status is None or response.status & 0xF000 == 0xC000:
            raise refusal(remote, "a C-MOVE", response)
        if response.status != Status.PENDING:
            done.reasons += [response.error_comment] if response.error_comment else []
            return done


def _response(
    association: Association, request: Command, seconds: float, progress: Progress, done: Retrieved
) -> Command | None:
    """The next response; None if the retrieval is to stop. Raises DeadlineExpired if nothing happens for so long.

    A remote need not tell how far it has come. As long as instances arrive, it is at work.
    """
    arrived, ends = done.taken, time.monotonic() + seconds
    while True:
        try:
            response = next_response(association, request, min(_LOOK_SECONDS, seconds))
        except DeadlineExpired:
            progress.told(done)
            if done.taken > arrived:
                arrived, ends = done.taken, time.monotonic() + seconds
            if progress.stop():
                return None
            if time.monotonic() >= ends:
                raise
            continue
        association.skip_data()
        association.busy = False
        return response
