"""The codecs give back what they were given, survive any bytes, and framing does not depend on how bytes arrive."""

import contextlib
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ASSOCIATE_RQ
from servers import p_data, pdv, tcp_pair

from pacs_server.errors import StorageUnavailable
from pacs_server.net.associate import decode_accept, decode_request, encode_accept, encode_request
from pacs_server.net.association import Association, MessageCut, Timeouts
from pacs_server.net.message import (
    Command,
    decode_command,
    encode_command,
    encode_message,
    frame,
    frame_command,
    frame_response,
    response_to,
)
from pacs_server.net.negotiation import (
    AcceptedContext,
    Answer,
    Proposal,
    ProposedContext,
    UserIdentity,
    UserInformation,
    negotiate,
)
from pacs_server.net.pdu import COMMAND, HEADER, LAST, PDV_HEADER, PDUReader, PDUType, ProtocolError
from pacs_server.net.transport import ConnectionLost, Transport
from pacs_server.scp.contexts import (
    SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    STORAGE_TRANSFER_SYNTAXES,
    Service,
    service_of,
    supports,
)
from pacs_server.services.retrieve import DataSetSource
from pacs_server.storage.file_source import FileSource

US = st.integers(0, 0xFFFF)
UIDS = st.lists(st.integers(1, 10**8), min_size=2, max_size=6).map(lambda numbers: ".".join(map(str, numbers)))
TITLES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\\"), min_size=1, max_size=16)
# Control characters do not come through: an Error Comment is for people.
TEXTS = st.text(st.sampled_from([chr(code) for code in range(33, 256) if chr(code).isprintable()]), max_size=64)
TAGS = st.binary(max_size=5).map(lambda data: data * 4)


def _values(name, annotation):
    if annotation == int | None:
        return US
    if annotation == bytes | None:
        return TAGS
    if name.endswith("_uid"):
        return UIDS
    return TITLES if "ae_title" in name or name == "move_destination" else TEXTS


def commands():
    optional = {
        field.name: st.none() | _values(field.name, field.type)
        for field in fields(Command)
        if field.name != "command_field"
    }
    return st.builds(Command, command_field=US, **optional)


@pytest.mark.slow
@given(commands())
def test_commands_come_back(command):
    assert decode_command(encode_command(command)) == command


@given(commands(), US, st.integers(64, 300))
def test_prepared_responses_are_those_that_are_encoded(request, status, max_pdu):
    expected = frame_command(3, response_to(request, status), max_pdu)
    assert frame_response(3, request, status, max_pdu) == expected
    # Once more, as everything that responses share has been kept.
    assert frame_response(3, request, status, max_pdu) == expected


@pytest.mark.slow
@given(commands(), st.data())
def test_damaged_commands_raise_nothing_else(command, data):
    encoded = bytearray(encode_command(command))
    for at in data.draw(st.lists(st.integers(0, len(encoded) - 1), max_size=4)):
        encoded[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(encoded)))
    _only_protocol_errors(decode_command, bytes(encoded[:cut]))


@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing_else(data):
    for decode in (decode_command, decode_request, decode_accept):
        _only_protocol_errors(decode, data)
        _only_protocol_errors(decode, bytes(68) + data)


def _only_protocol_errors(decode, data):
    try:
        return decode(data)
    except ProtocolError:
        return None


# ------------------------------------------------------------------------------------ negotiation

FEW_UIDS = st.sampled_from([*SOP_CLASSES, *list(STORAGE_SOP_CLASSES)[:4], "1.2.3.4"]) | UIDS
SYNTAXES = st.lists(st.sampled_from(STORAGE_TRANSFER_SYNTAXES) | UIDS, min_size=1, max_size=4).map(tuple)


# pynetdicom gives an empty primary field back as something else.
IDENTITIES = st.builds(
    UserIdentity, st.integers(1, 5), st.booleans(), st.binary(min_size=1, max_size=300), st.binary(max_size=300)
) | st.builds(UserIdentity, st.just(4), st.booleans(), st.just(b"<saml>" * 9000))


@st.composite
def proposals(draw):
    kinds = draw(st.lists(st.tuples(FEW_UIDS, SYNTAXES), min_size=1, max_size=20))
    ids = draw(st.permutations(range(1, 256, 2)))
    contexts = tuple(ProposedContext(ids[n], abstract, syntaxes) for n, (abstract, syntaxes) in enumerate(kinds))
    user = UserInformation(
        draw(st.just(0) | st.integers(64, 2**32 - 1)),
        draw(UIDS),
        draw(TITLES),
        draw(st.none() | st.tuples(US, US)),
        draw(st.dictionaries(FEW_UIDS, st.sampled_from([(True, False), (False, True), (True, True)]), max_size=3)),
        draw(st.dictionaries(FEW_UIDS, st.binary(min_size=1, max_size=9), max_size=3)),
        draw(st.none() | IDENTITIES),
    )
    return Proposal(draw(TITLES), draw(TITLES), contexts, user)


@pytest.mark.slow
@given(proposals())
def test_proposals_come_back_also_by_way_of_pynetdicom(proposal):
    encoded = encode_request(proposal)
    assert decode_request(encoded[6:]) == proposal
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(encoded)
    assert pdu.encode() == encoded


@pytest.mark.slow
@given(proposals(), st.data())
def test_damaged_proposals_raise_nothing_else_and_can_be_answered(proposal, data):
    encoded = bytearray(encode_request(proposal)[6:])
    for at in data.draw(st.lists(st.integers(0, len(encoded) - 1), min_size=1, max_size=4)):
        encoded[at] = data.draw(st.integers(0, 255))
    damaged = _only_protocol_errors(decode_request, bytes(encoded))
    if damaged is not None:
        encode_accept(damaged, negotiate(damaged, supports(accept_unknown=True))[0])


@pytest.mark.slow
@given(proposals(), st.booleans())
def test_every_context_is_answered_once_and_only_as_proposed(proposal, accept_unknown):
    answer, accepted = negotiate(proposal, supports(accept_unknown=accept_unknown))
    proposed = {context.context_id: context for context in proposal.contexts}
    assert [result[0] for result in answer.results] == list(proposed)
    assert {context.context_id for context in accepted} == {id_ for id_, result, _ in answer.results if result == 0}
    for context in accepted:
        assert context.transfer_syntax in proposed[context.context_id].transfer_syntaxes
        scu, scp = proposal.user.roles.get(context.abstract_syntax, (True, False))
        assert (context.as_scp, context.as_scu) <= (scu, scp)
    for name, (scu, scp) in answer.user.roles.items():
        assert (scu, scp) <= proposal.user.roles[name]
    for name, information in answer.user.extended.items():
        assert all(ours <= theirs for ours, theirs in zip(information, proposal.user.extended[name], strict=False))
    if proposal.user.async_operations is None:
        assert answer.user.async_operations is None
    else:
        asked, (granted, ours) = proposal.user.async_operations[0], answer.user.async_operations
        assert 1 <= granted <= (asked or granted)
        assert ours == 1
        services = {service_of(context.abstract_syntax) for context in accepted}
        assert granted == 1 or services <= {Service.VERIFICATION, Service.STORAGE}
    assert decode_accept(encode_accept(proposal, answer)[6:]) == answer


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 127).map(lambda n: 2 * n + 1), st.integers(0, 4), UIDS)),
    proposals(),
    st.none() | st.binary(max_size=300),
)
def test_answers_come_back(results, proposal, response):
    answer = Answer(tuple(results), replace(proposal.user, identity=None, identity_response=response))
    assert decode_accept(encode_accept(proposal, answer)[6:]) == answer


# ------------------------------------------------------------------------------------ framing


@given(st.binary(max_size=3000), st.booleans(), st.integers(7, 700), st.booleans())
def test_frames_fit_and_come_back(data, command, max_pdu, last):
    stream = b"".join(frame(3, data, command=command, max_pdu=max_pdu, last=last))
    joined, controls = b"", []
    while stream:
        kind, length = HEADER.unpack_from(stream)
        size, context_id, control = PDV_HEADER.unpack_from(stream, 6)
        assert (kind, length, context_id) == (PDUType.P_DATA, size + 4, 3)
        assert length <= max_pdu
        joined, stream = joined + stream[12 : 6 + length], stream[6 + length :]
        controls.append(control)
    flag = COMMAND if command else 0
    assert joined == data
    assert controls == [flag] * (len(controls) - 1) + [flag | LAST if last else flag]


class _Chunks:
    """A transport that gives the bytes in pieces of given sizes, whatever is asked for."""

    def __init__(self, data, sizes):
        self._data = data
        self._sizes = iter(sizes)

    def receive_into(self, view, deadline):
        size = min(next(self._sizes, len(self._data)), len(view), len(self._data))
        if not size:
            raise ConnectionLost("end")
        view[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def acknowledge(self):
        pass

    def readable(self):
        return bool(self._data)


def _association(transport, max_pdu_size=256):
    return Association(
        transport,
        PDUReader(transport, max_pdu_size=max_pdu_size, pdu_timeout=5),
        contexts={1: AcceptedContext(1, "1.2", "1.3", as_scu=True, as_scp=True)},
        max_pdu_size=max_pdu_size,
        timeouts=Timeouts(5, 5),
        calling_ae="A",
        called_ae="B",
        peer="p",
    )


@st.composite
def fragmented(draw):
    """A message, and the same cut into PDVs anywhere, several or none to a PDU, none over 256 bytes."""
    command = Command(command_field=draw(US), error_comment=draw(TEXTS))
    data = draw(st.none() | st.binary(max_size=600))
    command.command_data_set_type = 0x0101 if data is None else 1
    pdvs = _cut(draw, encode_command(command), COMMAND) + ([] if data is None else _cut(draw, data, 0))
    pdus, current = [], b""
    for value in pdvs:
        if current and (len(current) + len(value) > 256 or draw(st.booleans())):
            pdus.append(p_data(current))
            current = b""
            if draw(st.integers(0, 9)) == 0:
                pdus.append(p_data())
        current += value
    return command, data, b"".join([*pdus, p_data(current)])


def _cut(draw, data, flag):
    pieces = []
    sizes = iter(draw(st.lists(st.sampled_from([0, 1, 2, 7, 99, 250]), max_size=9)))
    while True:
        piece, data = data[: (size := next(sizes, 250))], data[size:]
        pieces.append(pdv(1, flag if data else flag | LAST, piece))
        if not data:
            return pieces


@pytest.mark.slow
@given(st.lists(fragmented(), min_size=1, max_size=3), st.lists(st.integers(1, 300), max_size=40))
def test_messages_come_in_the_same_however_they_are_cut(messages, sizes):
    association = _association(_Chunks(b"".join(stream for _, _, stream in messages), sizes))
    for command, data, _ in messages:
        incoming = association.read_message()
        assert incoming.command == command
        assert association.read_data() == (data or b"")
        association.done()
    assert not association.waiting()
    with pytest.raises(ConnectionLost):
        association.read_message()


@given(st.lists(st.binary(max_size=40).map(lambda body: b"\4\0" + len(body).to_bytes(4, "big") + body)))
def test_any_p_data_raises_nothing_else(pdus):
    association = _association(_Chunks(b"".join(pdus), []))
    with contextlib.suppress(ProtocolError, ConnectionLost):
        while True:
            association.read_message()
            association.skip_data()


# Of any length: binaries of Hypothesis are mostly shorter than one fragment.
@given(st.integers(1, 5000).map(lambda size: (bytes(range(251)) * 20)[:size]), st.integers(64, 300), st.integers(0, 40))
def test_files_go_out_as_messages_do(tmp_path_factory, data, max_pdu, offset):
    path = tmp_path_factory.mktemp("file") / "x"
    path.write_bytes(bytes(offset) + data)
    command = Command(command_field=1, message_id=1)
    with tcp_pair() as (peer, ours), FileSource(str(path), "x") as source:
        _association(Transport(ours, tick=1), max_pdu).send_source(1, command, DataSetSource(source, offset))
        padded = data + bytes(len(data) % 2)
        expected = b"".join(encode_message(1, command, padded, max_pdu // 2 * 2))
        ours.close()
        with peer.makefile("rb") as stream:
            assert stream.read() == expected


def test_a_file_that_is_too_short_is_noticed_before_a_byte_is_sent_or_ends_the_association(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(3000))
    with tcp_pair() as (_, ours), FileSource(str(path), "x") as source:
        association = _association(Transport(ours, tick=1), 16384)
        source.size += 10
        with pytest.raises(StorageUnavailable, match="shorter"):
            association.send_source(1, Command(command_field=1), DataSetSource(source, 3000))
        assert association.transport.bytes_out == 0
        with pytest.raises(MessageCut):
            association.send_source(1, Command(command_field=1), source)
