"""C-FIND: what a remote has, and what is on its worklist (PS3.4 C.4.1, K.4.1)."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from pacs_server.dicom.json_codec import decode_data_set
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.levels import Level
from pacs_server.dicom.status import Status
from pacs_server.errors import RemoteError, TranscodeError
from pacs_server.net.association import Association
from pacs_server.net.message import RESPONSE, Command, CommandField
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.pdu import AbortReason, ProtocolError
from pacs_server.scu.pool import Pool
from pacs_server.scu.query_keys import Answers, requests_of
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.request import SYNTAXES, context_of, data_set_of, encoded, refusal
from pacs_server.scu.search import Search

PATIENT_ROOT: Final = "1.2.840.10008.5.1.4.1.2.1.1"
STUDY_ROOT: Final = "1.2.840.10008.5.1.4.1.2.2.1"
WORKLIST: Final = "1.2.840.10008.5.1.4.31"
_ROOTS: Final = tuple(ProposedContext(2 * n + 1, uid, SYNTAXES) for n, uid in enumerate((STUDY_ROOT, PATIENT_ROOT)))
_WORKLIST: Final = (ProposedContext(1, WORKLIST, SYNTAXES),)
_PENDING: Final = (Status.PENDING, Status.PENDING_WITH_UNSUPPORTED_KEYS)
# PS3.4 K.4.1.2.2: what a modality shows of an item.
WORKLIST_KEYS: Final = (
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("ReferringPhysicianName", "StudyInstanceUID", "RequestedProcedureID", "RequestedProcedureDescription"),
    "RequestedProcedurePriority",
    *(
        f"ScheduledProcedureStepSequence.{keyword}"
        for keyword in (
            *("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"),
            *("Modality", "ScheduledPerformingPhysicianName", "ScheduledProcedureStepDescription"),
            *("ScheduledProcedureStepID", "ScheduledStationName", "ScheduledProcedureStepLocation"),
        )
    ),
)
# PS3.4 C.5.1.1: the bytes of the application information, in this order.
_EXTENDED: Final = ("relational queries", "combined matching of dates and times", "fuzzy matching of names")
# A match is a few hundred bytes.
_MOST_BYTES: Final = 1024 * 1024
# How long to read on after a C-CANCEL before the association is ended, in seconds.
_CANCEL_SECONDS: Final = 5.0


def find(pool: Pool, remote: RemoteAE, search: Search, *, limit: int | None = None) -> Iterator[DataSet]:
    """The matches of a search, each in the DICOM JSON Model; Study Root is used, or else Patient Root.

    After `limit` matches the remote is told to stop. Raises InvalidIdentifier, and RemoteError and its kinds.
    """
    sop_classes = (PATIENT_ROOT,) if search.level is Level.PATIENT else (STUDY_ROOT, PATIENT_ROOT)
    # PS3.4 C.4.1.2.1: the level, and the keys.
    keys = {"QueryRetrieveLevel": search.level.name} | dict.fromkeys(search.returns, "") | dict(search.keys)
    asked = (search.relational, search.combined, search.fuzzy)
    extended = bytes(asked) if any(asked) else b""
    contexts = tuple(
        replace(context, extended=extended) for context in _ROOTS if context.abstract_syntax in sop_classes
    )
    return _find(pool, remote, contexts, keys, limit)


def find_worklist(
    pool: Pool,
    remote: RemoteAE,
    keys: Mapping[str, str],
    returns: Sequence[str] = WORKLIST_KEYS,
    *,
    limit: int | None = None,
) -> Iterator[DataSet]:
    """The items of a remote's modality worklist; raises as `find` does."""
    return _find(pool, remote, _WORKLIST, dict.fromkeys(returns, "") | dict(keys), limit)


def _find(
    pool: Pool, remote: RemoteAE, contexts: Sequence[ProposedContext], keys: Mapping[str, str], limit: int | None
) -> Iterator[DataSet]:
    # Whatever makes no request is refused before the remote is asked.
    data_set_of(keys)
    with pool.association(remote, contexts) as association:
        sop_classes = (context.abstract_syntax for context in contexts)
        context_id, sop_class, transfer_syntax = context_of(association, remote, *sop_classes)
        _check_agreed(remote, contexts[0].extended, association.extended.get(sop_class, b""))
        # What the remote does in its own way is known by what it says of its software in this association.
        requests = requests_of(keys, association.implementation.quirks(remote.vendor))
        count, answers = 0, Answers(keys, len(requests))
        for asked in requests:
            answers.next_request()
            request = _request(association, sop_class)
            association.send(context_id, request, encoded(data_set_of(asked), transfer_syntax))
            while (match := _next(association, remote, request, transfer_syntax)) is not None:
                if not answers.is_wanted(match):
                    continue
                yield match
                count += 1
                if limit is not None and count >= limit:
                    cancel(association, context_id, request)
                    return


def _request(association: Association, sop_class: str) -> Command:
    return Command(
        command_field=CommandField.C_FIND,
        message_id=association.next_message_id(),
        affected_sop_class_uid=sop_class,
        priority=0,
    )


def _check_agreed(remote: RemoteAE, asked: bytes, agreed: bytes) -> None:
    """Raise RemoteError unless the remote agrees to everything that was asked of it: it would match otherwise."""
    for name, wanted, found in zip_longest(_EXTENDED, asked, agreed[: len(asked)], fillvalue=0):
        if wanted and not found:
            raise RemoteError(f"{remote.name} does not offer {name}")


def _next(association: Association, remote: RemoteAE, request: Command, transfer_syntax: str) -> DataSet | None:
    """The next match, None after the last one."""
    response = next_response(association, request)
    if response.status in _PENDING:
        data = association.read_data(_MOST_BYTES)
        association.busy = False
        try:
            return decode_data_set(data, transfer_syntax, _MOST_BYTES)
        except TranscodeError as error:
            raise RemoteError(f"{remote.name} sent a match that cannot be read: {error}") from error
    association.skip_data()
    association.busy = False
    if response.status not in (Status.SUCCESS, Status.CANCEL):
        raise refusal(remote, "a query", response)
    return None


def next_response(association: Association, request: Command, timeout: float | None = None) -> Command:
    """The next response to `request`, whose data set is still to be read. Raises AssociationEnded.

    It must begin within `timeout` seconds, or within the response time-out of the remote.
    """
    command = association.read_message(timeout).command
    wanted = (request.command_field or 0) | RESPONSE
    if command.command_field != wanted or command.message_id_being_responded_to != request.message_id:
        raise ProtocolError("response to something else than was asked", AbortReason.UNEXPECTED_PDU)
    return command


def cancel(association: Association, context_id: int, request: Command) -> None:
    """Send a C-CANCEL and read on until the final response, or for some seconds."""
    ends = ask_to_stop(association, context_id, request)
    while time.monotonic() < ends:
        status = next_response(association, request).status
        association.skip_data()
        association.busy = False
        if status not in _PENDING:
            return


def ask_to_stop(association: Association, context_id: int, request: Command) -> float:
    """Send a C-CANCEL (PS3.7 9.3.2.3), and return until when to read on, in monotonic seconds."""
    command = Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=request.message_id)
    association.send(context_id, command)
    return time.monotonic() + _CANCEL_SECONDS
