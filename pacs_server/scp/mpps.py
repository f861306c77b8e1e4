"""Modality Performed Procedure Step SCP, and its Retrieve SCP (PS3.4 F.7, F.8)."""

import struct
import uuid
from collections.abc import Callable
from typing import Any

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import Action
from pacs_server.dicom.json_codec import decode_data_set, encode_data_set
from pacs_server.dicom.json_model import SPECIFIC_CHARACTER_SET, DataSet, text_of
from pacs_server.dicom.mpps import StepStatus, subjects_of
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import clean_uid, is_uid
from pacs_server.errors import (
    AttributeRefused,
    InvalidObjectInstance,
    MissingAttribute,
    NoSuchSOPClass,
    PacsError,
    ProcedureStepClosed,
    ResourceLimitation,
)
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Message
from pacs_server.net.message import response_to
from pacs_server.scp.contexts import Service
from pacs_server.scp.dispatch import Result
from pacs_server.scp.status import STEP_MAY_NO_LONGER_BE_UPDATED, status_of
from pacs_server.services.mpps import MPPSService, StepOutcome

# References to some 30,000 instances.
_MAX_DATA_SET = 4 << 20


class ModalityPerformedProcedureStepSCP:
    """Answers N-CREATE, N-SET and N-GET of procedure steps; one method for each."""

    def __init__(self, steps: MPPSService, auditor: Auditor, metrics: Metrics) -> None:
        self._steps = steps
        self._auditor = auditor
        self._metrics = metrics

    def create(self, association: Association, message: Message) -> Result:
        """Answer N-CREATE; a step without a SOP Instance UID is given one, which is in the response."""
        data_set = _data_set(association, message)
        # PS3.7 10.3.5.1.4: if the SCU chooses no UID, the SCP does; PS3.5 B.2 says how.
        uid = clean_uid(message.command.affected_sop_instance_uid or "") or f"2.25.{uuid.uuid4().int}"

        def work() -> StepOutcome:
            _check(message, message.command.affected_sop_class_uid, uid)
            return self._steps.create(uid, data_set, association.calling_ae)

        return self._answer(association, message, uid, work, data_set)

    def set(self, association: Association, message: Message) -> Result:
        """Answer N-SET."""
        data_set = _data_set(association, message)
        uid = clean_uid(message.command.requested_sop_instance_uid or "")

        def work() -> StepOutcome:
            _check(message, message.command.requested_sop_class_uid, uid)
            return self._steps.set(uid, data_set)

        return self._answer(association, message, uid, work, data_set)

    def get(self, association: Association, message: Message) -> Result:
        """Answer N-GET with the attributes that the request names, or with all."""
        association.skip_data()
        command, context = message.command, message.context
        uid = clean_uid(command.requested_sop_instance_uid or "")
        with self._auditor.procedure(association.caller, context.abstract_syntax, Action.READ, uid) as record:
            _check(message, command.requested_sop_class_uid, uid)
            found, supported = self._steps.get(uid, _tags(command.attribute_identifier_list or b""))
            record.subjects = subjects_of(found)
        charset = text_of(found, SPECIFIC_CHARACTER_SET)
        # PS3.4 F.8.2.1.4: a warning if the request names an attribute that is not supported.
        status = Status.SUCCESS if supported else Status.REQUESTED_OPTIONAL_ATTRIBUTES_NOT_SUPPORTED
        data = encode_data_set(found, context.transfer_syntax, charset)
        association.send(context.context_id, response_to(message.command, status), data)
        return Result(status, {"sop_instance_uid": uid})

    def _answer(
        self, association: Association, message: Message, uid: str, work: Callable[[], StepOutcome], data_set: DataSet
    ) -> Result:
        created = message.command.requested_sop_instance_uid is None
        action = Action.CREATE if created else Action.UPDATE
        sop_class_uid = message.context.abstract_syntax
        try:
            with self._auditor.procedure(association.caller, sop_class_uid, action, uid) as record:
                record.subjects = subjects_of(data_set)
                outcome = work()
                record.subjects = subjects_of(outcome.data_set)
        except (AttributeRefused, ProcedureStepClosed) as error:
            return _refuse(association, message, error, data_set)
        if created or outcome.status != StepStatus.IN_PROGRESS:
            self._metrics.procedure_step(outcome.status)
        response = response_to(message.command, Status.SUCCESS)
        response.affected_sop_instance_uid = uid
        association.send(message.context.context_id, response)
        details = {"sop_instance_uid": uid, "step": outcome.status, "worklist_items": outcome.items}
        return Result(Status.SUCCESS, details)


def _data_set(association: Association, message: Message) -> dict[str, Any]:
    """The attribute or modification list, empty if the request has none; raises ResourceLimitation, TranscodeError."""
    data = bytearray()
    for fragment in association.data():
        if len(data) + len(fragment) > _MAX_DATA_SET:
            raise ResourceLimitation(f"the data set is longer than {_MAX_DATA_SET} bytes")
        data += fragment
    return decode_data_set(bytes(data), message.context.transfer_syntax, _MAX_DATA_SET) if data else {}


def _check(message: Message, sop_class_uid: str | None, uid: str) -> None:
    if clean_uid(sop_class_uid or "") != message.context.abstract_syntax:
        raise NoSuchSOPClass("SOP Class UID differs from the context's")
    if not is_uid(uid):
        raise InvalidObjectInstance("SOP Instance UID is no UID")


def _tags(attribute_identifier_list: bytes) -> list[int]:
    whole = len(attribute_identifier_list) // 4 * 4
    pairs = struct.iter_unpack("<HH", attribute_identifier_list[:whole])
    return [group << 16 | element for group, element in pairs]


def _refuse(association: Association, message: Message, error: PacsError, data_set: DataSet) -> Result:
    """Answer a failure, with the details that PS3.7 C.5 provides for."""
    status = status_of(error, Service.MPPS)
    response = response_to(message.command, status, str(error))
    wrong: dict[str, Any] = {}
    if isinstance(error, ProcedureStepClosed):
        response.error_id = STEP_MAY_NO_LONGER_BE_UPDATED
    elif isinstance(error, MissingAttribute):
        group, element = int(error.tag[:4], 16), int(error.tag[4:], 16)
        response.attribute_identifier_list = struct.pack("<HH", group, element)
    elif isinstance(error, AttributeRefused) and error.tag in data_set:
        # PS3.4 F.7.2.1.3: the response with 0106 holds an Attribute List with the wrong attributes (PS3.7 C.5).
        wrong = {tag: data_set[tag] for tag in (SPECIFIC_CHARACTER_SET, error.tag) if tag in data_set}
    data = _encoded(message, wrong) if wrong else None
    association.send(message.context.context_id, response, data)
    return Result(status, {"reason": str(error)})


def _encoded(message: Message, data_set: DataSet) -> bytes:
    return encode_data_set(data_set, message.context.transfer_syntax, text_of(data_set, SPECIFIC_CHARACTER_SET))
