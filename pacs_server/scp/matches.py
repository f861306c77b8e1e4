"""The responses of a C-FIND, sent while the matches are read (PS3.7 9.1.2)."""

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TypeVar

from pacs_server.audit.auditor import QueryRecord
from pacs_server.dicom.status import Status
from pacs_server.net.association import Association, Message
from pacs_server.net.message import NO_DATA_SET
from pacs_server.scp.dispatch import response_to
from pacs_server.scp.suboperations import cancel_requested

Match = TypeVar("Match")

# Responses in one write; between writes a C-CANCEL is looked for.
_BATCH = 16


def send_matches(
    association: Association,
    message: Message,
    matches: Generator[Match, None, None],
    encode: Callable[[Match], bytes],
    record: QueryRecord,
    *,
    unsupported: bool,
) -> tuple[int, Status]:
    """Send a pending response per match and the final one; how many matches, and the final status.

    The final one goes out with the last matches, so the answer to most queries is one write. `record` is told before
    anything is sent. `unsupported` says that a key that was asked for is not supported. `matches` is closed however
    this ends, so that the index gets its connection back at once.
    """
    context = message.context
    # PS3.4 C.4.1.1.4, K.4.1.1.4: FF01 when a key that was asked for is not supported.
    pending = response_to(message, Status.PENDING_WITH_UNSUPPORTED_KEYS if unsupported else Status.PENDING)
    pending.command_data_set_type = 1
    command = association.encode_command(context.context_id, pending)
    count, status = 0, Status.SUCCESS
    batch: list[bytes] = []
    with closing(matches):
        for match in matches:
            batch += (command, association.encode_data(context.context_id, encode(match)))
            count += 1
            if len(batch) == 2 * _BATCH:
                record.matched(count, complete=False)
                association.send_encoded(batch)
                batch = []
                if cancel_requested(association, message):
                    status = Status.CANCEL
                    break
    record.matched(count, complete=True)
    final = response_to(message, status)
    final.command_data_set_type = NO_DATA_SET
    association.send_encoded([*batch, association.encode_command(context.context_id, final)])
    return count, status
