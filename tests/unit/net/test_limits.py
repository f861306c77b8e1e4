"""Rates, penalties, throttles and caps, with a clock that stands still; and logging sparingly."""

import logging
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian
from servers import CT, EXPLICIT, proposal

from pacs_server.config import AccessControlConfig, PeerRule, ServerConfig
from pacs_server.dicom import header, json_codec, keys
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.encoding import IMPLICIT_LE, deflated
from pacs_server.dicom.reader import read_elements
from pacs_server.errors import InvalidIdentifier, InvalidInstance, PacsError, TranscodeError
from pacs_server.kit.logs import Sparingly
from pacs_server.net.acceptor import Admitted
from pacs_server.net.associate import decode_request, encode_accept, encode_request
from pacs_server.net.limits import ConnectionRateLimiter, PenaltyQueue, Throttle
from pacs_server.net.message import Command, CommandField, decode_command, encode_command
from pacs_server.net.negotiation import APPLICATION_CONTEXT, Support, UserInformation, negotiate
from pacs_server.net.pdu import ProtocolError
from pacs_server.scp.admission import Admission
from pacs_server.scp.rejections import LOCAL_LIMIT_EXCEEDED, LOCAL_LIMIT_OF_AE_EXCEEDED


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ------------------------------------------------------------------------------------ penalties


def test_who_wastes_nothing_waits_for_nobody() -> None:
    penalties = PenaltyQueue(clock=Clock())
    penalties.penalise("a", 0.1)
    assert [penalties.delay("b") for _ in range(3)] == [0.0] * 3
    assert len(penalties) == 1


def test_after_a_waste_the_others_of_the_address_begin_one_after_the_other() -> None:
    clock = Clock()
    penalties = PenaltyQueue(factor=3.0, clock=clock)
    assert penalties.delay("a") == 0.0
    penalties.penalise("a", 0.1)
    assert [penalties.delay("a") for _ in range(3)] == pytest.approx([0.3, 0.6, 0.9])
    clock.now += 1.0
    assert penalties.delay("a") == pytest.approx(0.2)


def test_a_flood_takes_its_part_of_the_processor_and_no_more() -> None:
    """Each costs 10 ms when its turn comes: a quarter of the time is theirs, however fast they come."""
    clock = Clock()
    penalties = PenaltyQueue(factor=3.0, clock=clock)
    began = clock.now
    for _ in range(100):
        clock.now += penalties.delay("a") + 0.01
        penalties.penalise("a", 0.01)
    assert 100 * 0.01 / (clock.now - began) == pytest.approx(0.25, rel=0.05)


def test_turns_are_forgiven_bounded_and_few() -> None:
    clock = Clock()
    penalties = PenaltyQueue(most=3, clock=clock)
    penalties.penalise("a", 3600.0)
    assert [penalties.delay("a") for _ in range(10)] == [5.0] * 10
    clock.now += 5.0 + 5.0 + 1.1
    assert penalties.delay("a") == 0.0
    assert len(penalties) == 0
    for number in range(10):
        penalties.penalise(str(number), 0.01)
    assert len(penalties) == 3


# ------------------------------------------------------------------------------------ association rate


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    rates = ConnectionRateLimiter(clock=clock)
    assert [rates.allows("a", 2.0, 3) for _ in range(5)] == [True, True, True, False, False]
    assert rates.allows("b", 2.0, 3)
    clock.now += 0.5
    assert [rates.allows("a", 2.0, 3) for _ in range(2)] == [True, False]
    clock.now += 3600
    assert [rates.allows("a", 2.0, 3) for _ in range(4)] == [True, True, True, False]


def test_who_is_refused_pays_nothing() -> None:
    """Whoever goes on trying gets in at the rate all the same."""
    clock = Clock()
    rates = ConnectionRateLimiter(clock=clock)
    allowed = 0
    for _ in range(1000):
        allowed += rates.allows("a", 1.0, 1)
        clock.now += 0.01
    assert 9 <= allowed <= 11


def test_addresses_are_forgotten() -> None:
    clock = Clock()
    rates = ConnectionRateLimiter(most=100, clock=clock)
    for number in range(1000):
        rates.allows(str(number), 1.0, 2)
    assert len(rates) == 100
    clock.now += 10
    for _ in range(200):
        rates.allows("a", 1.0, 2)
    assert len(rates) == 1


@given(
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 2), st.sampled_from("ab")), max_size=200),
)
def test_never_more_than_burst_and_rate(rate: float, burst: int, arrivals: list[tuple[float, str]]) -> None:
    clock = Clock()
    rates = ConnectionRateLimiter(clock=clock)
    allowed = 0
    for wait, address in arrivals:
        clock.now += wait
        allowed += rates.allows(address, rate, burst) and address == "a"
    assert allowed <= burst + (clock.now - 1000) * rate + 1e-6


# ------------------------------------------------------------------------------------ data rate


@given(st.integers(1024, 10**6), st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1)), min_size=1, max_size=50))
def test_the_pace_is_kept(rate: int, moved: list[tuple[int, float]]) -> None:
    clock = Clock()

    def pause(seconds: float) -> None:
        clock.now += seconds

    throttle = Throttle(rate, pause, clock=clock)
    total = 0
    for size, elsewhere in moved:
        throttle.spend(size)
        total += size
        assert total <= rate * (clock.now - 1000 + 1) + 1
        clock.now += elsewhere


def test_within_the_pace_nobody_waits() -> None:
    def pause(seconds: float) -> None:
        raise AssertionError

    clock = Clock()
    throttle = Throttle(1000, pause, clock=clock)
    throttle.spend(1000)
    for _ in range(100):
        clock.now += 0.1
        throttle.spend(99)


# ------------------------------------------------------------------------------------ associations of one AE


def admission(*peers: PeerRule, **access: int) -> Admission:
    return Admission(
        ServerConfig(max_associations=10), AccessControlConfig(allowed_ae_titles=("*",), peers=peers, **access)
    )


def caller(title: str) -> Caller:
    return Caller(Door.DIMSE, "127.0.0.1", title, "PACS")


def taken(admission: Admission, title: str, times: int) -> list[object]:
    results = (admission.admit(caller(title), None) for _ in range(times))
    return ["in" if isinstance(result, Admitted) else result for result in results]


def test_places_of_one_ae_title() -> None:
    door = admission(max_associations_per_ae=2)
    assert taken(door, "CT1", 3) == ["in", "in", LOCAL_LIMIT_OF_AE_EXCEEDED]
    assert taken(door, "CT2", 3) == ["in", "in", LOCAL_LIMIT_OF_AE_EXCEEDED]
    door.leave(caller("CT1"))
    assert taken(door, "CT2", 1) == [LOCAL_LIMIT_OF_AE_EXCEEDED]
    assert taken(door, "CT1", 2) == ["in", LOCAL_LIMIT_OF_AE_EXCEEDED]
    for title in ("CT1", "CT1", "CT2", "CT2"):
        door.leave(caller(title))
    assert taken(door, "CT2", 3) == ["in", "in", LOCAL_LIMIT_OF_AE_EXCEEDED]


def test_a_peers_own_number_counts_instead() -> None:
    door = admission(PeerRule(ae_title="CT*", max_associations=3), max_associations_per_ae=1)
    assert taken(door, "CT1", 4) == ["in", "in", "in", LOCAL_LIMIT_OF_AE_EXCEEDED]
    # Each title of the pattern has as many.
    assert taken(door, "CT2", 4) == ["in", "in", "in", LOCAL_LIMIT_OF_AE_EXCEEDED]
    assert taken(door, "MR", 2) == ["in", LOCAL_LIMIT_OF_AE_EXCEEDED]
    assert taken(door, "CT3", 4) == ["in", "in", "in", LOCAL_LIMIT_EXCEEDED]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ABC")), max_size=100))
def test_places_are_counted_exactly(steps: list[tuple[bool, str]]) -> None:
    door = admission(max_associations_per_ae=2)
    held = {"A": 0, "B": 0, "C": 0}
    for come, title in steps:
        if come:
            assert taken(door, title, 1) == ["in" if held[title] < 2 else LOCAL_LIMIT_OF_AE_EXCEEDED]
            held[title] = min(held[title] + 1, 2)
        elif held[title]:
            door.leave(caller(title))
            held[title] -= 1


# ------------------------------------------------------------------------------------ logging sparingly


def test_once_a_minute_with_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    sparingly = Sparingly(logging.getLogger("sparing"), clock=clock)
    for _ in range(5):
        sparingly.log(logging.WARNING, "refused", "10.0.0.1", "rate")
    sparingly.log(logging.WARNING, "refused", "10.0.0.1", "protocol", ended="broken")
    sparingly.log(logging.WARNING, "refused", "10.0.0.2", "rate")
    assert [(r.peer, r.reason, getattr(r, "left_out", 0)) for r in caplog.records] == [
        ("10.0.0.1", "rate", 0),
        ("10.0.0.1", "protocol", 0),
        ("10.0.0.2", "rate", 0),
    ]
    caplog.clear()
    clock.now += 61
    for _ in range(2):
        sparingly.log(logging.WARNING, "refused", "10.0.0.1", "rate")
    assert [(r.reason, r.left_out) for r in caplog.records] == [("rate", 4)]
    caplog.clear()
    clock.now += 61
    sparingly.log(logging.WARNING, "refused", "10.0.0.1", "rate")
    assert [r.left_out for r in caplog.records] == [1]


def test_a_flood_of_addresses_fills_neither_memory_nor_the_log(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    sparingly = Sparingly(logging.getLogger("sparing"), most=10, clock=clock)
    for number in range(1000):
        sparingly.log(logging.WARNING, "refused", str(number), "rate")
    assert len(caplog.records) == 10
    clock.now += 61
    sparingly.log(logging.WARNING, "refused", "new", "rate")
    assert caplog.records[-1].peer == "new"
    assert len(sparingly._last) == 10


# ------------------------------------------------------------------------------------ caps on what is negotiated


def test_the_128_contexts_that_there_are_ids_for() -> None:
    request = encode_request(proposal(*[(CT, [EXPLICIT])] * 128))
    assert len(decode_request(request[6:]).contexts) == 128
    # IDs are one byte: one more is one of them again, or the same context ten thousand times.
    start = 6 + 68 + 4 + len(APPLICATION_CONTEXT)
    one = request[start : start + 4 + int.from_bytes(request[start + 2 : start + 4], "big")]
    with pytest.raises(ProtocolError, match="more than 128"):
        decode_request(request[6:start] + one * 4000 + request[start:])


@pytest.mark.parametrize("size", [1, 7, 63])
def test_pdus_too_short_to_carry_anything(size: int) -> None:
    with pytest.raises(ProtocolError, match="too short"):
        decode_request(encode_request(proposal((CT, [EXPLICIT]), max_pdu_size=size))[6:])


def test_names_that_are_no_uids_do_not_swell_the_answer() -> None:
    """The answer to 64 KiB of roles would not fit into its item, whose length has 16 bits."""
    names = [f"1.2.{number}.".ljust(503, "3") for number in range(128)]
    proposed = proposal(*((name, [EXPLICIT]) for name in names), roles=dict.fromkeys(names, (True, True)))
    proposed = decode_request(encode_request(proposed)[6:])
    answer, accepted = negotiate(proposed, lambda name: Support((EXPLICIT,), as_scu=True))
    assert accepted == []
    assert answer.user == UserInformation()
    assert len(encode_accept(proposed, answer)) < 10_000


# ------------------------------------------------------------------------------------ caps on command and data sets


def test_a_command_set_of_nothing_but_elements() -> None:
    plain = encode_command(Command(command_field=CommandField.C_ECHO, message_id=1, command_data_set_type=0x101))
    rubbish = struct.pack("<HHL", 0, 0x7777, 0)
    command = decode_command(plain + rubbish * ((16 * 1024 - len(plain)) // 8))
    assert command.message_id == 1


def nested(depth: int, *, delimited: bool) -> bytes:
    """Sequences in sequences, in Implicit VR Little Endian."""
    data = b""
    for _ in range(depth):
        for tag, end in (((0xFFFE, 0xE000), 0xE00D), ((0x0008, 0x1140), 0xE0DD)):
            length = 0xFFFFFFFF if delimited else len(data)
            data = struct.pack("<HHL", *tag, length) + data
            data += struct.pack("<HHL", 0xFFFE, end, 0) if delimited else b""
    return data


def empty_elements(count: int) -> bytes:
    """Elements without values, in Implicit VR Little Endian."""
    tags = (0x00090000 + (number % 0x10000) + 0x20000 * (number // 0x10000) for number in range(count))
    return b"".join(struct.pack("<HHL", tag >> 16, tag & 0xFFFF, 0) for tag in tags)


def refusal(read: object, *arguments: object) -> str:
    """What is said of it, nothing if it is taken."""
    try:
        read(*arguments)  # type: ignore[operator]
    except PacsError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def identifier(data: bytes) -> object:
    return keys.return_keys(keys.decode_identifier(data, ImplicitVRLittleEndian).keys)


def attributes(data: bytes) -> object:
    return json_codec.decode_data_set(data, ImplicitVRLittleEndian, 1 << 22)


@pytest.mark.parametrize("delimited", [True, False])
def test_depth(delimited: bool) -> None:
    assert refusal(identifier, nested(16, delimited=delimited)) == ""
    assert refusal(identifier, nested(17, delimited=delimited)).startswith("InvalidIdentifier")
    assert refusal(attributes, nested(16, delimited=delimited)) == ""
    assert refusal(attributes, nested(17, delimited=delimited)) == "TranscodeError: sequences nested deeper than 16"
    whole = nested(100, delimited=delimited)
    assert refusal(read_elements, memoryview(whole), IMPLICIT_LE) == ""
    for depth in (101, 5000):
        deeper = nested(depth, delimited=delimited)
        assert "deeper than 100" in refusal(read_elements, memoryview(deeper), IMPLICIT_LE)
        assert "InvalidIdentifier" in refusal(identifier, deeper)


def test_depth_of_a_header() -> None:
    """32 levels that have no length are stepped over; one more is not, and never in a recursion."""
    for depth, said in ((32, "is missing"), (33, "nested deeper"), (5000, "nested deeper")):
        data = nested(depth, delimited=True)
        with pytest.raises(InvalidInstance, match=said):
            header.read_header(data, ImplicitVRLittleEndian, complete=True)


@pytest.mark.slow
def test_numbers_of_elements() -> None:
    assert refusal(identifier, empty_elements(10_000)) == ""
    assert refusal(identifier, empty_elements(10_001)).startswith("InvalidIdentifier")
    assert refusal(attributes, empty_elements(100_000)) == ""
    assert refusal(attributes, empty_elements(100_001)) == "TranscodeError: the data set has too many elements"
    # Items count too: they may be empty.
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 10_001
    assert "InvalidIdentifier" in refusal(identifier, struct.pack("<HHL", 8, 0x1140, len(items)) + items)


def test_elements_of_a_header() -> None:
    with pytest.raises(InvalidInstance, match="more than 100000 elements"):
        header.read_header(struct.pack("<HHL", 8, 0, 0) * 100_001, ImplicitVRLittleEndian, complete=True)


@pytest.mark.slow
def test_bombs_are_inflated_no_further_than_they_may_be_long() -> None:
    bomb = deflated(bytes(64 << 20))
    assert len(bomb) < 70_000
    tracemalloc.start()
    try:
        with pytest.raises(InvalidIdentifier, match="too long"):
            keys.decode_identifier(bomb, DeflatedExplicitVRLittleEndian)
        with pytest.raises(TranscodeError, match="too long"):
            json_codec.decode_data_set(bomb, DeflatedExplicitVRLittleEndian, 1 << 20)
        with pytest.raises(InvalidInstance):
            header.read_header(bomb, DeflatedExplicitVRLittleEndian, complete=True)
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
