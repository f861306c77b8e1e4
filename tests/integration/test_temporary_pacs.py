"""`temporary_pacs`: what a test sees of it, how quickly it is there, and that it leaves nothing behind."""

import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pydicom
import pytest
from datasets import make_ct, make_study, write_part10
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    ModalityWorklistInformationFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from servers import eventually, open_sockets

from pacs_server.errors import ConfigError
from pacs_server.index import revisions
from pacs_server.testing import TemporaryPacs, template, temporary_pacs
from pacs_server.testing.waiting import WaitFailed

SECONDS = 10.0
STUDY = make_study(1, 3)


def associated(pacs: TemporaryPacs, *sop_classes: str, title: str = "CT1", **options: Any) -> Any:
    ae = AE(title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = SECONDS
    for sop_class in sop_classes:
        ae.add_requested_context(sop_class)
    association = ae.associate(pacs.host, options.pop("port", pacs.port), ae_title=pacs.ae_title, **options)
    assert association.is_established
    return association


def stored(pacs: TemporaryPacs, *data_sets: Dataset) -> list[int]:
    association = associated(pacs, CTImageStorage)
    statuses = [association.send_c_store(each).Status for each in data_sets]
    association.release()
    return statuses


def move(pacs: TemporaryPacs, destination: str, study: str) -> list[Dataset]:
    association = associated(pacs, StudyRootQueryRetrieveInformationModelMove)
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", study
    answers = [
        status for status, _ in association.send_c_move(keys, destination, StudyRootQueryRetrieveInformationModelMove)
    ]
    association.release()
    return answers


@pytest.fixture(scope="module")
def pacs() -> Iterator[TemporaryPacs]:
    """One for the tests that do not mind what others do to it."""
    with temporary_pacs() as server:
        yield server


def test_what_came_in_what_is_there_and_what_was_sent(tmp_path: Path) -> None:
    file = write_part10(make_ct(PatientID="FILE"), tmp_path / "folder" / "a.dcm")
    (file.parent / "notes.txt").write_text("no DICOM")
    bare = make_ct(PatientID="BARE")
    del bare.file_meta
    with temporary_pacs(ae_title="MY_PACS", studies=[file.parent, [bare]]) as pacs:
        assert (pacs.ae_title, pacs.received, pacs.sent) == ("MY_PACS", [], [])
        assert {each.instances[0].PatientID for each in pacs.studies} == {"FILE", "BARE"}
        assert stored(pacs, *STUDY, STUDY[0]) == [0] * 4
        assert [each.SOPInstanceUID for each in pacs.received] == [each.SOPInstanceUID for each in STUDY]
        assert pacs.received[0].PixelData == STUDY[0].PixelData
        assert [len(each) for each in pacs.studies if each.study_instance_uid == STUDY[0].StudyInstanceUID] == [3]
        assert move(pacs, "DESTINATION", STUDY[0].StudyInstanceUID)[-1].NumberOfCompletedSuboperations == 3
        assert {each.SOPInstanceUID for each in pacs.sent} == {each.SOPInstanceUID for each in STUDY}
        assert pacs.sent == pacs.destination.received
        found = httpx.get(f"{pacs.dicomweb_url}/studies", params={"PatientID": "BARE"}).json()
        assert [each["0020000D"]["Value"] for each in found] == [[bare.StudyInstanceUID]]


def test_a_storage_scp_of_the_test_becomes_a_destination(pacs: TemporaryPacs) -> None:
    received = []

    def on_store(event: Any) -> int:
        received.append(event.dataset.SOPInstanceUID)
        return 0x0000

    assert stored(pacs, *STUDY) == [0] * 3
    level = logging.getLogger("pacs_server").level
    ae = AE("MINE")
    ae.add_supported_context(CTImageStorage)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
    try:
        pacs.add_destination("MINE", server.server_address[1])
        assert move(pacs, "MINE", STUDY[0].StudyInstanceUID)[-1].Status == 0
    finally:
        server.shutdown()
    assert len(received) == 3
    assert logging.getLogger("pacs_server").level == level


def test_worklist_and_performed_procedure_steps(pacs: TemporaryPacs) -> None:
    item = pacs.worklist.add(PatientName="Doe^Jane", Modality="MR", ScheduledStationAETitle="MR1")
    other = pacs.worklist.add()
    association = associated(pacs, ModalityWorklistInformationFind, ModalityPerformedProcedureStep)
    keys = Dataset()
    keys.PatientName, step = "", Dataset()
    step.Modality = "MR"
    keys.ScheduledProcedureStepSequence = [step]
    found = [match for _, match in association.send_c_find(keys, ModalityWorklistInformationFind) if match]
    assert [str(each.PatientName) for each in found] == ["Doe^Jane"]
    made = Dataset()
    made.PerformedProcedureStepStatus = "IN PROGRESS"
    made.PerformedProcedureStepID, made.PerformedStationAETitle, made.Modality = "S1", "MR1", "MR"
    made.PerformedProcedureStepStartDate, made.PerformedProcedureStepStartTime = "20260101", "120000"
    scheduled = Dataset()
    scheduled.StudyInstanceUID = item.StudyInstanceUID
    scheduled.ScheduledProcedureStepID = item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
    scheduled.AccessionNumber, scheduled.RequestedProcedureID = item.AccessionNumber, item.RequestedProcedureID
    made.ScheduledStepAttributesSequence, made.PerformedSeriesSequence = [scheduled], []
    status, _ = association.send_n_create(made, ModalityPerformedProcedureStep, "1.2.3.4")
    association.release()
    assert status.Status == 0
    assert [(each.SOPInstanceUID, each.PerformedProcedureStepStatus) for each in pacs.steps] == [
        ("1.2.3.4", "IN PROGRESS")
    ]
    statuses = {each.AccessionNumber: each.ScheduledProcedureStepSequence[0] for each in pacs.worklist.items}
    assert statuses[item.AccessionNumber].ScheduledProcedureStepStatus == "IN PROGRESS"
    assert statuses[other.AccessionNumber].ScheduledProcedureStepStatus == "SCHEDULED"


def test_waiting_in_vain_says_what_came_instead(pacs: TemporaryPacs) -> None:
    assert pacs.wait_for(lambda: "there") == "there"
    association = associated(pacs, Verification, title="SLOW")
    association.send_c_echo()
    pacs.wait_for(operation="C-ECHO")
    with pytest.raises(WaitFailed) as caught:
        pacs.wait_for(steps=7, operation="C-GET", seconds=0.0)
    association.abort()
    text = str(caught.value)
    assert "waited for 0 s in vain: steps: " in text
    assert " of 7, operation C-GET\n" in text
    assert "SLOW -> PACS from 127.0.0.1: still open" in text
    assert "SLOW: C-ECHO 0x0000" in text
    pacs.wait_for(lambda: pacs.associations[-1].calling_ae == "SLOW")
    assert "SLOW -> PACS from 127.0.0.1: ended: aborted by the peer (1 C-ECHO" in pacs.described()


def test_tls() -> None:
    with temporary_pacs(tls=True) as pacs:
        assert pacs.certificates is not None
        context = pacs.certificates.client_context()
        association = associated(pacs, Verification, port=pacs.tls_port, tls_args=(context, pacs.host))
        assert association.send_c_echo().Status == 0
        association.release()
        assert httpx.get(f"{pacs.dicomweb_url}/studies", verify=context).json() == []


def test_settings_differ_where_the_test_says_so() -> None:
    with temporary_pacs(settings={"server": {"check_called_ae_title": True}}) as pacs:
        rejected = AE("CT1")
        rejected.add_requested_context(Verification)
        # pynetdicom takes a rejection for an abort now and then.
        assert not rejected.associate(pacs.host, pacs.port, ae_title="OTHER").is_established
    with (
        pytest.raises(ConfigError, match=r"settings: server\.idle_timeout: "),
        temporary_pacs(settings={"server": {"idle_timeout": -1}}),
    ):
        pass
    with pytest.raises(ConfigError, match="studies: /nowhere: "), temporary_pacs(studies=["/nowhere"]):
        pass


def test_no_migration_runs_twice_and_several_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    upgrades = []
    upgrade = revisions.upgrade
    monkeypatch.setattr(revisions, "upgrade", lambda connection: (upgrades.append(1), upgrade(connection)))
    monkeypatch.setattr(template, "_made", {})
    with temporary_pacs(ae_title="ONE") as one, temporary_pacs(ae_title="TWO") as two:
        assert stored(one, STUDY[0]) == [0]
        assert (len(one.received), len(two.received)) == (1, 0)
        assert one.port != two.port
    assert upgrades == [1]


def state() -> dict[str, Any]:
    """What a server could leave behind in a process."""
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    return {
        "files": os.listdir(tempfile.gettempdir()),
        "handlers": {each.name: (list(each.handlers), each.level) for each in loggers if each.handlers or each.level},
        "signals": [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        "environment": dict(os.environ),
        "switch interval": sys.getswitchinterval(),
        "warnings": list(warnings.filters),
        "pydicom": (pydicom.config.settings.reading_validation_mode, pydicom.config.settings.writing_validation_mode),
    }


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_pacs():
        pass
    # Threads and sockets of earlier tests may end meanwhile.
    before, threads, sockets = state(), set(threading.enumerate()), open_sockets()

    def new_threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in threads]

    with suppress(ZeroDivisionError), temporary_pacs(tls=True) as pacs:
        stored(pacs, STUDY[0])
        httpx.get(f"{pacs.dicomweb_url}/studies", verify=pacs.certificates.client_context())
        idle = associated(pacs, Verification)
        assert "web-thread" in new_threads()
        raise ZeroDivisionError
    # They would end by themselves too, a while later.
    assert "web-thread" not in new_threads()
    idle.abort()
    assert eventually(lambda: not new_threads() and open_sockets() <= sockets, SECONDS), new_threads()
    assert state() == before
