"""A-ASSOCIATE PDUs, against pynetdicom's."""

from dataclasses import replace

import pytest
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from servers import CT, EXPLICIT, IMPLICIT, STUDY_FIND

from pacs_server.net.associate import decode_accept, decode_request, encode_accept, encode_request
from pacs_server.net.negotiation import (
    Answer,
    Proposal,
    ProposedContext,
    UserIdentity,
    UserInformation,
)
from pacs_server.net.pdu import ProtocolError

RLE = "1.2.840.10008.1.2.5"
CONTEXTS = tuple(ProposedContext(2 * n + 1, f"1.2.{n}", (EXPLICIT, f"1.3.{n}")) for n in range(128))
USER = UserInformation(
    16384,
    "1.2.3.4",
    "VERSION_1",
    (3, 5),
    {CT: (True, False), "1.2.5": (False, True)},
    {STUDY_FIND: b"\1\0\1"},
    UserIdentity(2, True, "jörg".encode(), b"pass\0word"),
)
PROPOSAL = Proposal("CALLING", "SIXTEEN_LETTERS_", CONTEXTS, USER)


def _user_of(pdu):
    """The user information of a PDU of pynetdicom as our value."""
    info = pdu.user_information
    window, who = info.async_ops_window, info.user_identity
    asked = who is not None and hasattr(who, "user_identity_type")
    return UserInformation(
        info.maximum_length,
        str(info.implementation_class_uid),
        info.implementation_version_name or "",
        None
        if window is None
        else (window.maximum_number_operations_invoked, window.maximum_number_operations_performed),
        {str(uid): (bool(role.scu_role), bool(role.scp_role)) for uid, role in info.role_selection.items()},
        {str(item.uid): item.app_info for item in info.ext_neg},
        UserIdentity(
            who.user_identity_type, bool(who.positive_response_requested), who.primary_field, who.secondary_field
        )
        if asked
        else None,
        None if who is None or asked else who.server_response,
    )


def test_pynetdicom_reads_our_request():
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(encode_request(PROPOSAL))
    assert (pdu.calling_ae_title, pdu.called_ae_title) == ("CALLING", "SIXTEEN_LETTERS_")
    assert pdu.protocol_version == 1
    assert pdu.application_context_name == "1.2.840.10008.3.1.1.1"
    contexts = tuple(
        ProposedContext(item.context_id, str(item.abstract_syntax), tuple(map(str, item.transfer_syntax)))
        for item in pdu.presentation_context
    )
    assert contexts == CONTEXTS
    assert _user_of(pdu) == USER
    assert decode_request(pdu.encode()[6:]) == PROPOSAL


def test_pynetdicom_reads_our_accept():
    user = replace(USER, identity=None, identity_response=b"ticket")
    answer = Answer(((1, 0, EXPLICIT), (3, 3, IMPLICIT), (255, 4, RLE)), user)
    pdu = A_ASSOCIATE_AC()
    pdu.decode(encode_accept(PROPOSAL, answer))
    results = tuple((item.context_id, item.result, str(item.transfer_syntax)) for item in pdu.presentation_context)
    assert results == ((1, 0, EXPLICIT), (3, 3, IMPLICIT), (255, 4, RLE))
    # PS3.8 Table 9-17: the titles are sent back as they came.
    assert encode_accept(PROPOSAL, answer)[10:42] == encode_request(PROPOSAL)[10:42]
    assert _user_of(pdu) == user
    assert decode_accept(pdu.encode()[6:]) == answer


def _item(kind, value):
    return bytes((kind, 0)) + len(value).to_bytes(2, "big") + value


HEAD = b"\0\1\0\0" + b"PACS".ljust(16) + b"SCU".ljust(16) + bytes(32)
CONTEXT = b"\1\0\0\0" + _item(0x30, CT.encode()) + _item(0x40, EXPLICIT.encode())


@pytest.mark.parametrize(
    "items",
    [
        _item(0x20, CONTEXT) * 2,
        _item(0x20, b"\2" + CONTEXT[1:]),
        _item(0x20, CONTEXT[:4]),
        _item(0x20, CONTEXT[: -len(EXPLICIT) - 4]),
        _item(0x20, b"\1"),
        _item(0x20, CONTEXT)[:-1],
        _item(0x20, CONTEXT) + b"\x50\0\0",
        _item(0x50, _item(0x54, b"\0\x09abc")),
        _item(0x50, _item(0x56, b"\0")),
        _item(0x50, b"\x51\0\0\4\0"),
        _item(0x50, _item(0x58, b"")),
        _item(0x50, _item(0x58, b"\1\0")),
        _item(0x50, _item(0x58, b"\1\0\0")),
        _item(0x50, _item(0x58, b"\1\0\0\5user")),
        _item(0x50, _item(0x58, b"\2\0\0\4user\0")),
        _item(0x50, _item(0x58, b"\2\0\0\4user\0\2x")),
        _item(0x50, _item(0x59, b"\0\1")),
    ],
)
def test_malformed_requests(items):
    with pytest.raises(ProtocolError):
        decode_request(HEAD + items)


def test_what_is_not_known_is_passed_over():
    user = _item(0x51, b"\0\0\x40\0") + _item(0x57, b"?") + _item(0x7F, b"??") + _item(0x51, b"short")
    decoded = decode_request(HEAD + _item(0x77, b"?") + _item(0x20, CONTEXT + _item(0x33, b"?")) + _item(0x50, user))
    assert decoded.contexts == (ProposedContext(1, CT, (EXPLICIT,)),)
    assert decoded.user == UserInformation(16384)


@pytest.mark.parametrize("rest", [b"\0\0", b"", b"\0\0??"])
def test_a_user_name_with_and_without_the_length_of_no_passcode(rest):
    user = _item(0x58, b"\1\1\0\4user" + rest)
    decoded = decode_request(HEAD + _item(0x20, CONTEXT) + _item(0x50, user))
    assert decoded.user.identity == UserIdentity(1, True, b"user")


def test_passcodes_and_tickets_are_never_shown():
    shown = repr(Proposal("A", "B", (), UserInformation(identity=UserIdentity(2, True, b"HIDDEN1", b"HIDDEN2"))))
    assert "HIDDEN" not in shown
    assert "positive_response=True" in shown


def test_padding_of_titles_and_uids_is_not_significant():
    head = b"\0\1\0\0" + b"  PACS\0".ljust(16) + b"SCU".ljust(16, b"\0") + bytes(32)
    context = b"\1\0\0\0" + _item(0x30, CT.encode() + b"\0") + _item(0x40, EXPLICIT.encode() + b" ")
    decoded = decode_request(head + _item(0x20, context))
    assert (decoded.called_ae, decoded.calling_ae) == ("PACS", "SCU")
    assert decoded.contexts == (ProposedContext(1, CT, (EXPLICIT,)),)
