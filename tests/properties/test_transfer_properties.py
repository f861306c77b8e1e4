"""A C-STORE that ends anywhere, is cut in any way, or is odd: stored whole or not at all, and the archive clean."""

import contextlib
import hashlib
import itertools
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import schema
import servers
from hostile.payloads import ct, data_set, element
from hypothesis import given
from hypothesis import strategies as st
from servers import CT, EXPLICIT, IMPLICIT, message, p_data, pdv, store_request
from trails import silent

from pacs_server.archive.archive import Archive
from pacs_server.audit.auditor import Auditor
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex
from pacs_server.kit.metrics import Metrics
from pacs_server.net.association import Association, Timeouts
from pacs_server.net.message import Command, CommandField, decode_command, encode_command
from pacs_server.net.negotiation import AcceptedContext
from pacs_server.net.pdu import COMMAND, LAST, RELEASE_RQ, PDUReader
from pacs_server.net.transport import AssociationEnded, ConnectionLost
from pacs_server.scp.auditing import AssociationAuditor
from pacs_server.scp.contexts import Service
from pacs_server.scp.dispatch import Dispatcher
from pacs_server.scp.store import StorageSCP
from pacs_server.services.store import StoreService
from pacs_server.storage.filesystem.archive_directory import archive_directory

ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"
DEFLATED = servers.DEFLATED
CONTEXTS = {1: EXPLICIT, 3: IMPLICIT, 5: DEFLATED}
# All of one length: Hypothesis wants the same data set each time that it repeats an example.
_numbers = itertools.count(100_000)


class Wire:
    """A transport without a network: gives the bytes, as many at a time as `sizes` say, and keeps what is sent."""

    def __init__(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        self._data = data
        self._sizes = iter(sizes)
        self.sent = b""

    def receive_into(self, view: memoryview, deadline: float) -> int:
        size = min(next(self._sizes, len(self._data)), len(view), len(self._data))
        if not size:
            raise ConnectionLost("end")
        view[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def acknowledge(self) -> None:
        pass

    def readable(self) -> bool:
        return bool(self._data)

    def send(self, buffers: Sequence[Any], timeout: float) -> None:
        self.sent += b"".join(map(bytes, buffers))

    def pause(self, seconds: float) -> None:
        """Go on at once."""

    def statuses(self) -> list[int | None]:
        """Of the responses that were sent; each is a PDU of its own."""
        found, rest = [], self.sent
        while rest:
            kind, length = struct.unpack_from(">BxI", rest)
            if kind == 4:
                found.append(decode_command(rest[12 : 6 + length]).status)
            rest = rest[6 + length :]
        return found


class Store:
    """An archive on disk behind the Storage SCP, without a network."""

    def __init__(self, directory: Path) -> None:
        schema.prepare(directory / "pacs.db")
        self.database = Database(f"sqlite:///{directory / 'pacs.db'}", fsync=False)
        self.database.migrate()
        self.files = archive_directory(directory / "archive", fsync=False)
        self.storage = self.files.storage
        self.files.spool.prepare()
        self.index = InstanceIndex(self.database)
        self._incoming = directory / "archive" / "incoming"
        archive = Archive(self.storage, self.files.spool, self.index, naming="hierarchical", duplicate_policy="reject")
        auditing, metrics = AssociationAuditor(Auditor(silent())), Metrics()
        scp = StorageSCP(StoreService(archive), auditing, metrics)
        self._dispatcher = Dispatcher({(Service.STORAGE, CommandField.C_STORE): scp}, auditing, metrics)

    def serve(self, stream: bytes, sizes: Sequence[int] = ()) -> Wire:
        """Serve an association on which this comes in, to its end."""
        wire: Any = Wire(stream, sizes)
        association = Association(
            wire,
            PDUReader(wire, max_pdu_size=16384, pdu_timeout=5),
            contexts={number: AcceptedContext(number, CT, syntax, False, True) for number, syntax in CONTEXTS.items()},
            max_pdu_size=16384,
            timeouts=Timeouts(5, 5),
            calling_ae="A",
            called_ae="B",
            peer="p",
        )
        with contextlib.suppress(AssociationEnded):
            self._dispatcher.serve(association, Counter())
        return wire  # type: ignore[no-any-return]

    def is_clean(self) -> bool:
        """Whether as many files as rows are there, and nothing half received."""
        half = [path for path in self._incoming.iterdir() if path.suffix != ".lock"]
        return half == [] and len(list(self.storage.list())) == self.index.counts().instances

    def holds(self, sop: str, data: bytes) -> bool:
        """Whether an instance is stored with exactly these bytes."""
        found = self.index.get(sop)
        if found is None:
            return False
        with self.storage.open(found.path) as source:
            stored = source.read(found.data_set_offset, source.size)
            return stored == data and found.digest == hashlib.sha256(data).hexdigest()

    def close(self) -> None:
        self.files.spool.close()
        self.database.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("transfers"))
    yield store
    store.close()


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.8.498.9.{next(_numbers)}"


# ------------------------------------------------------------------------------------ ends


@pytest.mark.slow
@pytest.mark.parametrize("ending", [b"", ABORT, RELEASE_RQ], ids=["closed", "aborted", "released"])
def test_a_store_that_ends_at_any_byte_leaves_nothing_and_may_be_sent_again(archive: Store, ending: bytes) -> None:
    sop = new_uid()
    whole = message(1, store_request(sop), ct(sop), max_pdu=100)
    before = archive.index.counts().instances
    # Within the last PDU so few bytes would pass for the rest of it.
    for offset in range(len(whole) - len(ending)):
        wire = archive.serve(whole[:offset] + ending)
        assert wire.statuses() == [], offset
        assert archive.index.counts().instances == before, offset
        assert archive.is_clean(), offset
    assert archive.serve(whole + ending).statuses() == [0]
    assert archive.holds(sop, ct(sop))
    # The sender that did not see the answer.
    assert archive.serve(whole).statuses() == [0]
    assert archive.is_clean()


# ------------------------------------------------------------------------------------ cuts


@st.composite
def framings(draw: st.DrawFn) -> Callable[[bytes, bytes], bytes]:
    """How a command and a data set are cut into values, and those put into PDUs."""
    sizes = st.lists(st.sampled_from([0, 1, 1, 2, 3, 8, 64, 500]), max_size=30)
    commands, data = draw(sizes), draw(sizes)
    together = draw(st.lists(st.integers(0, 4), max_size=30))

    def frame(command: bytes, content: bytes) -> bytes:
        values = _values(command, commands, COMMAND) + _values(content, data, 0)
        stream, counts = b"", iter(together)
        while values:
            # None, one or several to a PDU, the end of the command and the data set in one too.
            count = next(counts, 1)
            stream += p_data(*values[:count])
            values = values[count:]
        return stream

    return frame


def _values(data: bytes, sizes: Sequence[int], flag: int) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
        if not data:
            break
    if data:
        pieces.append(data)
    return [pdv(1, flag | (LAST if n == len(pieces) else 0), piece) for n, piece in enumerate(pieces, 1)]


@pytest.mark.slow
@given(framings(), st.lists(st.integers(1, 300), max_size=40))
def test_a_store_is_the_same_however_it_is_cut(
    archive: Store, frame: Callable[[bytes, bytes], bytes], sizes: list[int]
) -> None:
    sop = new_uid()
    command = store_request(sop)
    command.command_data_set_type = 1
    assert archive.serve(frame(encode_command(command), ct(sop)), sizes).statuses() == [0]
    assert archive.holds(sop, ct(sop))


def test_a_store_in_single_bytes(archive: Store) -> None:
    sop = new_uid()
    command = store_request(sop)
    command.command_data_set_type = 1
    values = _values(encode_command(command), [1] * 10_000, COMMAND) + _values(ct(sop), [1] * 10_000, 0)
    for stream in (b"".join(map(p_data, values)), p_data(*values[:1000]) + p_data(*values[1000:])):
        assert archive.serve(stream, [1] * 50).statuses() == [0]
    assert archive.holds(sop, ct(sop))


# ------------------------------------------------------------------------------------ odd commands


def raw_command(sop: str, *, leave_out: Sequence[int] = (), **changes: bytes) -> bytes:
    """The elements of a C-STORE request, some of them left out or with other values; the key is e + number."""
    elements = {
        0x0002: CT.encode() + b"\0",
        0x0100: b"\1\0",
        0x0110: b"\1\0",
        0x0700: b"\0\0",
        0x0800: b"\1\0",
        0x1000: sop.encode() + b"\0" * (len(sop) % 2),
    } | {int(name[1:], 16): value for name, value in changes.items()}
    body = b"".join(
        struct.pack("<HHI", 0, number, len(value)) + value
        for number, value in sorted(elements.items())
        if number not in leave_out
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


SOP = "1.2.826.0.1.3680043.8.498.8.1"
ODD_COMMANDS = {
    "no priority": raw_command(SOP, leave_out=[0x0700]),
    "odd priority": raw_command(SOP, e0700=b"\x77\x77"),
    "message id 0": raw_command(SOP, e0110=b"\0\0"),
    "message id 65535": raw_command(SOP, e0110=b"\xff\xff"),
    "UIDs with spaces": raw_command(SOP, e0002=CT.encode() + b" ", e1000=SOP.encode() + b" "),
    "UIDs with more NULs": raw_command(SOP, e0002=CT.encode() + b"\0\0\0", e1000=SOP.encode() + b"\0\0\0"),
    "UIDs of odd length": raw_command(SOP, e0002=CT.encode(), e1000=SOP.encode()),
    "wrong group length": struct.pack("<HHII", 0, 0, 4, 9999) + raw_command(SOP)[12:],
    "no group length": raw_command(SOP)[12:],
    "unknown elements": raw_command(SOP, e0001=b"1234", e0010=b"ACR-NEMA", e5110=b"x "),
    "a move originator": raw_command(SOP, e1030=b"SOMEBODY  ", e1031=b"\7\0"),
    "another data set type": raw_command(SOP, e0800=b"\2\1"),
}


@pytest.mark.parametrize("name", ODD_COMMANDS)
def test_odd_commands_are_understood(tmp_path: Path, name: str) -> None:
    with contextlib.closing(Store(tmp_path)) as archive:
        wire = archive.serve(p_data(pdv(1, COMMAND | LAST, ODD_COMMANDS[name]), pdv(1, LAST, ct(SOP))))
        assert wire.statuses() == [0]
        assert archive.holds(SOP, ct(SOP))
        if "message id" in name:
            response = decode_command(wire.sent[12:])
            assert response.message_id_being_responded_to == int(name.rsplit(maxsplit=1)[-1])


# ------------------------------------------------------------------------------------ odd data sets


def _odd(sop: str, **values: bytes) -> bytes:
    """A CT whose patient ID and name are of these bytes as they are, of odd length perhaps."""
    whole = ct(sop)
    for tag, vr, value in ((0x00100010, b"PN", values.get("name")), (0x00100020, b"LO", values.get("number"))):
        if value is not None:
            at = whole.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
            length = int.from_bytes(whole[at + 6 : at + 8], "little")
            whole = whole[:at] + struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value + (
                whole[at + 8 + length :]
            )  # fmt: skip
    return whole


def _with_group_length(sop: str, length: int) -> bytes:
    return element(0x00080000, "UL", struct.pack("<I", length)) + ct(sop)


# What was taken is kept as it came, to the byte.
TAKEN: dict[str, Callable[[str], tuple[int, bytes]]] = {
    "trailing padding": lambda sop: (1, ct(sop) + element(0xFFFCFFFC, "OB", bytes(100))),
    "values of odd length": lambda sop: (1, _odd(sop, name=b"A^B^C", number=b"123")),
    "empty values": lambda sop: (1, _odd(sop, name=b"", number=b"")),
    "padding of NULs": lambda sop: (1, _odd(sop, number=b"P\0\0\0")),
    "a group length too small": lambda sop: (1, _with_group_length(sop, 2)),
    "a group length too large": lambda sop: (1, _with_group_length(sop, 2**31)),
    "deflated, odd": lambda sop: (5, _deflated(sop, 1)),
    "deflated, even": lambda sop: (5, _deflated(sop, 0)),
}


def _deflated(sop: str, odd: int) -> bytes:
    for length in range(64):
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = packer.compress(ct(sop) + element(0x00204000, "LT", bytes(range(65, 65 + length)))) + packer.flush()
        if len(packed) % 2 == odd:
            return packed
    raise AssertionError("none of that length")


@pytest.mark.parametrize("name", TAKEN)
def test_odd_data_sets_are_kept_as_they_came(archive: Store, name: str) -> None:
    sop = new_uid()
    context_id, data = TAKEN[name](sop)
    assert archive.serve(message(context_id, store_request(sop), data)).statuses() == [0]
    assert archive.holds(sop, data)


@pytest.mark.parametrize("context_id", CONTEXTS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\0" * 8, b" ", ct("1.2")[:7]])
def test_what_is_no_data_set_is_refused_and_the_association_goes_on(
    archive: Store, context_id: int, data: bytes
) -> None:
    sop, sound = new_uid(), new_uid()
    stream = message(context_id, store_request(sop), data) + message(1, store_request(sound), ct(sound))
    refused, stored = archive.serve(stream).statuses()
    assert refused is not None
    assert (refused & 0xF000, stored) == (0xC000, 0)
    assert archive.is_clean()
    assert archive.index.get(sop) is None


@pytest.mark.slow
@given(st.data())
def test_a_data_set_with_changed_bytes_is_stored_as_it_is_or_refused(archive: Store, data: st.DataObject) -> None:
    sop, sound = new_uid(), new_uid()
    changed = bytearray(ct(sop))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    stream = message(1, store_request(sop), bytes(changed)) + message(1, store_request(sound), ct(sound))
    status, stored = archive.serve(stream).statuses()
    assert stored == 0
    assert archive.holds(sop, bytes(changed)) is (status == 0)


def test_a_command_that_says_no_data_set_and_one_that_brings_none(archive: Store) -> None:
    sop = new_uid()
    empty = Command(CommandField.C_STORE, message_id=1, affected_sop_class_uid=CT, affected_sop_instance_uid=sop)
    assert archive.serve(message(1, empty)).statuses() == [0xC000]
    assert archive.serve(message(1, store_request(sop), data_set({}))).statuses()[0] != 0
    assert archive.is_clean()
