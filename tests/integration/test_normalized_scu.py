"""Procedure steps reported to a remote, and its commitment asked for; the remote is another pacs-server."""

from pathlib import Path

import pytest
from datasets import make_ct
from outgoing import outgoing, pool, remote
from servers import config, running

from pacs_server.errors import RemoteError
from pacs_server.net.association import Association
from pacs_server.net.transport import ConnectionLost
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.normalized import Listening, create_step, request_commitment, set_step
from pacs_server.scu.request import data_set_of

STARTED = {
    "PerformedProcedureStepID": "1",
    "PerformedStationAETitle": "CT1",
    "PerformedProcedureStepStartDate": "20260301",
    "PerformedProcedureStepStartTime": "0900",
    "PerformedProcedureStepStatus": "IN PROGRESS",
    "PatientName": "Müller^Jörg",
    "PatientID": "P1",
    "PatientBirthDate": "",
    "PatientSex": "",
    "PerformedStationName": "",
    "PerformedLocation": "",
    "PerformedProcedureStepDescription": "",
    "PerformedProcedureTypeDescription": "",
    "ProcedureCodeSequence": "",
    "ReferencedPatientSequence": "",
    "PerformedProcedureStepEndDate": "",
    "PerformedProcedureStepEndTime": "",
    "Modality": "CT",
    "StudyID": "",
    "PerformedProtocolCodeSequence": "",
    "PerformedSeriesSequence": "",
    "ScheduledStepAttributesSequence.StudyInstanceUID": "1.2.3",
    "ScheduledStepAttributesSequence.AccessionNumber": "A1",
    "ScheduledStepAttributesSequence.RequestedProcedureID": "",
    "ScheduledStepAttributesSequence.RequestedProcedureDescription": "",
    "ScheduledStepAttributesSequence.ScheduledProcedureStepID": "",
    "ScheduledStepAttributesSequence.ScheduledProcedureStepDescription": "",
    "ScheduledStepAttributesSequence.ScheduledProtocolCodeSequence": "",
    "ScheduledStepAttributesSequence.ReferencedStudySequence": "",
}


def _take_answer(association: Association, seconds: float) -> None:
    assert association.take_response(association.read_message(seconds))
    association.done()


def test_however_the_association_ends_after_its_answer_commitment_was_asked_for(tmp_path: Path) -> None:
    served: list[float] = []

    def serve(association: Association, seconds: float) -> None:
        served.append(seconds)
        if len(served) > 1:
            raise ConnectionLost("gone, when the report had begun")
        _take_answer(association, seconds)

    with running(config(tmp_path)) as pacs, pool(ae_title="CT1") as ours:
        there = remote(pacs.address[1], "PACS_SERVER")
        references = [("1.2.840.10008.5.1.4.1.1.2", "1.2.3.5")]
        request_commitment(ours, there, "1.2.3.6", references, Listening(serve, lambda: False, 5.0))
        assert len(served) == 2
        assert len(pacs.archive.commitment.summaries(everything=True, limit=2)) == 1


def test_steps_and_commitment(tmp_path: Path) -> None:
    with running(config(tmp_path)) as pacs, pool(ae_title="CT1") as ours:
        there = remote(pacs.address[1], "PACS_SERVER")
        create_step(ours, there, "1.2.3.4", data_set_of(STARTED))
        with pytest.raises(RemoteError, match="answered N-CREATE with 0111"):
            create_step(ours, there, "1.2.3.4", data_set_of(STARTED))
        set_step(ours, there, "1.2.3.4", data_set_of({"PerformedProcedureStepDescription": "Thorax"}))
        with pytest.raises(RemoteError, match="answered N-SET with 0112"):
            set_step(ours, there, "1.2.3.5", data_set_of({"PerformedProcedureStepDescription": "Thorax"}))
        image = make_ct()
        with DIMSESender(ours, there) as sender:
            assert sender.send(outgoing(image)).is_success
        listening = Listening(_take_answer, lambda: True, 0.0)
        request_commitment(ours, there, "1.2.3.6", [(image.SOPClassUID, image.SOPInstanceUID)], listening)
        (summary,) = pacs.archive.commitment.summaries(everything=True, limit=2)
        assert (summary.transaction.calling_ae, summary.transaction.transaction_uid) == ("CT1", "1.2.3.6")
