"""Instances sent to DCMTK's storescp, whatever its mood."""

from dataclasses import replace
from pathlib import Path

import dcmtk
import pytest
from datasets import data_set_bytes, make_ct, pydicom_test_files
from outgoing import outgoing, pool, remote
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage, RLELossless
from rawpeer import Instance

from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import RemoteBusy, RemoteUnreachable
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.echo import echo
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.sending import Answer, Outgoing

pytestmark = pytest.mark.interop


def associations(scp: dcmtk.StoreSCP) -> int:
    return scp.output().count("Association Acknowledged")


def send(pool: Pool, remote: RemoteAE, *instances: Outgoing) -> list[Answer]:
    with DIMSESender(pool, remote) as sender:
        return [sender.send(instance) for instance in instances]


def test_tasks_that_follow_each_other_share_an_association(tmp_path: Path) -> None:
    with dcmtk.StoreSCP(tmp_path / "in", "-v") as scp, pool() as ours:
        there = remote(scp.port)
        answers = [send(ours, there, *(outgoing(make_ct()) for _ in range(3))) for _ in range(3)]
        assert {answer.status for each in answers for answer in each} == {0}
        assert {answer.association for each in answers for answer in each} == {f"PACS@127.0.0.1:{scp.port} #1"}
        assert len(scp.files()) == 9
        assert associations(scp) == 1
        # One that proposes more takes its place.
        assert send(ours, there, outgoing(make_ct(SOPClassUID=MRImageStorage)))[0].is_success
        assert associations(scp) == 2


def compressed(name: str) -> Outgoing:
    (path,) = [path for path in pydicom_test_files() if path.name == name]
    instance = Instance.read(path)
    uids = InstanceUIDs("1.2.3", "1.2.3.4", instance.sop_instance_uid)
    return Outgoing(uids, *instance.kind, lambda: instance.data)


@pytest.mark.parametrize(
    ("options", "allowed", "received"),
    [
        (("+xr",), (), "1.2.840.10008.1.2.5"),
        ((), (), str(ExplicitVRLittleEndian)),
        (("+xr",), (str(ImplicitVRLittleEndian),), str(ImplicitVRLittleEndian)),
    ],
)
def test_it_is_decompressed_if_the_remote_or_the_settings_want_it(
    tmp_path: Path, options: tuple[str, ...], allowed: tuple[str, ...], received: str
) -> None:
    with dcmtk.StoreSCP(tmp_path / "in", "+B", *options) as scp, pool() as ours:
        (answer,) = send(ours, remote(scp.port, transfer_syntaxes=allowed), compressed("MR_small_RLE.dcm"))
        assert answer.is_success
        (file,) = scp.files()
        assert data_set_bytes(file)[0] == received


def test_what_cannot_be_sent_is_refused_for_good(tmp_path: Path) -> None:
    with dcmtk.StoreSCP(tmp_path / "in") as scp, pool() as ours:
        broken = compressed("MR_small_RLE.dcm")
        broken = Outgoing(broken.uids, broken.sop_class_uid, "1.2.840.10008.1.2.4.102", broken.open)
        unknown = Outgoing(broken.uids, "1.2.3.4", str(ExplicitVRLittleEndian), broken.open)
        for answer, why in zip(
            send(ours, remote(scp.port), broken, unknown, outgoing(make_ct())),
            ("cannot transcode MPEG-4", "takes 1.2.3.4 not at all", ""),
            strict=True,
        ):
            assert answer.permanent == bool(why)
            assert why in answer.detail
            assert answer.is_success == (not why)


def test_settings_that_leave_no_transfer_syntax_refuse_it_without_a_connection() -> None:
    with pool() as ours:
        (answer,) = send(ours, remote(1, transfer_syntaxes=(str(RLELossless),)), outgoing(make_ct()))
    assert answer.permanent
    assert "transfer_syntaxes of remote has none" in answer.detail


@pytest.mark.parametrize("option", ["--abort-after", "--abort-during"])
def test_an_abort_costs_one_instance_and_two_in_a_row_the_remote(tmp_path: Path, option: str) -> None:
    with (
        dcmtk.StoreSCP(tmp_path / "in", "-v", option) as scp,
        pool() as ours,
        DIMSESender(ours, remote(scp.port)) as sender,
    ):
        answer = sender.send(outgoing(make_ct()))
        assert not answer.permanent
        assert not answer.is_success
        assert "the association ended while it was sent" in answer.detail
        with pytest.raises(RemoteUnreachable, match="remote: "):
            sender.send(outgoing(make_ct()))
        assert associations(scp) == 2


def test_a_refusal_and_a_closed_port_are_faults_of_the_remote(tmp_path: Path) -> None:
    with dcmtk.StoreSCP(tmp_path / "in", "--refuse") as scp, pool() as ours:
        with pytest.raises(RemoteUnreachable, match="remote: rejected"):
            send(ours, remote(scp.port), outgoing(make_ct()))
        with pytest.raises(RemoteUnreachable, match="rejected"):
            echo(ours, remote(scp.port))
    with pool() as ours, pytest.raises(RemoteUnreachable, match="cannot connect to 127"):
        send(ours, remote(scp.port), outgoing(make_ct()))


def test_silence_is_a_fault_unless_others_work(tmp_path: Path) -> None:
    # storescp takes one association at a time, and the next one waits for its end.
    with dcmtk.StoreSCP(tmp_path / "in") as scp, pool() as ours:
        there = remote(scp.port)
        with DIMSESender(ours, there) as one, DIMSESender(ours, there) as other:
            assert one.send(outgoing(make_ct())).is_success
            with pytest.raises(RemoteBusy, match="in time"):
                other.send(outgoing(make_ct()))
            with pool() as another, pytest.raises(RemoteUnreachable, match="in time"):
                send(another, there, outgoing(make_ct()))


def test_one_that_takes_no_more_associations_is_busy(tmp_path: Path) -> None:
    with dcmtk.DcmQRSCP(tmp_path / "archive", most=1) as scp, pool() as ours:
        there = remote(scp.port, scp.ae_title)
        with DIMSESender(ours, there) as one, DIMSESender(ours, there) as other:
            assert one.send(outgoing(make_ct())).is_success
            with pytest.raises(RemoteBusy, match=r"rejected: by the peer \(2,3,2\)"):
                other.send(outgoing(make_ct()))
            assert one.send(outgoing(make_ct())).is_success


def test_an_answer_that_does_not_come_in_time_is_a_fault(tmp_path: Path) -> None:
    with dcmtk.StoreSCP(tmp_path / "in", "--sleep-during", "2") as scp, pool() as ours:
        slow = replace(remote(scp.port), response_timeout=0.5)
        with pytest.raises(RemoteUnreachable, match=r"no answer within 0\.5 s"):
            send(ours, slow, outgoing(make_ct()))


def test_echo(tmp_path: Path) -> None:
    with dcmtk.StoreSCP(tmp_path / "in") as scp, pool() as ours:
        assert 0 < echo(ours, remote(scp.port)).round_trip < 5


def test_what_is_received_is_what_was_sent(tmp_path: Path) -> None:
    dataset = make_ct()
    with dcmtk.StoreSCP(tmp_path / "in", "+B") as scp, pool() as ours:
        assert send(ours, remote(scp.port), outgoing(dataset))[0].status == 0
        (file,) = scp.files()
        assert data_set_bytes(file) == (str(ExplicitVRLittleEndian), Instance.of(dataset).data)
        assert dcmread(file).SOPInstanceUID == dataset.SOPInstanceUID
