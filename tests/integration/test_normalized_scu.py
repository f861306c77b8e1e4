"""Procedure steps reported to a remote, and its commitment asked for; the remote is another pacs-server."""

from pathlib import Path

import pytest
from datasets import make_ct
from outgoing import outgoing, pool, remote
from servers import config, running

from pacs_server.errors import RemoteError
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.normalized import create_step, request_commitment, set_step
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
        request_commitment(ours, there, "1.2.3.6", [(image.SOPClassUID, image.SOPInstanceUID)])
        (summary,) = pacs.archive.commitment.summaries(everything=True, limit=2)
        assert (summary.transaction.calling_ae, summary.transaction.transaction_uid) == ("CT1", "1.2.3.6")
