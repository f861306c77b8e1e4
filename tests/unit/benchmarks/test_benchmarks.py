"""The benchmark's client: what it sends is DICOM and unique, what it reads it reads right. Nothing is timed here."""

import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from datasets import parse_data_set
from processes import wait_for

from benchmarks import instances, processes, stages, window
from benchmarks.client import CALLING_AE, STUDY_ROOT_GET, Address, Association, Timing, repeat
from benchmarks.concurrency import fall
from benchmarks.goals import GOALS, Times, goal_cell
from benchmarks.instances import CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, Framing
from benchmarks.jobs import StoreJob
from benchmarks.peers import PEERS, Peer, Service, Site, before
from benchmarks.receiver import Receiver, accept_all
from benchmarks.report import Cell, markdown
from benchmarks.rows import ROWS, Bench, Counts
from benchmarks.wire import COMMAND_DATA_SET_TYPE, STATUS, ClientError, Wire, command_number
from benchmarks.workers import Workers
from pacs_server.net.associate import decode_accept, encode_request
from pacs_server.net.message import Command, CommandField, decode_command, encode_command, encode_message
from pacs_server.net.negotiation import Proposal, ProposedContext, UserInformation
from pacs_server.net.pdu import COMMAND, HEADER, LAST
from pacs_server.scp.contexts import WINDOW

SIDE = 64


def messages(stream: bytes, max_pdu: int) -> list[tuple[Command, bytes]]:
    """The DIMSE messages in a stream of P-DATA PDUs with one value each."""
    found: list[tuple[Command, bytes]] = []
    command = data = b""
    while stream:
        kind, length = HEADER.unpack_from(stream)
        assert kind == 4
        assert length <= max_pdu
        value, control, stream = stream[12 : 6 + length], stream[11], stream[6 + length :]
        assert len(value) == length - 6
        if control & COMMAND:
            command += value
        else:
            data += value
        if control == LAST:
            found.append((decode_command(command), data))
            command = data = b""
    assert not command
    return found


@pytest.mark.parametrize("max_pdu", [4096, 16384, 131072])
@pytest.mark.parametrize("small_writes", [False, True])
def test_store_requests_are_whole_and_unique(max_pdu: int, small_writes: bool) -> None:
    framing = Framing(3, max_pdu, small_writes)
    requests = list(instances.store_requests(instances.ct_template(SIDE), 7, range(65534, 65537), framing))
    assert all((len(writes) == 1) != small_writes for writes in requests)
    stream = b"".join(bytes(buffer) for writes in requests for write in writes for buffer in write)
    found = messages(stream, max_pdu)
    assert [command.affected_sop_instance_uid for command, _ in found] == [
        instances.sop_uid(number) for number in (65534, 65535, 65536)
    ]
    assert [command.message_id for command, _ in found] == [65535, 1, 2]
    for command, data in found:
        image = parse_data_set(data, EXPLICIT_VR_LITTLE_ENDIAN)
        assert image.SOPInstanceUID == command.affected_sop_instance_uid
        assert image.SOPClassUID == command.affected_sop_class_uid == CT_IMAGE_STORAGE
        assert image.StudyInstanceUID == instances.study_uid(7)
        assert image.PatientID == instances.patient_id(7)
        assert image.pixel_array.shape == (SIDE, SIDE)
        assert b"9999999999" not in data


def test_header_that_spans_pdus_is_refused() -> None:
    with pytest.raises(ValueError, match="do not hold the header"):
        list(instances.store_requests(instances.ct_template(SIDE), 1, range(1, 2), Framing(1, 1024)))


def test_sizes_are_what_the_rows_say() -> None:
    assert 9_000 < len(instances.ct_template(64).data) < 11_000
    assert 512 * 1024 < len(instances.ct_template(512).data) < 520 * 1024


def test_identifiers() -> None:
    one = parse_data_set(instances.find_template(one_patient=True).patched(5), IMPLICIT_VR_LITTLE_ENDIAN)
    everything = parse_data_set(instances.find_template(one_patient=False).data, IMPLICIT_VR_LITTLE_ENDIAN)
    study = parse_data_set(instances.retrieve_template().patched(5), IMPLICIT_VR_LITTLE_ENDIAN)
    assert one.PatientID == instances.patient_id(5)
    assert not everything.PatientID
    assert study.StudyInstanceUID == instances.study_uid(5)


@pytest.mark.parametrize("message_id", [0x0208, 0x0209, 0x0800, 0x0900])
def test_command_numbers_are_not_mistaken_for_message_ids(message_id: int) -> None:
    command = encode_command(
        Command(
            command_field=0x8001, message_id_being_responded_to=message_id, command_data_set_type=0x0101, status=0xB000
        )
    )
    assert command_number(command, COMMAND_DATA_SET_TYPE) == 0x0101
    assert command_number(command, STATUS) == 0xB000
    assert command_number(command, 0x1021) is None


def test_wire_reads_messages_however_they_are_cut() -> None:
    request = Command(command_field=CommandField.C_FIND, message_id=1)
    with_data = b"".join(encode_message(1, request, bytes(5000), 1000))
    without = b"".join(encode_message(3, request, None, 1000))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        wire = Wire(listener.accept()[0])
    with closing(wire), theirs:
        for byte in with_data[:20]:
            theirs.send(bytes((byte,)))
        theirs.sendall(with_data[20:] + without)
        first, second = wire.read_message(), wire.read_message()
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ClientError, match="closed"):
            wire.read_message()
    assert (first.context_id, first.size) == (1, 5000)
    assert (second.context_id, second.size) == (3, 0)


def test_accept_all() -> None:
    contexts = (
        ProposedContext(1, "1.2.3", (IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN)),
        ProposedContext(3, "1.2.4", (IMPLICIT_VR_LITTLE_ENDIAN,)),
    )
    request = encode_request(Proposal(CALLING_AE, "X", contexts, UserInformation(implementation_class_uid="1.2")))
    answer = decode_accept(accept_all(request[6:])[6:])
    assert answer.results == ((1, 0, EXPLICIT_VR_LITTLE_ENDIAN), (3, 0, IMPLICIT_VR_LITTLE_ENDIAN))


def test_repeat_stops_at_its_limit() -> None:
    assert repeat(range(5), lambda n: n, limit=60).count == 10
    assert repeat(iter(int, 1), lambda n: 1, limit=0).count == 1


def test_store_and_negotiate_with_the_receiver() -> None:
    with Receiver() as receiver:
        timing = StoreJob(receiver.address, SIDE, 1, range(1, 31), limit=60).run()
        plain = StoreJob(receiver.address, SIDE, 1, range(31, 34), limit=60, plain=True).run()
        with Association(receiver.address, [STUDY_ROOT_GET, CT_IMAGE_STORAGE]) as association:
            assert association.context_ids == {STUDY_ROOT_GET: 1, CT_IMAGE_STORAGE: 3}
    assert (timing.count, len(timing.seconds), plain.count, receiver.received) == (30, 30, 3, 33)
    assert timing.rate > 0


@pytest.mark.slow
def test_workers_add_up_and_report_failures() -> None:
    with Receiver() as receiver, Workers(1) as workers, socket.create_server(("127.0.0.1", 0)) as silent:
        job = StoreJob(receiver.address, SIDE, 1, range(1, 6), limit=60)
        assert workers.run([job])[0].count == 5
        nobody = Address("NOBODY", silent.getsockname()[1])
        silent.close()
        with pytest.raises(ClientError, match="refused"):
            workers.run([StoreJob(nobody, SIDE, 1, range(1, 2), limit=60)])
        assert workers.run([job])[0].count == 5


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.key)
def test_peers_are_configured_in_their_own_directory(peer: Peer, tmp_path: Path) -> None:
    command = peer.command(Site(tmp_path, 11999, Address("DEST", 11998)))
    written = [path.read_text() for path in tmp_path.iterdir() if path.is_file()]
    assert "11999" in " ".join(command + written)
    assert not written or "DEST" in written[0]
    assert str(tmp_path) in " ".join(command)
    assert (Service.GET in peer.services) == (peer.key != "storescp")


def test_another_checkout_runs_with_its_own_python(tmp_path: Path) -> None:
    peer = before(tmp_path / "old")
    command = peer.command(Site(tmp_path, 104, Address("MOVED", 11113)))
    assert command[0] == peer.program == str(tmp_path / "old/.venv/bin/python")
    assert peer.missing


def test_numbers_are_given_out_once() -> None:
    with Workers(0) as workers:
        bench = Bench(Counts(), Address("DEST", 1), workers)
        assert bench.sops(3) == range(1, 4)
        assert bench.sops(2) == range(4, 6)
        assert bench.study() != bench.study()
        calls: list[int] = []
        for _ in range(2):
            bench.once(Address("A", 1), "study", lambda *_: calls.append(1) or 1)
        assert calls == [1]


def test_table_has_ratios_to_orthanc_and_reasons() -> None:
    row, latency = ROWS[0], next(row for row in ROWS if row.lower_is_better)
    peers = [peer for peer in PEERS if peer.key in ("pacs-server", "orthanc", "storescp")]
    results = {
        row.key: {"pacs-server": Cell([300, 100, 200]), "orthanc": Cell([100]), "storescp": Cell([1.0], "it broke")},
        latency.key: {"pacs-server": Cell([2.0]), "orthanc": Cell([5.0]), "storescp": Cell()},
    }
    lines = markdown([row, latency], peers, results).splitlines()
    assert "| 200 (2.0x) | 100 | - | 1.8x Orthanc: reached, 2.00x; " in lines[2]
    assert "| 2 (2.5x) | 5 | - |" in lines[3]
    assert [line.count("|") for line in lines[:4]] == [7] * 4
    assert lines[-1] == f"- {row.title}, storescp: it broke"


def test_rate() -> None:
    assert Timing(10.0, 12.0, 6).rate == 3


def test_written_configurations_parse(tmp_path: Path) -> None:
    orthanc = next(peer for peer in PEERS if peer.key == "orthanc")
    orthanc.command(Site(tmp_path, 11999, Address("DEST", 11998)))
    settings = json.loads((tmp_path / "orthanc.json").read_text())
    assert settings["Plugins"] == []
    assert settings["DicomPort"] == 11999
    assert "SyncStorageArea" not in settings  # its default is what is measured


# ------------------------------------------------------------------------------------ goals


def test_goals_are_about_rows_and_peers_that_are_there() -> None:
    assert set(GOALS) == {row.key for row in ROWS}
    keys = {peer.key for peer in PEERS}
    for goal in (goal for goals in GOALS.values() for goal in goals if isinstance(goal, Times)):
        assert {*goal.others, goal.subject} <= keys


def test_a_goal_is_reached_missed_or_not_measured() -> None:
    medians = {"pacs-server": 130.0, "nofsync": 90.0, "orthanc": 60.0, "dcmqrscp": 100.0}
    rate = goal_cell("get", medians, lower_is_better=False)
    assert rate == "1.3x the better of Orthanc and dcmqrscp: reached, 1.30x"
    assert goal_cell("store-large", medians, lower_is_better=False) == (
        "1.8x Orthanc: reached, 2.17x; fsync off: 1x dcmqrscp: missed, 0.90x"
    )
    assert goal_cell("get", medians | {"orthanc": None}, lower_is_better=False).endswith(": not measured")
    latency = goal_cell("store-small-p99", medians, lower_is_better=True)
    assert latency == "1x the better of Orthanc and dcmqrscp: missed, 0.46x"
    assert goal_cell("memory", {"pacs-server": 65.0}, lower_is_better=True) == "at most 64 MiB: missed"
    assert goal_cell("idle", {"pacs-server": 0.0}, lower_is_better=True) == "at most 0.05 %: reached"


def test_the_fall_after_the_peak() -> None:
    assert fall([100, 200, 180, 190]) == pytest.approx(0.1)
    assert fall([100, 200]) == 0


# ------------------------------------------------------------------------------------ what a server needs


@pytest.mark.slow
def test_a_huge_object_is_made_while_it_is_sent() -> None:
    start, piece, last = instances.huge_request(7, 1, Framing(3, 131072))
    assert len(start) + len(piece) + len(last) < 3_000_000
    command, data = messages(start + last, 131072)[0]
    head, _, rest = data.partition(b"\xe0\x7f\x10\x00OW\0\0")
    assert len(rest) == 4 + 1_000_000
    image = parse_data_set(head, EXPLICIT_VR_LITTLE_ENDIAN)
    assert command.affected_sop_instance_uid == image.SOPInstanceUID == instances.sop_uid(1)
    assert image.StudyInstanceUID == instances.study_uid(7)
    announced = int.from_bytes(rest[:4], "little")
    assert announced == 600_000_000 == instances.HUGE_PIECES * 2 * image.Rows * image.Columns
    # The piece differs from the last one in its last PDU only: more is to come.
    assert len(piece) == len(last)
    assert sum(one != other for one, other in zip(piece, last, strict=True)) == 1


@pytest.mark.slow
def test_processes_are_counted_with_their_children() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: processes.threads(process.pid) == 2, "the child")
        wait_for(lambda: processes.resident(process.pid) > 5, "its memory")
        present = processes.resident(process.pid)
        assert processes.resident(process.pid, peak=True) >= present
        assert processes.cpu_seconds(process.pid) < 30
        process.communicate(b"\n", timeout=20)
    assert processes.threads(process.pid) == 0


# ------------------------------------------------------------------------------------ window


@pytest.mark.parametrize(("asked", "granted"), [(1, 1), (3, 3), (1000, WINDOW)])
def test_requests_go_ahead_as_far_as_was_granted_and_no_further(serve: Any, asked: int, granted: int) -> None:
    host, port = serve().address
    ahead = most = 0
    with Association(Address("PACS", port, host), [CT_IMAGE_STORAGE], window=asked) as association:
        assert association.window == granted
        send, read = association.wire.send, association.wire.read_command

        def counted_send(buffers: Any) -> None:
            nonlocal ahead, most
            ahead += 1
            most = max(most, ahead)
            send(buffers)

        def counted_read() -> bytes:
            nonlocal ahead
            ahead -= 1
            return read()

        with mock.patch.multiple(association.wire, send=counted_send, read_command=counted_read):
            framing = association.framing(CT_IMAGE_STORAGE)
            requests = instances.store_requests(instances.ct_template(SIDE), 7, range(40), framing)
            assert association.store_ahead(requests) == 40
    assert (ahead, most) == (0, granted)


def test_a_slow_link_delays_every_byte_and_loses_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = Address("", listener.getsockname()[1])
        with window.SlowLink(target, 0.2) as link, socket.create_connection(("127.0.0.1", link.port)) as near:
            far, _ = listener.accept()
            with far:
                began = time.monotonic()
                near.sendall(b"x" * 1_000_000)
                near.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: far.recv(65536), b""))
                assert 0.2 <= time.monotonic() - began < 60
    assert received == b"x" * 1_000_000


@pytest.mark.slow
def test_the_table_of_windows(serve: Any) -> None:
    host, port = serve().address
    lines = window.table(Address("PACS", port, host), 0.01, [1, 4], 8).splitlines()
    assert lines[0].startswith("| window | granted | 10 KB with 10 ms |")
    assert [line.split(" | ")[:2] for line in lines[2:]] == [["| 1", "1"], ["| 4", "4"]]


# ------------------------------------------------------------------------------------ stages


@pytest.mark.slow
def test_stages_are_where_they_are_looked_for(tmp_path: Path) -> None:
    found = stages.measure(5, tmp_path)
    expected = {
        "C-STORE 10 KB": {"hash", "parse the header", "sync the file", "index: commit", "send"},
        "C-FIND by Patient ID": {"index: query", "parse the identifier", "encode matches", "audit"},
        "C-GET, each instance of 512 KB": {"read files", "send"},
        "association": {"negotiate", "log"},
    }
    for title, names in expected.items():
        assert {name for name in names if not found[title].get(name)} == set(), title
    assert "| sync the file |" in stages.markdown(found)
