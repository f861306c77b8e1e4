"""The command-set codec against pynetdicom's messages, and what its decoder refuses."""

from io import BytesIO

import pytest
from pynetdicom import dimse_messages, dimse_primitives

from pacs_server.net.message import Command, CommandField, decode_command, encode_command, frame
from pacs_server.net.pdu import ProtocolError

SOP_CLASS, SOP = "1.2.840.10008.5.1.4.1.1.2", "1.2.826.0.1.3680043.8.498.1"


def _primitive(kind, **values):
    primitive = kind()
    for name, value in values.items():
        setattr(primitive, name, value)
    return primitive


def _command_set(message, primitive):
    """The bytes of the command set as pynetdicom sends it."""
    message.primitive_to_message(primitive)
    pdvs = [value for data in message.encode_msg(1, 16384) for _, value in data.presentation_data_value_list]
    return b"".join(value[1:] for value in pdvs if value[0] & 1)


STORE_RQ = _primitive(
    dimse_primitives.C_STORE,
    MessageID=7,
    AffectedSOPClassUID=SOP_CLASS,
    AffectedSOPInstanceUID=SOP,
    Priority=2,
    MoveOriginatorApplicationEntityTitle="MOVER",
    MoveOriginatorMessageID=65535,
    DataSet=BytesIO(b"\x08\x00\x18\x00\x00\x00\x00\x00"),
)
STORE_RSP = _primitive(
    dimse_primitives.C_STORE,
    MessageIDBeingRespondedTo=7,
    AffectedSOPClassUID=SOP_CLASS,
    AffectedSOPInstanceUID=SOP,
    Status=0xA700,
    ErrorComment="disk full",
)
MOVE_RQ = _primitive(
    dimse_primitives.C_MOVE,
    MessageID=1,
    AffectedSOPClassUID="1.2.840.10008.5.1.4.1.2.2.2",
    Priority=0,
    MoveDestination="DEST",
    Identifier=BytesIO(b"\x08\x00\x52\x00\x00\x00\x00\x00"),
)
MOVE_RSP = _primitive(
    dimse_primitives.C_MOVE,
    MessageIDBeingRespondedTo=1,
    AffectedSOPClassUID="1.2.840.10008.5.1.4.1.2.2.2",
    Status=0xFF00,
    NumberOfRemainingSuboperations=3,
    NumberOfCompletedSuboperations=2,
    NumberOfFailedSuboperations=1,
    NumberOfWarningSuboperations=0,
)
ECHO_RQ = _primitive(dimse_primitives.C_ECHO, MessageID=1, AffectedSOPClassUID="1.2.840.10008.1.1")
CANCEL_RQ = _primitive(dimse_primitives.C_CANCEL, MessageIDBeingRespondedTo=9)
ACTION_RQ = _primitive(
    dimse_primitives.N_ACTION, MessageID=3, RequestedSOPClassUID=SOP_CLASS, RequestedSOPInstanceUID=SOP, ActionTypeID=1
)

MESSAGES = [
    (
        dimse_messages.C_STORE_RQ(),
        STORE_RQ,
        Command(
            command_field=CommandField.C_STORE,
            message_id=7,
            affected_sop_class_uid=SOP_CLASS,
            affected_sop_instance_uid=SOP,
            priority=2,
            command_data_set_type=1,
            move_originator_ae_title="MOVER",
            move_originator_message_id=65535,
        ),
    ),
    (
        dimse_messages.C_STORE_RSP(),
        STORE_RSP,
        Command(
            command_field=0x8001,
            message_id_being_responded_to=7,
            affected_sop_class_uid=SOP_CLASS,
            affected_sop_instance_uid=SOP,
            status=0xA700,
            error_comment="disk full",
            command_data_set_type=0x0101,
        ),
    ),
    (
        dimse_messages.C_MOVE_RQ(),
        MOVE_RQ,
        Command(
            command_field=CommandField.C_MOVE,
            message_id=1,
            affected_sop_class_uid="1.2.840.10008.5.1.4.1.2.2.2",
            priority=0,
            move_destination="DEST",
            command_data_set_type=1,
        ),
    ),
    (
        dimse_messages.C_MOVE_RSP(),
        MOVE_RSP,
        Command(
            command_field=0x8021,
            message_id_being_responded_to=1,
            affected_sop_class_uid="1.2.840.10008.5.1.4.1.2.2.2",
            status=0xFF00,
            number_of_remaining=3,
            number_of_completed=2,
            number_of_failed=1,
            number_of_warning=0,
            command_data_set_type=0x0101,
        ),
    ),
    (
        dimse_messages.C_ECHO_RQ(),
        ECHO_RQ,
        Command(
            command_field=CommandField.C_ECHO,
            message_id=1,
            affected_sop_class_uid="1.2.840.10008.1.1",
            command_data_set_type=0x0101,
        ),
    ),
    (
        dimse_messages.C_CANCEL_RQ(),
        CANCEL_RQ,
        Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=9, command_data_set_type=0x0101),
    ),
    (
        dimse_messages.N_ACTION_RQ(),
        ACTION_RQ,
        Command(
            command_field=CommandField.N_ACTION,
            message_id=3,
            requested_sop_class_uid=SOP_CLASS,
            requested_sop_instance_uid=SOP,
            action_type_id=1,
            command_data_set_type=0x0101,
        ),
    ),
]


@pytest.mark.parametrize(("message", "primitive", "command"), MESSAGES, ids=lambda value: type(value).__name__)
def test_command_sets_are_pynetdicoms(message, primitive, command):
    encoded = _command_set(message, primitive)
    assert decode_command(encoded) == command
    assert encode_command(command) == encoded


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "without Command Field"),
        (b"\0\0\0\1\2\0", "cut"),
        (b"\0\0\0\1\2\0\0\0\1", "2 bytes"),
        (b"\0\0\0\1\0\0\0\0", "no number"),
        (b"\0\0\0\1\xff\xff\xff\xff\1\0", "4294967295 bytes"),
        (b"\x08\0\0\1\2\0\0\0\1\0", r"\(0008,0100\)"),
    ],
)
def test_what_is_no_command_set(data, problem):
    with pytest.raises(ProtocolError, match=problem):
        decode_command(data)


def test_an_error_comment_is_text_for_people() -> None:
    """Some peers send a buffer with what was in it before; PostgreSQL keeps no text with a NUL."""
    raw = encode_command(Command(command_field=CommandField.C_STORE | 0x8000, error_comment="disk full\0\x07rubbish\0"))
    assert decode_command(raw).error_comment == "disk fullrubbish"


def test_retired_elements_are_passed_over():
    retired = bytes.fromhex("0000 0100 04000000 41424344") + bytes.fromhex("0000 0002 02000000 4142")
    echo = encode_command(Command(command_field=CommandField.C_ECHO, message_id=1))
    assert decode_command(echo + retired) == Command(command_field=CommandField.C_ECHO, message_id=1)


def test_an_empty_data_set_is_one_empty_last_fragment():
    assert list(frame(5, b"", command=False, max_pdu=100)) == [bytes.fromhex("04 00 00000006 00000002 05 02")]
