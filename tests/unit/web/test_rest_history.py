"""What happened to a study, as the REST API tells it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from datasets import make_ct, make_study
from restapi import RestAPI

from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.caller import Role
from pacs_server.index.history import Reception
from pacs_server.services.history import together


@pytest.fixture
def any_api(tmp_path: Path, database_url: str) -> Iterator[RestAPI]:
    """The REST API on each kind of database."""
    api = RestAPI(tmp_path, None if database_url.startswith("sqlite") else database_url)
    yield api
    api.close()


def test_the_history_of_a_study(any_api: RestAPI) -> None:
    api = any_api
    remote = RemoteAEConfig(ae_title="WS1", host="127.0.0.1", port=104)
    api.config = api.config.model_copy(update={"remote_aes": (remote,)})
    ds, other, _ = api.store([*make_study(2, 1, PatientID="P1"), make_ct(PatientID="P2")])
    study = ds.StudyInstanceUID
    api.send("POST", "/deliveries", {"remotes": ["WS1"], "study": study}, 202)
    api.send("POST", "/trash", {"level": "series", "uid": other.SeriesInstanceUID, "reason": "blurred"}, 201)
    api.send("POST", "/conflicts/reassign", {"study": study, "target": "P2", "reason": "mixed up"})
    reassigned, deleted, waiting, received = api.get(f"/studies/{study}/history")["items"]
    assert [each["what"] for each in (received, waiting, deleted, reassigned)] == [
        "received", "waiting", "deleted", "reassigned"
    ]  # fmt: skip
    assert (received["who"], received["where"], received["instances"]) == ("CT1", "10.0.0.7", 1)
    assert (waiting["who"], waiting["instances"]) == ("WS1", 2)
    assert (deleted["who"], deleted["detail"], deleted["instances"]) == ("ann", "blurred", 1)
    assert api.get(f"/trash/{deleted['reference']}")["uid"] == other.SeriesInstanceUID
    assert (reassigned["before"], reassigned["after"], reassigned["detail"]) == ("P1", "P2", "mixed up")
    api.act_as(Role.READER)
    assert len(api.get(f"/studies/{study}/history")["items"]) == 4


def test_what_comes_from_one_source_without_a_pause_came_at_once() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def came(ae: str, first: int, last: int) -> Reception:
        return Reception(ae, "10.0.0.7", 10, 100, noon + timedelta(minutes=first), noon + timedelta(minutes=last))

    found = together([came("CT1", 0, 5), came("WS", 1, 1), came("CT1", 4, 9), came("CT1", 19, 20), came("CT1", 31, 31)])
    assert [(each.calling_ae, each.instances, each.last.minute) for each in found] == [
        ("CT1", 30, 20), ("CT1", 10, 31), ("WS", 10, 1)
    ]  # fmt: skip


def test_notes_are_for_everybody_who_sees_the_study(api: RestAPI) -> None:
    (ds,) = api.study(PatientID="P1")
    path = f"/studies/{ds.StudyInstanceUID}/notes"
    note = api.send("POST", path, {"text": "second\nlook"}, 201)
    event = api.last_audited().event
    assert (event.detail, event.subjects[0].patient_id) == (f"wrote note {note['id']}", "P1")
    api.act_as(Role.READER)
    assert api.get(path)["items"] == [note]
    api.send("POST", path, {"text": "x"}, 403)
    api.send("GET", "/studies/1.2.3/notes", status=404)


def test_the_worklist_items_of_a_study(api: RestAPI) -> None:
    fields = {"PatientName": "A^B", "PatientID": "P1", "Modality": "CT", "ScheduledStationAETitle": "CT1",
              "ScheduledProcedureStepStartDate": "2026-01-31", "ScheduledProcedureStepStartTime": "9:30",
              "ScheduledProcedureStepDescription": "Thorax"}  # fmt: skip
    for number in ("A1", "A2"):
        api.send("POST", "/worklist", {"fields": fields | {"AccessionNumber": number}}, 201)
    uid = api.get("/worklist?accession_number=A1")["items"][0]["study_instance_uid"]
    (found,) = api.get(f"/worklist?study_instance_uid={uid}")["items"]
    assert found["accession_number"] == "A1"
