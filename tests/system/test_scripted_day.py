"""A day in a department without a RIS: orders come in, modalities work through their lists, nothing gets lost."""

import gc
import json
import socket
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pytest
from commandline import call_command
from processes import PacsProcess, wait_for
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, Association, build_role, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from servers import free_port, held_back

pytestmark = pytest.mark.slow

DAY = "20300115"
STATIONS = ("CT1", "CT2", "CT3")


@pytest.fixture
def day(tmp_path: Path, database_url: str) -> Iterator["Day"]:
    day = Day(tmp_path, database_url)
    with day.pacs:
        yield day
    for modality in day.modalities:
        modality.close()
    # An association that was aborted leaves its socket to the collector, which is better done here than anywhere.
    with warnings.catch_warnings(action="ignore"):
        gc.collect()


class Day:
    """The server with its sources of items, and three modalities."""

    def __init__(self, directory: Path, database_url: str) -> None:
        self.folder = directory / "orders"
        self.folder.mkdir()
        self.hl7_port = free_port()
        self.modalities = [Modality(title) for title in STATIONS]
        remotes = [{"ae_title": m.title, "host": "127.0.0.1", "port": m.port} for m in self.modalities]
        settings = {
            "remote_aes": remotes,
            "worklist": {
                "only_own_station": True,
                "folder": str(self.folder),
                "folder_interval": 0.2,
                "hl7_port": self.hl7_port,
            },
            "commitment": {"retry_first": 0.2, "retry_max": 1},
        }
        self.pacs = PacsProcess(directory / "pacs", database_url, settings)

    def command(self, *args: object) -> str:
        """What a command of the server prints."""
        done = call_command("--config", self.pacs.config_file, *args, cwd=self.pacs.directory)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def order_by_hand(self, number: int) -> None:
        self.command(
            "worklist", "add", "--patient-name", f"Typed^Patient{number}", "--patient-id", f"P{number:03}",
            "--accession", f"ACC{number:03}", "--procedure-id", f"RP{number:03}", "--modality", "CT",
            "--station", _station(number), "--date", "2030-01-15", "--time", f"{8 + number % 8:02}:00",
            "--description", "CT of the head",
        )  # fmt: skip

    def order_by_file(self, numbers: Sequence[int]) -> None:
        items = [_item(number).to_json_dict() for number in numbers]
        (self.folder / "orders.json.part").write_text(json.dumps(items))
        (self.folder / "orders.json.part").rename(self.folder / "orders.json")

    def order_by_hl7(self, number: int) -> None:
        message = _order(number)
        with socket.create_connection(("127.0.0.1", self.hl7_port), 10) as peer:
            peer.sendall(b"\x0b" + message.encode() + b"\x1c\r")
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                answer += peer.recv(4096)
        assert b"MSA|AA|" in answer, answer

    def items(self) -> list[tuple[str, str]]:
        """Accession number and status of every item, as each modality would not see them."""
        lines = self.command("worklist", "list").splitlines()
        found = [line.split() for line in lines]
        return sorted(
            (word, "DONE" if "COMPLETED" in words else "OPEN")
            for words in found
            for word in words
            if word.startswith("ACC0")
        )


@dataclass
class Modality:
    """A CT that asks for its list, works it off and wants commitment."""

    title: str
    port: int = field(default_factory=free_port)
    committed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    reports: list[Dataset] = field(default_factory=list)
    server: Any = None

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self.ae = AE(self.title)
        self.ae.add_requested_context(ModalityWorklistInformationFind)
        self.ae.add_requested_context(ModalityPerformedProcedureStep)
        self.ae.add_requested_context(StorageCommitmentPushModel)
        self.ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        self.ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)

    def listen(self) -> None:
        """Take reports on a port of its own too."""
        self.server = self.ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=self.handlers)

    def close(self) -> None:
        if self.server is not None:
            self.server.shutdown()

    def associate(self, pacs: PacsProcess) -> Association:
        association = self.ae.associate(
            "127.0.0.1",
            pacs.port,
            ae_title="PACS_SERVER",
            ext_neg=[build_role(StorageCommitmentPushModel, scu_role=True, scp_role=False)],
            evt_handlers=self.handlers,
        )
        assert association.is_established
        return association

    def worklist(self, pacs: PacsProcess) -> list[Dataset]:
        """The scheduled steps of the day for this station."""
        step = Dataset()
        step.ScheduledStationAETitle = self.title
        step.ScheduledProcedureStepStartDate = DAY
        step.Modality = "CT"
        step.ScheduledProcedureStepStartTime = step.ScheduledProcedureStepID = ""
        keys = Dataset()
        keys.PatientName = keys.PatientID = keys.AccessionNumber = ""
        keys.StudyInstanceUID = keys.RequestedProcedureID = ""
        keys.ScheduledProcedureStepSequence = [step]
        association = self.associate(pacs)
        with held_back(association):
            found = list(association.send_c_find(keys, ModalityWorklistInformationFind))
        association.release()
        assert found[-1][0].Status == 0
        return [item for _, item in found[:-1]]

    def work(self, pacs: PacsProcess, item: Dataset, *, end: str = "COMPLETED") -> None:
        """Perform, store, complete, and wait for the commitment to what was made."""
        association = self.associate(pacs)
        with held_back(association):
            uids = self._perform(association, item, end)
        # Only now pynetdicom looks at what the server says by itself: the report.
        self.wait_for(uids)
        association.release()

    def _perform(self, association: Association, item: Dataset, end: str) -> list[str]:
        step = datasets.uid()
        assert (
            association.send_n_create(_started(item, self.title), ModalityPerformedProcedureStep, step)[0].Status == 0
        )
        series = datasets.uid()
        made = [datasets.make_ct(study=item.StudyInstanceUID, series=series) for _ in range(2)]
        for instance in made:
            instance.PatientID, instance.PatientName = item.PatientID, item.PatientName
            assert association.send_c_store(instance).Status == 0
        done = _ended(series, made, end)
        assert association.send_n_set(done, ModalityPerformedProcedureStep, step)[0].Status == 0
        uids = [str(instance.SOPInstanceUID) for instance in made]
        action = _commitment_of(uids)
        status, _ = association.send_n_action(action, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        assert status.Status == 0
        return uids

    def wait_for(self, uids: Sequence[str]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: set(uids) <= set(self.committed), 60), f"no report for {uids}"

    @property
    def handlers(self) -> list[Any]:
        return [(evt.EVT_N_EVENT_REPORT, self._report), (evt.EVT_PDU_SENT, self._sent)]

    def _report(self, event: Any) -> tuple[int, None]:
        self.reports.append(event.event_information)
        return 0x0000, None

    def _sent(self, event: Any) -> None:
        # Counted once the answer has gone out: pynetdicom falls over a release that overtakes it.
        if isinstance(event.pdu, P_DATA_TF) and self.reports:
            with self.changed:
                for report in self.reports:
                    self.committed += [i.ReferencedSOPInstanceUID for i in report.get("ReferencedSOPSequence", [])]
                    self.failed += [i.ReferencedSOPInstanceUID for i in report.get("FailedSOPSequence", [])]
                self.reports.clear()
                self.changed.notify_all()


def _station(number: int) -> str:
    return STATIONS[number % 3]


def _item(number: int) -> Dataset:
    step = Dataset()
    step.ScheduledStationAETitle = _station(number)
    step.ScheduledProcedureStepStartDate = DAY
    step.ScheduledProcedureStepStartTime = f"{8 + number % 8:02}0000"
    step.Modality = "CT"
    step.ScheduledProcedureStepID = f"SPS{number:03}"
    step.ScheduledProcedureStepDescription = "CT of the head"
    item = Dataset()
    item.PatientName, item.PatientID = f"Filed^Patient{number}", f"P{number:03}"
    item.AccessionNumber, item.RequestedProcedureID = f"ACC{number:03}", f"RP{number:03}"
    item.RequestedProcedureDescription = "CT of the head"
    item.ScheduledProcedureStepSequence = [step]
    return item


def _order(number: int) -> str:
    accession, start = f"ACC{number:03}", f"{DAY}{8 + number % 8:02}0000"
    observation = {
        1: "1", 2: accession, 3: accession, 4: "CTHEAD^CT of the head^LOCAL", 18: accession, 19: f"RP{number:03}",
        20: f"SPS{number:03}", 21: _station(number), 24: "CT", 36: start,
    }  # fmt: skip
    segments = [
        f"MSH|^~\\&|RIS|HOSPITAL|PACS|HOSPITAL|{DAY}060000||ORM^O01|{number}|P|2.5.1",
        f"PID|1||P{number:03}^^^HOSPITAL||Ordered^Patient{number}||19700101|F",
        f"ORC|NW|{accession}|{accession}||SC",
        "|".join(["OBR", *(observation.get(place, "") for place in range(1, 37))]),
    ]
    return "".join(segment + "\r" for segment in segments)


def _started(item: Dataset, station: str) -> Dataset:
    planned = item.ScheduledProcedureStepSequence[0]
    reference = Dataset()
    reference.StudyInstanceUID = item.StudyInstanceUID
    reference.ReferencedStudySequence = []
    reference.AccessionNumber = item.AccessionNumber
    reference.RequestedProcedureID = item.RequestedProcedureID
    reference.RequestedProcedureDescription = "CT of the head"
    reference.ScheduledProcedureStepID = planned.ScheduledProcedureStepID
    reference.ScheduledProcedureStepDescription = "CT of the head"
    reference.ScheduledProtocolCodeSequence = []
    step = Dataset()
    step.ScheduledStepAttributesSequence = [reference]
    step.PatientName, step.PatientID = item.PatientName, item.PatientID
    step.PatientBirthDate = step.PatientSex = ""
    step.ReferencedPatientSequence = []
    step.PerformedProcedureStepID = "PPS1"
    step.PerformedStationAETitle = station
    step.PerformedStationName = step.PerformedLocation = ""
    step.PerformedProcedureStepStartDate, step.PerformedProcedureStepStartTime = DAY, "080000"
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.PerformedProcedureStepDescription = step.PerformedProcedureTypeDescription = ""
    step.ProcedureCodeSequence = []
    step.PerformedProcedureStepEndDate = step.PerformedProcedureStepEndTime = ""
    step.Modality = "CT"
    step.StudyID = ""
    step.PerformedProtocolCodeSequence = []
    step.PerformedSeriesSequence = []
    return step


def _ended(series_uid: str, made: Sequence[Dataset], end: str) -> Dataset:
    series = Dataset()
    series.PerformingPhysicianName = series.OperatorsName = ""
    series.ProtocolName = "HEAD"
    series.SeriesInstanceUID = series_uid
    series.SeriesDescription = series.RetrieveAETitle = ""
    series.ReferencedImageSequence = [_reference(str(instance.SOPInstanceUID)) for instance in made]
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    step = Dataset()
    step.PerformedProcedureStepStatus = end
    step.PerformedProcedureStepEndDate, step.PerformedProcedureStepEndTime = DAY, "090000"
    step.PerformedSeriesSequence = [series]
    return step


def _reference(sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    return reference


def _commitment_of(uids: Sequence[str]) -> Dataset:
    action = Dataset()
    action.TransactionUID = datasets.uid()
    action.ReferencedSOPSequence = [_reference(uid) for uid in uids]
    return action


def test_a_day(day: Day) -> None:
    # In the morning 20 orders come in: by hand, in a file, and from a system that speaks HL7.
    for number in range(4):
        day.order_by_hand(number)
    day.order_by_file(range(4, 12))
    for number in range(12, 20):
        day.order_by_hl7(number)
    wait_for(lambda: len(day.items()) == 20, "20 items in the worklist")

    # Three modalities work off their lists side by side.
    def shift(modality: Modality) -> int:
        todo = modality.worklist(day.pacs)
        for item in todo:
            # The first step of CT1 is broken off; its item comes back to the list.
            broken_off = modality.title == "CT1" and item is todo[0]
            modality.work(day.pacs, item, end="DISCONTINUED" if broken_off else "COMPLETED")
        return len(todo)

    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(shift, day.modalities)) == [6, 7, 7]
    assert day.pacs.instances() == 40
    assert [status for _, status in day.items()].count("DONE") == 19

    # What was broken off is done again; the report about it gets lost, for nobody listens.
    ct1 = day.modalities[0]
    again = ct1.worklist(day.pacs)
    assert len(again) == 1
    association = ct1.associate(day.pacs)
    uids = [str(datasets.make_ct(study=again[0].StudyInstanceUID).SOPInstanceUID)]
    instance = datasets.make_ct(study=again[0].StudyInstanceUID, sop=uids[0])
    with held_back(association):
        assert association.send_c_store(instance).Status == 0
        answer, _ = association.send_n_action(
            _commitment_of(uids), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert answer.get("Status") == 0
        association.abort()
    wait_for(lambda: "PENDING" in day.command("commitment", "list"), "an open report")

    # In the evening the server is restarted, CT1 listens again, and gets its report.
    assert day.pacs.stop() == 0
    day.pacs.start()
    ct1.listen()
    ct1.wait_for(uids)
    assert not any(modality.failed for modality in day.modalities)
    assert day.pacs.instances() == 41

    # The books are in order: each item says what was scheduled, performed and received.
    assert len(ct1.worklist(day.pacs)) == 1
    shown = day.command("worklist", "show", "ACC000")
    assert "2 of 2" in shown, shown
    assert day.command("mpps", "list").count("COMPLETED") == 19
    assert day.command("mpps", "list").count("DISCONTINUED") == 1
