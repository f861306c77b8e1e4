"""The audit trail as it follows from what peers do: who did what to whose study, and what happens without a trail."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dcmtk
import pytest
from certificates import Authority
from commandline import call_command
from datasets import make_ct, make_study, write_part10
from processes import PacsProcess
from pydicom.dataset import Dataset
from servers import (
    CT,
    EXPLICIT,
    STUDY_FIND,
    STUDY_MOVE,
    VERIFICATION,
    RawPeer,
    associated,
    collecting,
    config,
    eventually,
    get,
    proposal,
    running,
    store,
    stored_files,
)
from strategies import identifier
from trails import Kept
from worklists import keys

from pacs_server.app.server import PacsServer
from pacs_server.audit.events import Action, Event, EventID, EventType, Outcome, Participant, Role
from pacs_server.audit.record import read_record
from pacs_server.audit.recorder import local_user
from pacs_server.config import AccessControlConfig, Config, PeerRule
from pacs_server.dicom.subject import Subject
from pacs_server.errors import AuditUnavailable, ConfigError

WORKLIST_FIND = "1.2.840.10008.5.1.4.31"
STEP, COMMITMENT = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.1.20.1"
PEER = "127.0.0.1"


@pytest.fixture
def trail(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """The trail of every server in this test."""
    kept = Kept()
    monkeypatch.setattr("pacs_server.app.assembly.open_trail", lambda settings: kept)
    return kept


@pytest.fixture
def pacs(trail: Kept, serve: Callable[..., PacsServer]) -> PacsServer:
    return serve(ae_title="PACS")


def find(pacs: PacsServer, query: Dataset, model: str = STUDY_FIND) -> list[int]:
    with associated(pacs, model, calling="VIEWER") as association:
        return [status.Status for status, _ in association.send_c_find(query, model)]


def move(pacs: PacsServer, query: Dataset, destination: str) -> list[Dataset]:
    with associated(pacs, STUDY_MOVE, calling="VIEWER") as association:
        return [status for status, _ in association.send_c_move(query, destination, STUDY_MOVE)]


def who(event: Event) -> list[tuple[str, str, Role | None, bool]]:
    return [(one.user_id, one.address, one.role, one.requestor) for one in event.participants]


def patient(number: int, instances: int = 3) -> list[Dataset]:
    return make_study(1, instances, PatientID=f"P{number}", AccessionNumber=f"A{number}")


# ------------------------------------------------------------------------------------ what is recorded


def test_a_server_records_its_own_life(trail: Kept, tmp_path: Path) -> None:
    with running(config(tmp_path)):
        pass
    assert [event.event_type for event in trail.events] == [
        *(EventType.AUDIT_RECORDING_STARTED, EventType.APPLICATION_START),
        *(EventType.APPLICATION_STOP, EventType.AUDIT_RECORDING_STOPPED),
    ]


def test_a_reload_names_the_keys_and_never_the_values(trail: Kept, tmp_path: Path) -> None:
    old = config(tmp_path)
    answers: Iterator[Config | ConfigError] = iter(
        [
            old.model_copy(update={"access_control": AccessControlConfig(allowed_ae_titles=("SECRETS",))}),
            ConfigError("line 7: server.port: not a port"),
        ]
    )

    def reload() -> Config:
        answer = next(answers)
        if isinstance(answer, ConfigError):
            raise answer
        return answer

    with running(old, reload) as pacs:
        assert pacs.reload()
        assert not pacs.reload()
    changed, refused = trail.of(EventID.SECURITY_ALERT)[1:3]
    assert changed.event_type is refused.event_type is EventType.SECURITY_CONFIGURATION
    assert changed.detail == "changed: access_control.allowed_ae_titles"
    assert (changed.outcome, refused.outcome) == (Outcome.SUCCESS, Outcome.MINOR_FAILURE)
    assert "server.port" in refused.detail


def test_a_study_that_is_stored_is_two_records_and_one_sync(pacs: PacsServer, trail: Kept) -> None:
    study = patient(1, 20)
    before = trail.durable
    with associated(pacs, CT, calling="MODALITY") as association:
        assert association.send_c_store(study[0]).Status == 0
        # Durable before the first success, and nothing more for the rest.
        assert (len(trail.of(EventID.BEGIN_TRANSFERRING)), trail.durable) == (1, before + 1)
        seen = len(trail.events)
        assert {association.send_c_store(ds).Status for ds in study[1:]} == {0}
        assert (len(trail.events), trail.durable) == (seen, before + 1)
        broken = make_ct(StudyInstanceUID=study[0].StudyInstanceUID, PatientID="P1")
        broken.SOPInstanceUID = study[0].SOPInstanceUID
        assert association.send_c_store(broken).Status == 0x0111
    assert eventually(lambda: trail.of(EventID.INSTANCES_TRANSFERRED))
    begun, transferred = trail.of(EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)
    for event in (begun, transferred):
        assert who(event) == [("MODALITY", PEER, Role.SOURCE, True), ("ANY-SCP", "", Role.DESTINATION, False)]
        (subject,) = event.subjects
        assert (subject.patient_id, subject.accession_number) == ("P1", "A1")
        assert subject.study_instance_uid == study[0].StudyInstanceUID
    assert transferred.subjects[0].sop_classes == {CT: 20}
    assert transferred.outcome is Outcome.MINOR_FAILURE
    assert transferred.detail.startswith("20 stored, 1 failed, the last one: ")


def test_another_study_on_the_same_association(pacs: PacsServer, trail: Kept) -> None:
    assert store(pacs, *patient(1), *patient(2)) == [0] * 6
    assert eventually(lambda: len(trail.of(EventID.INSTANCES_TRANSFERRED)) == 2)
    told = [
        (event.event_id.name, event.subjects[0].patient_id)
        for event in trail.of(EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)
    ]
    assert told == [
        *(("BEGIN_TRANSFERRING", "P1"), ("INSTANCES_TRANSFERRED", "P1")),
        *(("BEGIN_TRANSFERRING", "P2"), ("INSTANCES_TRANSFERRED", "P2")),
    ]


def test_queries_are_recorded_with_keys_and_matches(pacs: PacsServer, trail: Kept) -> None:
    studies = [ds for number in range(20) for ds in patient(number, 1)]
    assert set(store(pacs, *studies)) == {0}
    before = trail.durable
    assert find(pacs, identifier("STUDY", PatientID="P7", StudyDate="", PatientName="*")) == [0xFF00, 0]
    assert len(find(pacs, identifier("STUDY", PatientID="P*"))) == 21
    assert find(pacs, identifier("STUDY", StudyDate="tomorrow")) == [0xA900]
    assert find(pacs, keys({"Modality": "CT"}, PatientID="P9"), WORKLIST_FIND) == [0]
    one, begun, many, refused, scheduled = trail.of(EventID.QUERY)
    assert (one.query, one.detail, one.sop_class_uid) == (
        {"PatientID": "P7", "PatientName": "*"},
        *("1 match", STUDY_FIND),
    )
    assert who(one) == [("VIEWER", PEER, Role.SOURCE, True), ("ANY-SCP", "", Role.DESTINATION, False)]
    # What is known before the first match goes out, and after the last one.
    assert (begun.detail, many.detail) == ("16 matches or more", "20 matches")
    assert (refused.outcome, "StudyDate" in refused.detail) == (Outcome.MINOR_FAILURE, True)
    assert scheduled.sop_class_uid == WORKLIST_FIND
    assert scheduled.query["ScheduledProcedureStepSequence.Modality"] == "CT"
    assert scheduled.query["PatientID"] == "P9"
    # A query changes nothing: nobody waits for the disk.
    assert trail.durable == before


def test_what_is_fetched_is_told_before_and_after(pacs: PacsServer, trail: Kept) -> None:
    study = patient(1, 4)
    assert store(pacs, *study) == [0] * 4
    eventually(lambda: trail.of(EventID.INSTANCES_TRANSFERRED))
    stored_files(pacs)[0].unlink()
    trail.events.clear()
    before = trail.durable
    get(pacs, identifier("STUDY", StudyInstanceUID=study[0].StudyInstanceUID))
    begun, transferred = trail.events
    assert (begun.event_id, transferred.event_id) == (EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)
    assert (begun.subjects[0].patient_id, begun.subjects[0].accession_number) == ("P1", "A1")
    assert begun.subjects[0].sop_classes == {CT: 4}
    assert transferred.subjects[0].sop_classes == {CT: 3}
    assert (transferred.outcome, transferred.detail) == (Outcome.MINOR_FAILURE, "3 of 4 sent, 1 failed")
    assert who(begun) == [("ANY-SCP", "", Role.SOURCE, False), ("SCU", PEER, Role.DESTINATION, True)]
    assert trail.durable == before + 1


def test_a_move_names_who_asked_and_where_it_went(trail: Kept, serve: Callable[..., PacsServer]) -> None:
    with collecting("DEST") as collector:
        pacs = serve(remote_aes=[collector.remote])
        studies = [*patient(1, 2), *patient(2, 1), *make_study(1, 1, PatientID="P1")]
        assert set(store(pacs, *studies)) == {0}
        assert eventually(lambda: len(trail.of(EventID.INSTANCES_TRANSFERRED)) == 3)
        trail.events.clear()
        uids = sorted({str(ds.StudyInstanceUID) for ds in studies})
        assert move(pacs, identifier("STUDY", StudyInstanceUID=uids), "DEST")[-1].Status == 0
        assert len(collector.instances) == 4
    # One for each patient (PS3.15 A.5.3.3), however many studies.
    begun, transferred = trail.of(EventID.BEGIN_TRANSFERRING), trail.of(EventID.INSTANCES_TRANSFERRED)
    assert [[s.patient_id for s in event.subjects] for event in begun] == [["P1", "P1"], ["P2"]]
    assert [event.detail for event in transferred] == ["3 of 3 sent, 0 failed", "1 of 1 sent, 0 failed"]
    for event in (*begun, *transferred):
        assert who(event) == [
            ("ANY-SCP", "", Role.SOURCE, False),
            ("DEST", PEER, Role.DESTINATION, False),
            ("VIEWER", PEER, None, True),
        ]


def test_a_fetch_that_breaks_off_is_counted(pacs: PacsServer, trail: Kept) -> None:
    study = patient(1, 3)
    assert store(pacs, *study) == [0] * 3
    eventually(lambda: trail.of(EventID.INSTANCES_TRANSFERRED))
    trail.events.clear()
    get(pacs, identifier("STUDY", StudyInstanceUID=study[0].StudyInstanceUID), answers=lambda n: 0 if n < 2 else 0xA700)
    (transferred,) = trail.of(EventID.INSTANCES_TRANSFERRED)
    assert (transferred.detail, transferred.subjects[0].sop_classes) == ("1 of 3 sent, 2 failed", {CT: 1})


def creation(study: str) -> Dataset:
    """The least that makes a procedure step."""
    scheduled, step = Dataset(), Dataset()
    scheduled.StudyInstanceUID, scheduled.AccessionNumber = study, "A1"
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PatientID, step.Modality = "P1", "CT"
    step.PerformedProcedureStepID, step.PerformedStationAETitle = "PPS1", "MODALITY"
    step.PerformedProcedureStepStartDate, step.PerformedProcedureStepStartTime = "20260105", "0930"
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    return step


def test_procedure_steps_are_recorded(pacs: PacsServer, trail: Kept) -> None:
    change = Dataset()
    change.PerformedProcedureStepDescription = "x"
    with associated(pacs, STEP, calling="MODALITY") as association:
        assert association.send_n_create(creation("1.2.77"), STEP, "1.2.3.4")[0].Status == 0
        assert association.send_n_set(change, STEP, "1.2.3.4")[0].Status == 0
        assert association.send_n_set(change, STEP, "1.2.3.5")[0].Status == 0x0112
        assert association.send_n_create(creation("1.2.77"), STEP, "1.2.3.4")[0].Status == 0x0111
    created, updated, unknown, again = trail.of(EventID.PROCEDURE_RECORD)
    assert [event.action for event in (created, updated, unknown, again)] == [
        *(Action.CREATE, Action.UPDATE, Action.UPDATE, Action.CREATE),
    ]
    # An N-SET does not say whose it is, the step does.
    assert created.subjects == updated.subjects == (Subject("P1", "", "1.2.77", "A1"),)
    assert (unknown.subjects, unknown.outcome, again.outcome) == ((), Outcome.MINOR_FAILURE, Outcome.MINOR_FAILURE)
    assert who(created) == [("MODALITY", PEER, None, True), ("ANY-SCP", "", None, False)]


def test_a_request_for_storage_commitment_is_recorded(pacs: PacsServer, trail: Kept) -> None:
    study = patient(1, 1)
    assert store(pacs, *study) == [0]
    with associated(pacs, COMMITMENT, calling="MODALITY") as association:
        request, reference = Dataset(), Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CT, study[0].SOPInstanceUID
        request.TransactionUID, request.ReferencedSOPSequence = "1.2.9", [reference]
        assert association.send_n_action(request, 1, COMMITMENT, f"{COMMITMENT}.1")[0].Status == 0
    (asked,) = trail.of(EventID.PROCEDURE_RECORD)
    assert asked.detail == "1.2.9: storage commitment of 1 instance"
    assert [(s.patient_id, s.study_instance_uid) for s in asked.subjects] == [("P1", study[0].StudyInstanceUID)]


def test_rejected_peers_are_recorded_but_not_each_time(trail: Kept, serve: Callable[..., PacsServer]) -> None:
    pacs = serve(allowed=["GOOD"])
    for _ in range(30):
        with RawPeer(pacs.address) as peer, pytest.raises(AssertionError):
            _associate(peer, "EVIL")
    (event,) = trail.of(EventID.SECURITY_ALERT)[1:]
    assert (event.event_type, event.outcome) == (EventType.NODE_AUTHENTICATION, Outcome.MINOR_FAILURE)
    assert event.participants == (Participant("EVIL", "EVIL", PEER, requestor=True),)
    assert event.detail == "association to PACS rejected: calling_ae_title"


def _associate(peer: RawPeer, calling: str) -> None:
    peer.associate(proposal((VERIFICATION, [EXPLICIT]), calling=calling))


def test_a_failed_handshake_is_recorded(trail: Kept, tmp_path: Path) -> None:
    tls = Authority(tmp_path / "certs").settings()
    with running(config(tmp_path).model_copy(update={"tls": tls})) as pacs:
        with socket.create_connection(pacs.address) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert eventually(lambda: len(trail.of(EventID.SECURITY_ALERT)) > 1)
    event = trail.of(EventID.SECURITY_ALERT)[1]
    assert event.event_type is EventType.NODE_AUTHENTICATION
    assert event.detail.startswith("TLS handshake failed: ")


def test_what_a_peer_may_not_do_is_recorded(trail: Kept, tmp_path: Path) -> None:
    access = AccessControlConfig(peers=(PeerRule(ae_title="VIEWER", allow=("echo",)),))
    with running(config(tmp_path).model_copy(update={"access_control": access})) as pacs:
        assert find(pacs, identifier("STUDY", PatientID="P1")) == [0x0124]
    event = trail.of(EventID.SECURITY_ALERT)[1]
    assert event.event_type is EventType.USE_OF_RESTRICTED_FUNCTION
    assert event.detail.startswith("C-FIND refused: ")
    assert who(event) == [("VIEWER", PEER, None, True)]


# ------------------------------------------------------------------------------------ without a trail


@contextmanager
def full(trail: Kept) -> Iterator[None]:
    trail.full = True
    try:
        yield
    finally:
        trail.full = False


def test_nothing_comes_in_or_goes_out_without_a_trace(
    trail: Kept, serve: Callable[..., PacsServer], caplog: pytest.LogCaptureFixture
) -> None:
    with collecting("DEST") as collector:
        pacs = serve(remote_aes=[collector.remote], allowed=["MODALITY", "VIEWER", "SCU"])
        study, another = patient(1, 2), patient(2, 2)
        assert store(pacs, *study) == [0, 0]
        files = stored_files(pacs)
        query = identifier("STUDY", StudyInstanceUID=study[0].StudyInstanceUID)
        with full(trail):
            assert find(pacs, identifier("STUDY", PatientID="")) == [0xA700]
            assert find(pacs, keys(), WORKLIST_FIND) == [0xA700]
            assert store(pacs, *another) == [0xA700, 0xA700]
            responses, got = get(pacs, query)
            assert ([status.Status for status, _ in responses], got) == ([0xA700], [])
            assert [status.Status for status in move(pacs, query, "DEST")] == [0xA700]
            assert collector.instances == []
            with associated(pacs, STEP, COMMITMENT, calling="MODALITY") as association:
                step = Dataset()
                step.PatientID = "P1"
                answer = association.send_n_create(step, STEP, "1.2.3.4")[0]
                assert answer.Status == 0x0213
                # The reason as well, in the 64 characters that there are.
                assert answer.ErrorComment == "the audit trail cannot be written: no space left on device"
            with RawPeer(pacs.address) as peer, pytest.raises(AssertionError):
                _associate(peer, "EVIL")
            assert "audit trail cannot be written" in str(pacs.status()["not_ready"])
            # Once a minute, not once for each of them.
            complaints = [r for r in caplog.records if r.getMessage().startswith("audit trail cannot be written")]
            assert len(complaints) == 1
        assert stored_files(pacs) == files
        assert pacs.status()["not_ready"] is None
        assert store(pacs, *another) == [0, 0]


def test_a_server_does_not_start_without_a_trail(trail: Kept, tmp_path: Path) -> None:
    with full(trail), pytest.raises(AuditUnavailable):
        PacsServer(config(tmp_path)).start()


def test_without_audit_nothing_is_kept(tmp_path: Path) -> None:
    settings = config(tmp_path)
    off = settings.model_copy(update={"audit": settings.audit.model_copy(update={"enabled": False})})
    with running(off) as pacs:
        assert store(pacs, *patient(1)) == [0, 0, 0]
    assert not (tmp_path / "audit").exists()


# ------------------------------------------------------------------------------------ a day with real peers


@pytest.mark.interop
def test_after_a_day_of_work_the_trail_names_who_touched_a_patient(tmp_path: Path) -> None:
    study = make_study(1, 3, PatientID="P1")
    files = [write_part10(ds, tmp_path / f"{number}.dcm") for number, ds in enumerate(study)]
    (medium := tmp_path / "medium").mkdir()
    write_part10(make_ct(PatientID="P1"), medium / "old.dcm")
    with dcmtk.StoreSCP(tmp_path / "workstation", ae_title="WORKSTATION") as workstation:
        settings = {
            "access_control": {"allowed_ae_titles": ["CT1", "VIEWER", "LAPTOP"]},
            "remote_aes": [{"ae_title": "WORKSTATION", "host": PEER, "port": workstation.port}],
        }
        with PacsProcess(tmp_path / "pacs", settings=settings) as pacs:
            here = (PEER, pacs.port)
            key = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study[0].StudyInstanceUID}")
            for tool, *options in (
                ("storescu", "-aet", "CT1", *here, *files),
                ("findscu", "-S", "-aet", "VIEWER", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=P1", *here),
                ("movescu", "-S", "-aet", "VIEWER", "-aem", "WORKSTATION", *key, *here),
                ("getscu", "-S", "-aet", "LAPTOP", "-od", tmp_path, *key, *here),
            ):
                done = dcmtk.run(tool, *options)
                assert done.returncode == 0, done.stderr
            assert dcmtk.run("echoscu", "-aet", "STRANGER", *here).returncode != 0
            order = ("worklist", "add", "--patient-id", "P1", "--patient-name", "A", "--station", "CT1")
            step = (
                "--modality",
                "CT",
                "--station",
                "CT1",
                "--date",
                "2026-01-05",
                "--time",
                "09:30",
                "--procedure",
                "x",
            )
            for command in ((*order, *step), ("import", medium)):
                done = call_command(*command, "--config", pacs.config_file, cwd=pacs.directory)
                assert done.returncode == 0, done.stderr
        found = searched(pacs, "--patient", "P1")
        me = local_user().user_id
        assert sorted({(event.event_id.name, name) for event in found for name in requestors(event)}) == sorted(
            {
                ("BEGIN_TRANSFERRING", "CT1"),
                ("INSTANCES_TRANSFERRED", "CT1"),
                ("QUERY", "VIEWER"),
                ("BEGIN_TRANSFERRING", "VIEWER"),
                ("INSTANCES_TRANSFERRED", "VIEWER"),
                ("BEGIN_TRANSFERRING", "LAPTOP"),
                ("INSTANCES_TRANSFERRED", "LAPTOP"),
                ("ORDER_RECORD", me),
                ("BEGIN_TRANSFERRING", me),
                ("IMPORT", me),
            }
        )
        assert any("STRANGER" in requestors(event) for event in searched(pacs, "--user", "STRANGER"))
        verified = call_command("audit", "verify", "--config", pacs.config_file, cwd=pacs.directory)
        assert verified.returncode == 0, verified.stdout
        assert not (pacs.directory.parent / "audit").exists()


def searched(pacs: PacsProcess, *options: str) -> list[Event]:
    """The events that `audit search` finds."""
    done = call_command("audit", "search", *options, "--json", "--config", pacs.config_file, cwd=pacs.directory)
    assert done.returncode == 0, done.stderr
    return [read_record(line.encode()).event for line in done.stdout.splitlines()]


def requestors(event: Event) -> list[str]:
    return [one.user_id for one in event.participants if one.requestor]
