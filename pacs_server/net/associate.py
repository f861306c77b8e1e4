"""A-ASSOCIATE PDUs on the wire: decode and encode proposals and answers (PS3.8 9.3.2-3, PS3.7 D.3).

The codec is our own, because it decodes a proposal of 64 contexts about twenty times faster than
pynetdicom's item objects, and raises nothing but ProtocolError. The tests hold it equal to pynetdicom's
PDU classes.
"""

import struct
from collections.abc import Iterator

from pacs_server.net.negotiation import (
    APPLICATION_CONTEXT,
    Answer,
    Proposal,
    ProposedContext,
    UserIdentity,
    UserInformation,
)
from pacs_server.net.pdu import HEADER, AbortReason, PDUType, ProtocolError

_ITEM = struct.Struct(">BxH")
# PS3.8 9.3.2.2: the IDs of presentation contexts are the odd numbers from 1 to 255.
_MAX_CONTEXTS = 128
# Shorter PDUs would carry little more than their own headers. A maximum of 0 means no limit (PS3.8 D.1).
_MIN_PDU = 64


# ------------------------------------------------------------------------------------ decoding


def decode_request(body: bytes) -> Proposal:
    """Decode the body of an A-ASSOCIATE-RQ and ignore unknown items (PS3.8 9.3.1). Raises ProtocolError."""
    version, called, calling = _titles(body)
    contexts: list[ProposedContext] = []
    user, application = UserInformation(), ""
    for kind, value in _items(body, 68):
        if kind == 0x10:
            application = _uid(value)
        elif kind == 0x20:
            if len(contexts) == _MAX_CONTEXTS:
                raise ProtocolError(f"more than {_MAX_CONTEXTS} presentation contexts", AbortReason.INVALID_PARAMETER)
            contexts.append(_proposed(value))
        elif kind == 0x50:
            user = _user_information(value)
    if len({context.context_id for context in contexts}) != len(contexts):
        raise ProtocolError("presentation context ID proposed twice", AbortReason.INVALID_PARAMETER)
    return Proposal(calling, called, tuple(contexts), user, application, version)


def decode_accept(body: bytes) -> Answer:
    """Decode the body of an A-ASSOCIATE-AC. Raises ProtocolError."""
    _titles(body)
    results: list[tuple[int, int, str]] = []
    user = UserInformation()
    for kind, value in _items(body, 68):
        if kind == 0x21:
            if len(value) < 4:
                raise ProtocolError("presentation context item cut")
            uids = [_uid(uid) for sub, uid in _items(value, 4) if sub == 0x40]
            results.append((value[0], value[2], uids[0] if uids else ""))
        elif kind == 0x50:
            user = _user_information(value)
    return Answer(tuple(results), user)


def _titles(body: bytes) -> tuple[int, str, str]:
    if len(body) < 68:
        raise ProtocolError(f"A-ASSOCIATE PDU of {len(body)} bytes")
    # PS3.8 Table 9-11: leading and trailing blanks are not significant.
    called, calling = (body[at : at + 16].decode("latin-1").strip(" \0") for at in (4, 20))
    return int.from_bytes(body[:2], "big"), called, calling


def _items(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset < len(data):
        if offset + 4 > len(data):
            raise ProtocolError("A-ASSOCIATE item cut", AbortReason.INVALID_PARAMETER)
        kind, length = _ITEM.unpack_from(data, offset)
        offset += 4
        if length > len(data) - offset:
            raise ProtocolError(f"A-ASSOCIATE item {kind:#04x} is longer than its PDU", AbortReason.INVALID_PARAMETER)
        yield kind, data[offset : offset + length]
        offset += length


def _uid(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _proposed(value: bytes) -> ProposedContext:
    if len(value) < 4:
        raise ProtocolError("presentation context item cut", AbortReason.INVALID_PARAMETER)
    abstract, transfer = "", []
    for kind, uid in _items(value, 4):
        if kind == 0x30:
            abstract = _uid(uid)
        elif kind == 0x40:
            transfer.append(_uid(uid))
    if value[0] % 2 == 0 or not abstract or not transfer:
        # PS3.8 9.3.2.2: a context has an odd ID, one abstract syntax and at least one transfer syntax.
        raise ProtocolError("malformed presentation context", AbortReason.INVALID_PARAMETER)
    return ProposedContext(value[0], abstract, tuple(transfer))


def _user_information(data: bytes) -> UserInformation:
    max_pdu, uid, version, window, identity, response = 0, "", "", None, None, None
    roles: dict[str, tuple[bool, bool]] = {}
    extended: dict[str, bytes] = {}
    for kind, value in _items(data, 0):
        if kind == 0x51 and len(value) == 4:
            max_pdu = _max_pdu_size(value)
        elif kind == 0x52:
            uid = _uid(value)
        elif kind == 0x53 and len(value) == 4:
            window = (int.from_bytes(value[:2], "big"), int.from_bytes(value[2:], "big"))
        elif kind == 0x54:
            roles.update(_role(value))
        elif kind == 0x55:
            version = _uid(value)
        elif kind == 0x56:
            name, extended[name] = _keyed(value)
        elif kind == 0x58:
            identity = _identity(value)
        elif kind == 0x59:
            response = _counted(value)[0]
    return UserInformation(max_pdu, uid, version, window, roles, extended, identity, response)


def _role(value: bytes) -> dict[str, tuple[bool, bool]]:
    name, rest = _keyed(value)
    return {name: (bool(rest[0]), bool(rest[1]))} if len(rest) == 2 else {}


def _identity(value: bytes) -> UserIdentity:
    primary, rest = _counted(value[2:])
    # PS3.7 Table D.3-14: the second length is mandatory, but we take a missing one for zero.
    secondary = _counted(rest)[0] if rest else b""
    return UserIdentity(value[0], value[1] != 0, primary, secondary)


def _max_pdu_size(value: bytes) -> int:
    size = int.from_bytes(value, "big")
    if 0 < size < _MIN_PDU:
        raise ProtocolError(f"PDUs of {size} bytes at most are too short", AbortReason.INVALID_PARAMETER)
    return size


def _keyed(value: bytes) -> tuple[str, bytes]:
    """Split a sub-item that begins with a UID and its length (PS3.7 D.3.3.4, D.3.3.5)."""
    name, rest = _counted(value)
    return _uid(name), rest


def _counted(value: bytes) -> tuple[bytes, bytes]:
    """Split a value that begins with a two-byte length into that many bytes and the rest."""
    length = int.from_bytes(value[:2], "big")
    if len(value) < 2 or length > len(value) - 2:
        raise ProtocolError("user information sub-item cut", AbortReason.INVALID_PARAMETER)
    return value[2 : 2 + length], value[2 + length :]


# ------------------------------------------------------------------------------------ encoding


def encode_request(proposal: Proposal) -> bytes:
    """Encode an A-ASSOCIATE-RQ PDU (PS3.8 9.3.2)."""
    contexts = b"".join(
        _item(
            0x20,
            bytes((context.context_id, 0, 0, 0))
            + _item(0x30, context.abstract_syntax.encode())
            + b"".join(_item(0x40, uid.encode()) for uid in context.transfer_syntaxes),
        )
        for context in proposal.contexts
    )
    return _associate(PDUType.ASSOCIATE_RQ, proposal, contexts, proposal.user)


def encode_accept(proposal: Proposal, answer: Answer) -> bytes:
    """Encode the A-ASSOCIATE-AC PDU that answers `proposal` (PS3.8 9.3.3)."""
    contexts = b"".join(
        _item(0x21, bytes((context_id, 0, result, 0)) + _item(0x40, uid.encode("latin-1")))
        for context_id, result, uid in answer.results
    )
    return _associate(PDUType.ASSOCIATE_AC, proposal, contexts, answer.user)


def _associate(kind: PDUType, proposal: Proposal, contexts: bytes, user: UserInformation) -> bytes:
    titles = (_title(proposal.called_ae), _title(proposal.calling_ae))
    application = _item(0x10, APPLICATION_CONTEXT.encode())
    body = b"\0\1\0\0" + b"".join(titles) + bytes(32) + application + contexts + _item(0x50, _encode_user(user))
    return HEADER.pack(kind, len(body)) + body


def _encode_user(user: UserInformation) -> bytes:
    parts = [
        _item(0x51, user.max_pdu_size.to_bytes(4, "big")),
        _item(0x52, user.implementation_class_uid.encode()),
    ]
    if user.async_operations is not None:
        parts.append(_item(0x53, struct.pack(">HH", *user.async_operations)))
    for name, (scu, scp) in user.roles.items():
        parts.append(_item(0x54, _sized(name) + bytes((scu, scp))))
    if user.implementation_version_name:
        parts.append(_item(0x55, user.implementation_version_name.encode()))
    for name, information in user.extended.items():
        parts.append(_item(0x56, _sized(name) + information))
    if user.identity is not None:
        identity = user.identity
        head = bytes((identity.kind, identity.positive_response))
        parts.append(_item(0x58, head + _with_length(identity.primary) + _with_length(identity.secondary)))
    if user.identity_response is not None:
        parts.append(_item(0x59, _with_length(user.identity_response)))
    return b"".join(parts)


def _item(kind: int, value: bytes) -> bytes:
    return _ITEM.pack(kind, len(value)) + value


def _sized(name: str) -> bytes:
    return _with_length(name.encode("latin-1"))


def _with_length(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _title(text: str) -> bytes:
    return text.encode("latin-1", "replace")[:16].ljust(16)
