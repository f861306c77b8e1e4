"""DIMSE messages: the command-set codec (PS3.7 6.3, E.1) and the framing of messages as P-DATA (PS3.8 Annex E).

A command set is always encoded in Implicit VR Little Endian and has at most a dozen elements, so a
small codec of our own is enough.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any

from pacs_server.net.pdu import COMMAND, HEADER, LAST, P_DATA, PDU_AND_PDV_HEADER, ProtocolError
from pacs_server.net.transport import Buffer

NO_DATA_SET = 0x0101
RESPONSE = 0x8000

_ELEMENT = struct.Struct("<HHI")
_US_ELEMENT = struct.Struct("<HHIH")
_unpack_element = _US_ELEMENT.unpack_from
_GROUP_LENGTH = struct.Struct("<HHII")
# The end of each response: the Message ID, the Command Data Set Type and the beginning of the next element, the status.
_PACKED_NUMBERS = struct.Struct("<H18sH")
_pack_numbers = _PACKED_NUMBERS.pack
_BETWEEN_NUMBERS = _US_ELEMENT.pack(0, 0x0800, 2, NO_DATA_SET) + _ELEMENT.pack(0, 0x0900, 2)
# PS3.5 9.1: a UID has 64 characters at most. Peers may send longer ones, which are not kept.
_LONGEST_UID = 64
_MOST_RESPONSES = 256
_NO_LIMIT = 1 << 20


class CommandField(IntEnum):
    """The Command Field of a request. The Command Field of a response is the same plus 0x8000 (PS3.7 E.1)."""

    C_STORE = 0x0001
    C_GET = 0x0010
    C_FIND = 0x0020
    C_MOVE = 0x0021
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_GET = 0x0110
    N_SET = 0x0120
    N_ACTION = 0x0130
    N_CREATE = 0x0140
    N_DELETE = 0x0150
    C_CANCEL = 0x0FFF


@dataclass
class Command:
    """A command set. A field that is None is absent from it. The names follow PS3.7 E.1.

    Without slots: a command that was decoded has the few fields that came, and takes the others from the class.
    """

    command_field: int | None = None
    message_id: int | None = None
    message_id_being_responded_to: int | None = None
    affected_sop_class_uid: str | None = None
    requested_sop_class_uid: str | None = None
    affected_sop_instance_uid: str | None = None
    requested_sop_instance_uid: str | None = None
    command_data_set_type: int | None = None
    priority: int | None = None
    status: int | None = None
    offending_element: bytes | None = None
    error_comment: str | None = None
    error_id: int | None = None
    move_destination: str | None = None
    move_originator_ae_title: str | None = None
    move_originator_message_id: int | None = None
    number_of_remaining: int | None = None
    number_of_completed: int | None = None
    number_of_failed: int | None = None
    number_of_warning: int | None = None
    event_type_id: int | None = None
    action_type_id: int | None = None
    attribute_identifier_list: bytes | None = None

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows, which any value but 0x0101 says (PS3.7 Table E.1-1)."""
        return self.command_data_set_type != NO_DATA_SET


# Element number in group 0000 -> (field of Command, VR), in the order in which they are sent.
_ELEMENTS: dict[int, tuple[str, str]] = {
    0x0002: ("affected_sop_class_uid", "UI"),
    0x0003: ("requested_sop_class_uid", "UI"),
    0x0100: ("command_field", "US"),
    0x0110: ("message_id", "US"),
    0x0120: ("message_id_being_responded_to", "US"),
    0x0600: ("move_destination", "AE"),
    0x0700: ("priority", "US"),
    0x0800: ("command_data_set_type", "US"),
    0x0900: ("status", "US"),
    0x0901: ("offending_element", "AT"),
    0x0902: ("error_comment", "LO"),
    0x0903: ("error_id", "US"),
    0x1000: ("affected_sop_instance_uid", "UI"),
    0x1001: ("requested_sop_instance_uid", "UI"),
    0x1002: ("event_type_id", "US"),
    0x1005: ("attribute_identifier_list", "AT"),
    0x1008: ("action_type_id", "US"),
    0x1020: ("number_of_remaining", "US"),
    0x1021: ("number_of_completed", "US"),
    0x1022: ("number_of_failed", "US"),
    0x1023: ("number_of_warning", "US"),
    0x1030: ("move_originator_ae_title", "AE"),
    0x1031: ("move_originator_message_id", "US"),
}
_ELEMENTS_AND_VRS = tuple((element, vr) for element, (_, vr) in _ELEMENTS.items())
_NUMBERS = {element: name for element, (name, vr) in _ELEMENTS.items() if vr == "US"}
_values_of = attrgetter(*(name for name, _ in _ELEMENTS.values()))
assert {name for name, _ in _ELEMENTS.values()} == {field.name for field in fields(Command)}


def decode_command(data: bytes) -> Command:
    """Decode a command set and ignore elements that are not in PS3.7 E.1.

    Raises ProtocolError if the command set is cut off, or has an element of another group or of an
    impossible length.
    """
    found: dict[str, Any] = {}
    offset, size = 0, len(data)
    # Each element is unpacked with the number that it may hold.
    padded = data + b"\0\0"
    while offset < size:
        if offset + 8 > size:
            raise ProtocolError("command set cut in the middle of an element")
        group, element, length, number = _unpack_element(padded, offset)
        begin = offset + 8
        offset = begin + length
        if group != 0 or offset > size:
            raise ProtocolError(f"command set with element ({group:04x},{element:04x}) of {length} bytes")
        if element in _NUMBERS:
            if length < 2:
                raise ProtocolError(f"command element (0000,{element:04x}) has no number")
            found[_NUMBERS[element]] = number
        elif element in _ELEMENTS:
            name, vr = _ELEMENTS[element]
            value = data[begin:offset]
            found[name] = value if vr == "AT" else str(value, "latin-1").strip(" \0")
            if vr == "LO":
                # An Error Comment is for people, and no database keeps a NUL.
                found[name] = "".join(filter(str.isprintable, found[name]))
    if "command_field" not in found:
        raise ProtocolError("command set without Command Field")
    command = object.__new__(Command)
    command.__dict__ = found
    return command


def encode_command(command: Command) -> bytes:
    """Encode a command set: its group length, then its elements in tag order, with values padded to even length."""
    body = bytearray()
    for (element, vr), value in zip(_ELEMENTS_AND_VRS, _values_of(command), strict=True):
        if value is None:
            continue
        if vr == "US":
            body += _US_ELEMENT.pack(0, element, 2, value)
            continue
        encoded = value if vr == "AT" else value.encode("latin-1", "replace")
        if len(encoded) % 2:
            encoded += b"\0" if vr == "UI" else b" "
        body += _ELEMENT.pack(0, element, len(encoded)) + encoded
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + bytes(body)


def frame(context_id: int, data: Buffer, *, command: bool, max_pdu: int, last: bool = True) -> Iterator[Buffer]:
    """Frame `data` as P-DATA-TF PDUs of at most `max_pdu` bytes with one PDV each; yield header, value, header...

    With `last` False the final fragment is not marked as the last one of the message.
    """
    size, flag = len(data), COMMAND if command else 0
    if size > max_pdu - 6:
        return _fragments(context_id, data, flag, max_pdu, last=last)
    control = flag | LAST if last else flag
    header = PDU_AND_PDV_HEADER.pack(P_DATA, size + 6, size + 2, context_id, control)
    return iter((header, data) if size else (header,))


def _fragments(context_id: int, data: Buffer, flag: int, max_pdu: int, *, last: bool) -> Iterator[Buffer]:
    size = max_pdu - 6
    view = memoryview(data)
    for start in range(0, len(view), size):
        value = view[start : start + size]
        control = flag | LAST if last and start + size >= len(view) else flag
        yield PDU_AND_PDV_HEADER.pack(P_DATA, len(value) + 6, len(value) + 2, context_id, control)
        yield value


def frame_command(context_id: int, command: Command, max_pdu: int) -> bytes:
    """A command set, encoded and framed, in most cases as one PDU."""
    data = encode_command(command)
    size = len(data)
    if size + 6 > max_pdu:
        return b"".join(frame(context_id, data, command=True, max_pdu=max_pdu))
    return PDU_AND_PDV_HEADER.pack(P_DATA, size + 6, size + 2, context_id, COMMAND | LAST) + data


def response_to(request: Command, status: int, error_comment: str | None = None) -> Command:
    """The response to a request, without data set (PS3.7 9.3)."""
    return Command(
        command_field=(request.command_field or 0) | RESPONSE,
        message_id_being_responded_to=request.message_id,
        affected_sop_class_uid=request.affected_sop_class_uid or request.requested_sop_class_uid,
        affected_sop_instance_uid=request.affected_sop_instance_uid or request.requested_sop_instance_uid,
        command_data_set_type=NO_DATA_SET,
        status=status,
        # PS3.7 E.1: VR LO, 64 characters.
        error_comment=error_comment[:64] if error_comment else None,
    )


def frame_response(context_id: int, request: Command, status: int, max_pdu: int) -> bytes:
    """`response_to` a request, encoded and framed.

    The responses on a context differ in little but the Message ID, the status and the SOP Instance UID, and so the rest
    is made once.
    """
    sop_class_uid = request.affected_sop_class_uid or request.requested_sop_class_uid
    uid = request.affected_sop_instance_uid or request.requested_sop_instance_uid
    if request.message_id is None or not sop_class_uid or len(sop_class_uid) > _LONGEST_UID:
        return frame_command(context_id, response_to(request, status), max_pdu)
    value = b"" if uid is None else uid.encode("latin-1", "replace")
    if len(value) % 2:
        value += b"\0"
    head, tail = _response_parts(context_id, request.command_field, sop_class_uid, None if uid is None else len(value))
    framed = b"".join((head, _pack_numbers(request.message_id, _BETWEEN_NUMBERS, status), tail, value))
    if len(framed) > max_pdu + HEADER.size:
        return frame_command(context_id, response_to(request, status), max_pdu)
    return framed


@lru_cache(_MOST_RESPONSES)
def _response_parts(
    context_id: int, command_field: int | None, sop_class_uid: str, uid_size: int | None
) -> tuple[bytes, bytes]:
    """What comes before the Message ID of a response, and between its status and the value of the SOP Instance UID."""
    response = Command(
        affected_sop_class_uid=sop_class_uid,
        command_field=(command_field or 0) | RESPONSE,
        message_id_being_responded_to=0,
        command_data_set_type=NO_DATA_SET,
        status=0,
        affected_sop_instance_uid=None if uid_size is None else "0" * uid_size,
    )
    framed = frame_command(context_id, response, _NO_LIMIT)
    end = len(framed) - (uid_size or 0)
    tail = b"" if uid_size is None else framed[end - _ELEMENT.size : end]
    return framed[: end - len(tail) - _PACKED_NUMBERS.size], tail


def encode_message(context_id: int, command: Command, data: Buffer | None, max_pdu: int) -> list[Buffer]:
    """A whole DIMSE message as buffers for one gathered write. Sets the Command Data Set Type of `command`."""
    command.command_data_set_type = NO_DATA_SET if data is None else 1
    buffers: list[Buffer] = [frame_command(context_id, command, max_pdu)]
    if data is not None:
        buffers += frame(context_id, data, command=False, max_pdu=max_pdu)
    return buffers
