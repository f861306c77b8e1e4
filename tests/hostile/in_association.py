"""Scenarios of peers that have an association and break the protocol on it, or use it to flood."""

import contextlib
import struct
import time

from hostile.before_association import together
from hostile.mutation import mutated
from hostile.payloads import ct, data_set, keys, references, step
from hostile.peers import CONTEXT, REQUEST, Peer, Target, command, everything
from processes import wait_for
from servers import echo_request, message, p_data, pdv

from pacs_server.net.message import Command, CommandField, encode_command
from pacs_server.net.pdu import COMMAND, HEADER, LAST, RELEASE_RP, RELEASE_RQ, PDUType, encode_abort

ECHO = message(CONTEXT["echo"], echo_request())
# Refused at its end, since the command announces another instance: what is changed in it stores nothing.
STORE = message(
    CONTEXT["store"], command("store", affected_sop_instance_uid="1.2.3.4.5"), ct("2.3") + bytes(5000), 1000
)
_FIND = keys("STUDY", {0x0020000D: ("UI", ""), 0x00081030: ("LO", ""), 0x00100010: ("PN", "")})
FIND = message(CONTEXT["find"], command("find"), _FIND)


def mutated_exchanges(target: Target) -> int:
    """Exchanges of echo, store, find and release with changes anywhere, their PDUs in any order."""
    mpps = message(CONTEXT["mpps"], command("mpps"), bytes(60))
    pdus = [ECHO, STORE[:1200], STORE, mpps, message(CONTEXT["find"], command("find"), keys("STUDY", {})), RELEASE_RQ]
    for _ in range(40):
        target.random.shuffle(pdus)
        stream = b"".join(pdus[: target.random.randint(1, 6)])
        with target.associate() as peer:
            peer.push(mutated(stream, target.random, pdus))
            with contextlib.suppress(OSError):
                peer.socket.shutdown(1)
            peer.drain()
    return 40


def odd_presentation_data_values(target: Target) -> int:
    """PDVs on unknown contexts, of length 0, 1, odd and huge; data before command; a command that goes on for ever."""
    first = encode_command(echo_request())
    said = [
        *(p_data(pdv(context, COMMAND | LAST, first)) for context in (0, 2, 99, 255)),
        *(HEADER.pack(4, 6) + struct.pack(">IBB", length, 1, 3) for length in (0, 1, 3, 2**16, 2**31, 2**32 - 1)),
        *(HEADER.pack(4, size) + bytes(size) for size in (1, 3, 5)),
        p_data(pdv(1, LAST, b"data")),
        p_data(pdv(CONTEXT["find"], COMMAND | LAST, encode_command(command("find"))), pdv(1, LAST, b"12")),
        p_data(pdv(1, COMMAND, bytes(10_000))) * 3,
        p_data(pdv(1, COMMAND | LAST, b"\0" * 7)),
        p_data(pdv(1, COMMAND | LAST, first[:-1])),
        p_data(pdv(1, 0xFF, first)),
    ]
    for data in said:
        with target.associate() as peer:
            peer.push(data)
            # A data set of a request for which nobody waits may be cut off by the deadline.
            peer.drain()
    return len(said)


def commands_in_single_bytes(target: Target) -> int:
    """A command whose every byte is a PDV, and whose every PDV is a PDU: odd, and yet to be answered."""
    for split in (p_data, lambda *values: b"".join(map(p_data, values))):
        with target.associate() as peer:
            data = encode_command(Command(CommandField.C_ECHO, message_id=7, command_data_set_type=0x0101))
            values = [
                pdv(1, COMMAND | (LAST if at == len(data) - 1 else 0), data[at : at + 1]) for at in range(len(data))
            ]
            peer.push(split(*values))
            assert peer.status() == 0
            peer.release()
    return 2


def empty_pdus(target: Target) -> int:
    """P-DATA without a PDV: passed over between messages, and no way to keep a message open."""
    empty = HEADER.pack(PDUType.P_DATA, 0)
    with target.associate() as peer:
        peer.push(empty * 5000)
        assert peer.echo() == 0
    start = p_data(pdv(1, COMMAND, b"\0\0"))
    return 5000 + together(
        target, [lambda peer, more=more: _flood(peer, start, more) for more in (empty, p_data(pdv(1, COMMAND)))]
    )


def _flood(peer: Peer, start: bytes, rest: bytes) -> None:
    """`start` and then `rest` for ever; the server has to have enough of it."""
    peer.associate(everything())
    assert peer.push(start)
    began = time.monotonic()
    while peer.push(rest):
        assert time.monotonic() - began < 30, "a message without an end is not cut off"
        time.sleep(0.02)


def dripping_messages(target: Target) -> int:
    """Peers that are slow in each phase: a PDU by bytes, a command by PDUs, a data set by PDUs."""
    find = p_data(pdv(CONTEXT["find"], COMMAND | LAST, encode_command(command("find", command_data_set_type=1))))
    mpps = p_data(pdv(CONTEXT["mpps"], COMMAND | LAST, encode_command(command("mpps", command_data_set_type=1))))

    def bytewise(peer: Peer) -> None:
        peer.associate(everything())
        peer.drip(HEADER.pack(4, 100_000) + bytes(100), 0.05)

    def first(peer: Peer) -> None:
        peer.associate(everything())
        peer.drip(b"\x04\0\0\0", 0.05)

    doing = [bytewise, first] * 3
    for context, start in (("find", find), ("mpps", mpps), ("store", STORE[:1000])):
        end = p_data(pdv(CONTEXT[context], 0, b"12"))
        doing.append(lambda peer, start=start, end=end: _flood(peer, start, end))
    doing.append(lambda peer: _flood(peer, p_data(pdv(1, COMMAND, b"\0")), p_data(pdv(1, COMMAND, b"\0"))))
    return together(target, doing)


def unread_answers(target: Target) -> int:
    """Peers that ask for more than they ever read, matches and echoes, and keep their end open."""
    before = target.threads()
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(Peer(target.address, buffer=4096)) for _ in range(3)]
        for peer in peers:
            peer.associate(everything())
        for peer, data in zip(peers, (FIND, FIND, ECHO * 200_000), strict=True):
            peer.push(data)
        wait_for(lambda: target.threads() <= before, "the end of peers that read no answers")
    return len(peers)


def pipelined_echoes(target: Target) -> int:
    """Ten thousand requests before an answer is read: all are answered, or the association is ended."""
    with target.associate() as peer:
        peer.push(ECHO * 10_000)
        with contextlib.suppress(OSError):
            peer.socket.shutdown(1)
        peer.drain()
    return 10_000


def cancel_floods(target: Target) -> int:
    """Cancels of nothing, and of a query that runs."""
    cancel = message(CONTEXT["find"], Command(CommandField.C_CANCEL, message_id_being_responded_to=1))
    with target.associate() as peer:
        peer.push(cancel * 50)
        assert peer.echo() == 0
        peer.push(FIND + cancel * 100)
        peer.socket.shutdown(1)
        peer.drain()
    with target.associate() as peer:
        # More than that in a row is no peer that was late: this one is sent away.
        peer.push(cancel * 5000)
        peer.drain()
    return 5150


def release_collisions(target: Target) -> int:
    """Release twice, with data behind it, in the middle of a message, answered but not asked, and then aborted."""
    said = [
        RELEASE_RQ * 2, RELEASE_RQ + RELEASE_RP, RELEASE_RP, RELEASE_RQ + ECHO, STORE[:1200] + RELEASE_RQ,
        ECHO * 5 + RELEASE_RQ, FIND + RELEASE_RQ, RELEASE_RQ + encode_abort(), FIND + RELEASE_RP, RELEASE_RQ + REQUEST,
    ]  # fmt: skip
    for data in said:
        with target.associate() as peer:
            peer.push(data)
            peer.drain()
    return len(said)


def endings_everywhere(target: Target) -> int:
    """Abort, end of stream and reset in every state of an association."""
    states = [b"", ECHO, ECHO[:3], ECHO[:20], STORE[:300], STORE[:1200], STORE[:-1], STORE, FIND[:-1], FIND, RELEASE_RQ]
    for state in states:
        for ending in ("abort", "close", "reset"):
            peer = target.associate()
            peer.push(state + (encode_abort() if ending == "abort" else b""))
            peer.reset() if ending == "reset" else peer.socket.close()
    return 3 * len(states)


def endings_at_any_byte(target: Target) -> int:
    """Requests of every service that end at any byte, with an abort, a reset, or the end of the stream."""
    of_study = keys("STUDY", {0x0020000D: ("UI", target.study)})
    requests = {
        "echo": None, "store": ct("1.2.3.4"), "find": of_study, "move": of_study, "get": of_study,
        "worklist": data_set({0x00100010: ("PN", "")}), "mpps": step(), "commitment": references(["1.2.3.4"]),
    }  # fmt: skip
    acts = 0
    for service, data in requests.items():
        whole = message(CONTEXT[service], command(service), data, 100)
        for ending in ("abort", "close", "reset") * 8:
            with target.associate() as peer:
                # Behind almost all of a request an abort would pass for the rest of it.
                peer.push(whole[: target.random.randrange(len(whole) - len(encode_abort()))])
                if ending == "abort":
                    peer.push(encode_abort())
                elif ending == "reset":
                    peer.reset()
            acts += 1
    return acts


def responses_to_nothing(target: Target) -> int:
    """Responses that nobody asked for, of every kind, and commands that do not exist."""
    with target.associate() as peer:
        for field in (0x8001, 0x8020, 0x8021, 0x8100, 0x8130, 0xFFFF, 0x8FFF):
            peer.push(message(1, Command(field, message_id_being_responded_to=1, status=0), bytes(10)))
        assert peer.echo() == 0
        for field in (0x0000, 0x0002, 0x0150, 0x7FFF):
            peer.push(message(1, Command(field, message_id=3), bytes(10)))
            assert peer.status() == 0x0211
        assert peer.echo() == 0
    return 11
