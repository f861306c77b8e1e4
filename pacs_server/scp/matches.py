"""The responses of a C-FIND, sent while the matches are read (PS3.7 9.1.2)."""

import itertools
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import TypeVar

from pacs_server.audit.auditor import QueryRecord
from pacs_server.dicom.status import Status
from pacs_server.net.association import Association, Message
from pacs_server.net.message import NO_DATA_SET, response_to
from pacs_server.scp.suboperations import cancel_requested

Match = TypeVar("Match")

# How many responses go into one write. After each write the server looks for a C-CANCEL.
_BATCH = 16
# How many keys the log names.
_MOST_KEYS = 20


def keys_used(texts: Mapping[str, str]) -> str:
    """The keywords of the keys that a query was sent with, for the log; their values are data of patients."""
    shown = ",".join(itertools.islice(texts, _MOST_KEYS)) or "none"
    left_out = len(texts) - _MOST_KEYS
    return shown if left_out <= 0 else f"{shown} and {left_out} more"


def send_matches(
    association: Association,
    message: Message,
    matches: Generator[Match, None, None],
    encode: Callable[[Match], bytes],
    record: QueryRecord,
    *,
    unsupported: bool,
) -> tuple[int, Status]:
    """Send a pending response for each match and the final response; return the number of matches and the final status.

    `encode` makes the identifier of a match. The final response goes into one write with the last matches, so that most
    queries are answered by one write. `record` is told the number of matches before they are sent. `unsupported` says
    that the query has a key that is not supported. `matches` is always closed in the end, so that the index gets its
    connection back at once.
    """
    context = message.context
    # PS3.4 C.4.1.1.4, K.4.1.1.4: FF01 if the query has a key that is not supported.
    pending = response_to(message.command, Status.PENDING_WITH_UNSUPPORTED_KEYS if unsupported else Status.PENDING)
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
    final = response_to(message.command, status)
    final.command_data_set_type = NO_DATA_SET
    association.send_encoded([*batch, association.encode_command(context.context_id, final)])
    return count, status
