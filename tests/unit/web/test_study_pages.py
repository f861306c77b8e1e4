"""The pages of a study for people with accounts: what each role sees, and the line of time."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from datasets import make_study
from pydicom.dataset import Dataset
from restapi import ANN, LIMITED, RestAPI
from starlette.testclient import TestClient
from vendor_objects import make

from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.caller import Role
from pacs_server.web.door import make_app
from pacs_server.web.middleware import Gate
from pacs_server.web.pages.study_history import SEEN, together

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)


class Pages:
    """All pages on an archive with one study, for a caller that a test chooses."""

    def __init__(self, api: RestAPI) -> None:
        self.api = api
        self.study, self.other = api.store(make_study(2, 1, PatientName="Roe^Jane", AccessionNumber="A77"))
        app = make_app(api.services)
        assert isinstance(app, Gate)
        app._identify = self._identify  # type: ignore[assignment]
        self.client = TestClient(app, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1))

    async def _identify(self, request: object) -> object:
        return self.api.caller

    def get(self, path: str = "", status: int = 200) -> str:
        answer = self.client.get(f"/studies/{self.study.StudyInstanceUID}{path}")
        assert answer.status_code == status, answer.text
        return answer.text


@pytest.fixture
def pages(api: RestAPI) -> Pages:
    return Pages(api)


def test_roles_see_what_they_may_do(pages: Pages) -> None:
    deeds = {"Write the note": Role.CONTRIBUTOR, "Delete the study": Role.OPERATOR}
    for role in (Role.READER, Role.CONTRIBUTOR, Role.OPERATOR):
        pages.api.act_as(role)
        text = pages.get()
        assert {deed for deed in deeds if deed in text} == {deed for deed, needed in deeds.items() if role >= needed}
    file = f"/instances/{pages.study.SOPInstanceUID}"
    assert "SHA-256" in pages.get(file)
    pages.api.act_as(Role.READER)
    assert "SHA-256" not in pages.get(file)


def test_without_remotes_the_page_says_where_they_are_added(pages: Pages) -> None:
    hint = "There is no system to send to yet."
    text = pages.get()
    assert hint in text
    assert 'href="/welcome#workstation"' in text
    pages.api.act_as(Role.READER)
    assert hint not in pages.get()
    pages.api.act_as(Role.CONTRIBUTOR)
    remote = RemoteAEConfig.model_validate({"ae_title": "WS1", "host": "127.0.0.1", "port": 104})
    pages.api.config = pages.api.config.model_copy(update={"remote_aes": (remote,)})
    text = pages.get()
    assert "Send the study" in text
    assert hint not in text


def test_values_of_private_attributes_are_told_under_standard_names(pages: Pages) -> None:
    assert "From private attributes" not in pages.get(f"/instances/{pages.study.SOPInstanceUID}")
    (scan,) = pages.api.store([make("GE", 0x13)])
    answer = pages.client.get(f"/studies/{scan.StudyInstanceUID}/instances/{scan.SOPInstanceUID}")
    (card,) = re.findall(r'<section class="card facts" id="known">.*?</section>', answer.text, re.DOTALL)
    words = re.sub(r"<[^>]+>|\s+", " ", card)
    for told in ("Diffusion b-value 1000 GEMS_PARM_01", "Parallel Reduction Factor In-plane 2 GEMS_PARM_01"):
        assert told in re.sub(" +", " ", words)


def test_several_physicians_have_read_it(pages: Pages) -> None:
    uid = "2.25.77"
    readers = ["Anders^Ann", "Bay^Bo"]
    pages.api.store(make_study(1, 1, StudyInstanceUID=uid, NameOfPhysiciansReadingStudy=readers, PatientID="two"))
    assert "<dd>Anders, Ann; Bay, Bo</dd>" in pages.client.get(f"/studies/{uid}").text


def test_a_limited_reader_sees_its_series_and_no_history(pages: Pages) -> None:
    pages.api.act_as(Role.READER, LIMITED)
    pages.get(status=404)
    mr = Dataset()
    mr.update(pages.other)
    mr.Modality, mr.SOPInstanceUID, mr.SeriesInstanceUID = "MR", "1.2.3.4", "1.2.3"
    mr.file_meta = pages.other.file_meta
    mr.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    pages.api.store([mr])
    text = pages.get()
    assert text.count('class="card tile"') == 1
    assert "What happened" not in text
    pages.get("/history", 403)


def test_the_line_of_time_has_order_notes_and_who_looked(pages: Pages) -> None:
    api, uid = pages.api, pages.study.StudyInstanceUID
    fields = {"PatientName": "Roe^Jane", "PatientID": "P1", "Modality": "CT", "ScheduledStationAETitle": "CT1",
              "ScheduledProcedureStepStartDate": "2026-01-31", "ScheduledProcedureStepStartTime": "9:30",
              "ScheduledProcedureStepDescription": "Thorax", "AccessionNumber": "A77"}  # fmt: skip
    api.send("POST", "/worklist", {"fields": fields}, 201)
    api.send("POST", f"/studies/{uid}/notes", {"text": "second look"}, 201)
    api.caller = replace(ANN, user="bob", role=Role.READER)
    api.client.get(f"/api/v1/instances/{pages.study.SOPInstanceUID}/tags")
    text = pages.get("/history")
    assert "Received from CT1" in text
    assert "A77" in text
    assert "ann wrote a note" in text
    assert "bob" not in text.partition("<main")[2]
    api.caller = ANN
    text = pages.get("/history")
    assert "bob looked at it or fetched it" in text
    assert "bob began to fetch it" in text
    assert f'href="/audit?study={uid}">Everything in the audit trail</a>' in text
    assert "bob" not in pages.get("/history?until=2020-01-01").partition("<main")[2]
    pages.get("/history?until=nonsense")


def test_a_series_and_then_the_study_go_into_the_trash(pages: Pages) -> None:
    study = pages.study.StudyInstanceUID
    token = re.search(r'name="form-token" content="([^"]+)"', pages.get())
    assert token is not None
    asked = {"token": token[1], "reason": "blurred"}
    series = pages.other.SeriesInstanceUID
    answer = pages.client.post(f"/studies/{study}/delete", data=asked | {"series": series})
    assert "The series is in the trash." in answer.text
    assert "deleted a part of it" in pages.get("/history")
    pages.client.post(f"/studies/{study}/delete", data=asked)
    pages.get(status=404)
    assert {each["uid"] for each in pages.api.get("/trash")["items"]} == {study, series}
    without = pages.client.post(f"/studies/{study}/delete", data={"reason": "forged"})
    assert without.status_code == 400


def test_repeated_records_of_one_hour_are_told_once() -> None:
    def record(minute: int, user: str, name: str = "Query") -> SimpleNamespace:
        event = {"participants": [{"user": user, "address": "10.0.0.9", "requestor": True}, {"user": "PACS"}]}
        return SimpleNamespace(event_name=name, event=event, time=NOW + timedelta(minutes=minute))

    found = together([record(0, "ann"), record(1, "bob"), record(50, "ann"), record(100, "ann"), record(200, "ann")])
    assert sorted((each.user, each.count, (each.time - NOW).seconds // 60) for each in found) == [
        ("ann", 1, 200), ("ann", 3, 100), ("bob", 1, 1)
    ]  # fmt: skip


def test_a_user_who_sent_a_study_here_and_fetched_it_is_told_of_twice() -> None:
    def record(role: str) -> SimpleNamespace:
        event = {"participants": [{"user": "ann", "role": role, "requestor": True}]}
        return SimpleNamespace(event_name="DICOM Instances Transferred", event=event, time=NOW)

    found = together([record("110153"), record("110152"), record("110152")])
    assert [(SEEN[each.event], each.count) for each in found] == [
        ("sent it here", 1),
        ("looked at it or fetched it", 2),
    ]


def test_what_is_of_another_study_is_not_shown(pages: Pages) -> None:
    (foreign,) = pages.api.study()
    pages.get(f"/series/{foreign.SeriesInstanceUID}", 404)
    pages.get(f"/instances/{foreign.SOPInstanceUID}", 404)
