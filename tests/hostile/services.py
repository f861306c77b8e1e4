"""Scenarios of requests that are well-formed and malign: UIDs, patterns, depth, width, inflation, destinations."""

import contextlib
import struct
import time

from hostile import payloads
from hostile.payloads import (
    PATHS,
    PATTERNS,
    bomb,
    ct,
    data_set,
    deep,
    element,
    items,
    keys,
    many_values,
    references,
    step,
    wide,
)
from hostile.peers import CONTEXT, PATIENCE, Target, command
from processes import wait_for
from servers import message

from pacs_server.dicom.encoding import deflated
from pacs_server.net.message import Command, CommandField

_SUCCESS = (0x0000, 0xB000, 0xB007)
# What a C-FIND and the like answer when they do what was asked.
_ANSWERED = (*_SUCCESS, 0xFE00)


def _refused(target: Target, service: str, request: Command, data: bytes | None) -> int | None:
    """Ask, and hold that it is neither done nor left without an answer."""
    with target.associate() as peer:
        status = peer.ask(service, request, data)
        assert status not in _SUCCESS, (service, hex(status or 0), request)
        return status


def _asked(target: Target, service: str, request: Command, data: bytes | None) -> int | None:
    """Ask, and hold that the answer comes soon, whatever it is."""
    began = time.monotonic()
    with target.associate() as peer:
        status = peer.ask(service, request, data)
        assert time.monotonic() - began < PATIENCE
        return status


def odd_uids(target: Target) -> int:
    """Names of instances that are paths, lines or commands, in every service that takes UIDs."""
    for uid in PATHS:
        name = uid.replace("\\", "/")
        if name.strip(" ") != "":
            _refused(target, "store", command("store", affected_sop_instance_uid=uid), ct("1.2.3.4"))
        _refused(target, "store", command("store", affected_sop_instance_uid="1.2.3.4"), ct(uid))
        _refused(target, "store", command("store"), ct("1.2.3.4", study=uid))
        _refused(target, "store", command("store"), ct("1.2.3.4", series=uid))
        _asked(target, "find", command("find"), keys("STUDY", {0x0020000D: ("UI", uid)}))
        for service in ("move", "get"):
            # An empty UID is none, and one of nobody moves nothing.
            _asked(target, service, command(service), keys("STUDY", {0x0020000D: ("UI", uid)}))
        _asked(target, "move", command("move", move_destination=uid[:3000]), keys("STUDY", {0x0020000D: ("UI", "1.2")}))
        _refused(target, "commitment", command("commitment"), references(["1.2.3", uid]))
        _refused(target, "commitment", command("commitment"), references(["1.2.3"], transaction=uid))
        _refused(target, "mpps", command("mpps", affected_sop_class_uid=uid), step())
        if uid.strip(" "):
            _refused(target, "mpps", command("mpps", affected_sop_instance_uid=uid), step({0x00400252: ("CS", "X")}))
    return len(PATHS)


def patterns(target: Target) -> int:
    """Wild cards, separators and escapes by the thousand, in queries and worklist queries."""
    for pattern in PATTERNS:
        for tag, vr in ((0x00100010, "PN"), (0x00081030, "LO"), (0x00080020, "DA"), (0x00080030, "TM")):
            _asked(target, "find", command("find"), keys("STUDY", {tag: (vr, pattern)}))
        asked = data_set({0x00080005: ("CS", pattern[:1000]), 0x00100010: ("PN", pattern), 0x00100020: ("LO", pattern)})
        _asked(target, "worklist", command("worklist"), asked)
    return 5 * len(PATTERNS)


def long_identifiers(target: Target) -> int:
    """Identifiers of a mebibyte: one value, a list of UIDs, a list of patterns, and one that is too long."""
    mebibyte = 1 << 20
    uids = "\\".join(f"1.2.{number}" for number in range(90_000))
    for values in (
        {0x0020000D: ("UI", uids)},
        {0x00100010: ("PN", "*a" * 500_000)},
        {0x00100010: ("PN", "a*\\" * 300_000)},
        {0x00100010: ("PN", "\\" * 1_000_000)},
        {0x00100020: ("LO", "x" * 1_000_000)},
        {0x00100010: ("PN", "x" * (2 * mebibyte))},
    ):
        _asked(target, "find", command("find"), keys("STUDY", values))
        _asked(target, "move", command("move", move_destination="SLAM"), keys("STUDY", values))
    return 12


def deep_sequences(target: Target) -> int:
    """Thousands of sequences within each other, in everything that is decoded."""
    for levels in (50, 5000, 60_000):
        implicit = deep(levels, implicit=True)
        _asked(target, "find", command("find"), implicit + keys("STUDY", {}))
        _asked(target, "worklist", command("worklist"), deep(levels, tag=0x00400100))
        _asked(target, "mpps", command("mpps"), deep(levels, tag=0x00400270))
        _asked(target, "commitment", command("commitment"), deep(levels, tag=0x00081199))
        inside = ct("1.2.3.4")
        cut = inside.index(struct.pack("<HH", 0x0010, 0x0010))
        _asked(target, "store", command("store"), inside[:cut] + deep(levels, tag=0x0008113F) + inside[:40])
        _asked(target, "store", command("store"), deep(levels, tag=0x00081140)[: levels * 10])
    return 18


def wide_data_sets(target: Target) -> int:
    """A million elements, and items, where there is room for them."""
    head = ct("1.2.3.4")[:60]
    _asked(target, "find", command("find"), wide(131_000, implicit=True))
    _asked(target, "worklist", command("worklist"), wide(131_000))
    _asked(target, "mpps", command("mpps"), wide(500_000))
    _asked(target, "mpps", command("mpps"), items(500_000, 0x00400270))
    _asked(target, "commitment", command("commitment"), wide(500_000))
    _asked(target, "commitment", command("commitment"), items(1_000_000))
    _asked(target, "store", command("store"), head + wide(1_000_000))
    _asked(target, "store", command("store"), head + items(1_000_000, 0x00081140))
    for tag, value in ((0x00100010, b"a"), (0x00100010, b""), (0x00280010, b"\1")):
        _asked(target, "mpps", command("mpps"), many_values(tag, "PN", value, (4 << 20) - 2000))
        _asked(target, "commitment", command("commitment"), many_values(tag, "PN", value, (4 << 20) - 2000))
        _asked(target, "worklist", command("worklist"), many_values(tag, "PN", value, (1 << 20) - 2000))
    return 17


def deflate_bombs(target: Target) -> int:
    """Ten megabytes that inflate to ten gigabytes, wherever a deflated data set is taken."""
    _refused(target, "store deflated", command("store deflated"), bomb(ct("1.2.3.4")[:60], 10_000))
    _refused(target, "store deflated", command("store deflated"), payloads.zeros(10_000))
    for service in ("find deflated", "worklist deflated", "mpps deflated", "commitment deflated"):
        # As much as fits into what these read; ten gigabytes of packed zeros are ten megabytes.
        for mebibytes in (900, 3500, 10_000):
            _refused(target, service, command(service), bomb(b"", mebibytes))
            _refused(target, service, command(service), payloads.zeros(mebibytes))
        _refused(target, service, command(service), deflated(wide(900_000))[:-20])
    return 30


def bad_destinations(target: Target) -> int:
    """C-MOVE to Storage SCPs that hang, drip, reset, or answer nonsense: it fails, and soon."""
    identifier = keys("STUDY", {0x0020000D: ("UI", target.study)})
    for title in target.destinations:
        request = command("move", move_destination=title)
        status = _refused(target, "move", request, identifier)
        assert status is not None, f"no answer of a move to {title}"
    return len(target.destinations)


def moves_left_behind(target: Target) -> int:
    """Peers that ask for a move to a dead host and go away, or cancel it at once: it ends all the same."""
    identifier = keys("STUDY", {0x0020000D: ("UI", target.study)})
    cancel = message(CONTEXT["move"], Command(CommandField.C_CANCEL, message_id_being_responded_to=1))
    before = target.threads()
    for title in target.destinations:
        for more in (b"", cancel):
            with target.associate() as peer:
                peer.push(message(CONTEXT["move"], command("move", move_destination=title), identifier) + more)
    wait_for(lambda: target.threads() <= before, "the end of moves that nobody waits for")
    return 2 * len(target.destinations)


def lying_objects(target: Target) -> int:
    """Objects whose elements announce more than there is, and ones that are cut at every place."""
    sound = ct("1.2.3.4")
    lies = [element(0x00080005, "CS", b"ISO", length=length) for length in (0xFFFF, 0xFFFE, 1000)]
    lies += [element(0x00081140, "SQ", b"", length=length) for length in (2**32 - 2, 2**31, 7)]
    lies += [element(0x7FE00010, "OB", bytes(10), length=length) for length in (2**32 - 1, 2**32 - 2, 2**31)]
    for lie in lies:
        _refused(target, "store", command("store"), lie + sound if lie < b"\x10" else sound + lie)
    with target.associate() as peer:
        for size in range(0, len(sound) - 40, 5):
            assert peer.ask("store", command("store"), sound[:size]) not in _SUCCESS
    with contextlib.suppress(ConnectionError):
        target.connect().reset()
    return len(lies)
