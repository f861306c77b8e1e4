"""Associations as pynetdicom requests them: what is accepted, rejected and agreed on."""

import pytest
from pynetdicom import build_role
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, SOPClassExtendedNegotiation
from servers import (
    CT,
    EXPLICIT,
    IMPLICIT,
    STUDY_FIND,
    STUDY_GET,
    VERIFICATION,
    RawPeer,
    associated,
    echo_request,
    message,
    proposal,
)

from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.net.associate import encode_request
from pacs_server.net.pdu import PDUType

PRIVATE = "1.2.826.0.1.3680043.8.498.99"


def test_echo_and_what_the_server_says_of_itself(serve):
    pacs = serve(ae_title="ARCHIVE", max_pdu_size=65536)
    with associated(pacs, VERIFICATION, ae_title="ANY") as association:
        assert association.send_c_echo().Status == 0
        acceptor = association.acceptor
        assert acceptor.maximum_length == 65536
        assert str(acceptor.implementation_class_uid) == IMPLEMENTATION_CLASS_UID
        assert acceptor.implementation_version_name == IMPLEMENTATION_VERSION_NAME


def test_every_context_is_answered_on_its_own(serve):
    pacs = serve(storage={"accept_unknown_sop_classes": False})
    contexts = [(CT, ["1.2.840.10008.1.2.4.50"]), (CT, [EXPLICIT]), (PRIVATE, [EXPLICIT]), (VERIFICATION, ["1.2.3"])]
    with associated(pacs, *contexts) as association:
        accepted = {(c.context_id, str(c.transfer_syntax[0])) for c in association.accepted_contexts}
        assert accepted == {(1, "1.2.840.10008.1.2.4.50"), (3, EXPLICIT)}
        assert {c.context_id: c.result for c in association.rejected_contexts} == {5: 3, 7: 4}


def test_an_association_without_an_acceptable_context_stands(serve):
    pacs = serve()
    with RawPeer(pacs.address) as peer:
        answer = peer.associate(proposal(("1.2.840.10008.9.9", [IMPLICIT])))
        assert [result for _, result, _ in answer.results] == [3]
        peer.release()


def test_more_contexts_than_one_byte_of_ids_is_the_most(serve):
    pacs = serve()
    with RawPeer(pacs.address) as peer:
        answer = peer.associate(proposal(*[(f"{PRIVATE}.{n}", [IMPLICIT, EXPLICIT]) for n in range(128)]))
        assert answer.results == tuple((2 * n + 1, 0, IMPLICIT) for n in range(128))
        peer.release()


def test_roles_extended_negotiation_and_window(serve):
    pacs = serve()
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = STUDY_FIND, b"\1\1\1\1\1"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 8
    items = [build_role(CT, scp_role=True), extended, window]
    with associated(pacs, STUDY_FIND, STUDY_GET, CT, ext_neg=items) as association:
        roles = {str(c.abstract_syntax): (c.as_scu, c.as_scp) for c in association.accepted_contexts}
        assert roles == {STUDY_FIND: (True, False), STUDY_GET: (True, False), CT: (False, True)}
        acceptor = association.acceptor
        assert acceptor.sop_class_extended == {STUDY_FIND: b"\1\1\1\0"}
        assert acceptor.asynchronous_operations == (1, 1)


@pytest.mark.parametrize(
    ("settings", "titles", "rejection"),
    [
        ({"allowed": ["CT*", "MR1"]}, ("CT7", "PACS_SERVER"), None),
        ({"allowed": ["CT*", "MR1"]}, ("MR2", "PACS_SERVER"), (1, 1, 3)),
        ({"allowed": ["CT*"]}, ("ct7", "PACS_SERVER"), (1, 1, 3)),
        ({}, ("CT7", "ELSE"), None),
        ({"check_called_ae_title": True}, ("CT7", "ELSE"), (1, 1, 7)),
        ({"check_called_ae_title": True}, ("CT7", "PACS_SERVER"), None),
    ],
)
def test_ae_titles(serve, settings, titles, rejection):
    pacs = serve(**settings)
    calling, called = titles
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((VERIFICATION, [IMPLICIT]), calling=calling, called=called)))
        kind, body = peer.read_pdu()
        if rejection is None:
            assert kind == PDUType.ASSOCIATE_AC
            assert peer.echo() == 0
        else:
            assert (kind, tuple(body[1:])) == (PDUType.ASSOCIATE_RJ, rejection)


@pytest.mark.parametrize(
    ("at", "wrong", "rejection"),
    [
        (7, b"\2", (1, 2, 2)),
        (78, b"1.2.840.10008.3.1.1.2", (1, 1, 2)),
    ],
    ids=["protocol-version", "application-context"],
)
def test_what_cannot_be_spoken_is_rejected(serve, at, wrong, rejection):
    pacs = serve()
    request = bytearray(encode_request(proposal((VERIFICATION, [IMPLICIT]))))
    request[at : at + len(wrong)] = wrong
    with RawPeer(pacs.address) as peer:
        peer.send(request)
        assert peer.read_pdu() == (PDUType.ASSOCIATE_RJ, bytes((0, *rejection)))
        assert peer.ending() == "closed"


def test_other_bits_of_the_protocol_version_are_not_tested(serve):
    pacs = serve()
    request = bytearray(encode_request(proposal((VERIFICATION, [IMPLICIT]))))
    request[6:8] = b"\xff\xff"
    with RawPeer(pacs.address) as peer:
        peer.send(request)
        assert peer.read_pdu()[0] == PDUType.ASSOCIATE_AC


@pytest.mark.parametrize("max_pdu_size", [0, 64, 65, 128, 2**32 - 1])
def test_the_peers_maximum_is_kept(serve, max_pdu_size):
    pacs = serve()
    with RawPeer.associated(pacs.address, (VERIFICATION, [IMPLICIT]), max_pdu_size=max_pdu_size) as peer:
        peer.send(message(1, echo_request()))
        sizes, done = [], False
        while not done:
            _, body = peer.read_pdu()
            sizes.append(len(body))
            done = body[5] == 3
        assert max(sizes) <= (max_pdu_size or 2**32)
        assert (len(sizes) > 1) is (0 < max_pdu_size < 128)
