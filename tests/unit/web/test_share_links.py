"""Links that show one study: what they open and what not, and how they end."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct
from pydicom.dataset import Dataset
from restapi import ANN, RestAPI
from starlette.testclient import TestClient

from pacs_server.audit.recorder import Recorder
from pacs_server.config import WebConfig
from pacs_server.config.sections.web import WebShareLinksConfig
from pacs_server.config.users import add_user
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.share_links import ShareLinkIndex
from pacs_server.services.share_links import ShareLinkService, SharingTerms
from pacs_server.web.door import make_app

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)


class Door:
    """The whole HTTP door on an archive with two studies; `ann` has an account, `guest` has none."""

    def __init__(self, api: RestAPI) -> None:
        self.api = api
        self.switch(on=True)
        add_user(api.config.user_identity.users_path, "ann", "12345678")
        self.own, self.foreign = api.store(
            [make_ct(PatientName="Roe^Jane"), make_ct(PatientName="Doe^John", PatientID="P2")]
        )
        app = make_app(api.services)
        self.ann = self._client(app)
        self.ann.auth = ("ann", "12345678")
        self.guest = self._client(app)

    @staticmethod
    def _client(app: object) -> TestClient:
        return TestClient(app, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1), follow_redirects=False)  # type: ignore[arg-type]

    def switch(self, *, on: bool) -> None:
        web = WebConfig(share_links=WebShareLinksConfig(enabled=on))
        self.api.config = self.api.config.model_copy(update={"web": web})

    def link(self, study: str, **body: object) -> dict[str, str]:
        answer = self.ann.post(f"/api/v1/studies/{study}/links", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def open(self, url: str) -> Any:
        """What the page of a link does."""
        page = self.guest.get("/share")
        token = re.search(r'name="token" value="([^"]+)"', page.text)
        assert token is not None
        return self.guest.post("/share", data={"token": token[1], "secret": url.partition("#")[2]})

    def status(self, path: str, method: str = "GET") -> int:
        return self.guest.request(method, path).status_code


@pytest.fixture
def door(api: RestAPI) -> Door:
    return Door(api)


def resources(ds: Dataset) -> Iterator[str]:
    """Everything that is to be had of an instance."""
    study, series, sop = ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
    instance = f"/dicom-web/studies/{study}/series/{series}/instances/{sop}"
    yield from (f"/studies/{study}", f"/studies/{study}/series/{series}", f"/studies/{study}/instances/{sop}")
    yield from (f"/look/{study}", f"/studies/{study}/download", f"/studies/{study}/deidentification")
    yield from (f"/api/v1/studies/{study}", f"/api/v1/series/{series}", f"/api/v1/instances/{sop}")
    yield from (f"/api/v1/instances/{sop}/tags", f"/api/v1/studies/{study}/deidentified")
    yield from (f"/dicom-web/studies/{study}?accept=application/zip", f"/dicom-web/studies/{study}/metadata")
    yield from (f"{instance}/rendered", f"{instance}/thumbnail")


def whole_objects(ds: Dataset) -> Iterator[str]:
    """Objects and frames as they are stored, which the client of these tests cannot read."""
    study, series, sop = ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID
    instance = f"/dicom-web/studies/{study}/series/{series}/instances/{sop}"
    yield from (instance, f"{instance}/frames/1", f"{instance}/bulkdata/7FE00010")
    yield f"/wado?requestType=WADO&studyUID={study}&seriesUID={series}&objectUID={sop}"


def test_a_link_shows_one_study_and_nothing_else(door: Door) -> None:
    own, foreign = door.own, door.foreign
    assert {door.status(path) for path in resources(own)} == {401}
    made = door.link(own.StudyInstanceUID, purpose="Dr. Weber")
    assert made["url"].startswith("http://127.0.0.1:8080/share#")
    answer = door.open(made["url"])
    assert (answer.status_code, answer.headers["location"]) == (303, f"/studies/{own.StudyInstanceUID}")
    assert {path: door.status(path) for path in resources(own)} == dict.fromkeys(resources(own), 200)
    hidden = [*resources(foreign), *whole_objects(foreign)]
    assert {path: door.status(path) for path in hidden} == dict.fromkeys(hidden, 404)
    for path in ("/studies", "/api/v1/studies", "/api/v1/patients", "/dicom-web/studies", "/dicom-web/instances"):
        text = door.guest.get(path).text
        assert "Roe" in text or own.StudyInstanceUID in text, path
        assert "Doe" not in text, path
        assert foreign.StudyInstanceUID not in text, path
    page = door.guest.get(f"/studies/{own.StudyInstanceUID}").text
    assert "Nobody has written a note yet" not in page
    assert re.findall(r'<nav aria-label="Main">.*?</nav>', page, re.S)[0].count("<li>") == 1


def test_who_came_by_a_link_changes_nothing_and_reads_no_notes(door: Door) -> None:
    study = door.own.StudyInstanceUID
    door.open(door.link(study)["url"])
    for path in (f"/api/v1/studies/{study}/notes", f"/api/v1/studies/{study}/marks", f"/api/v1/studies/{study}/links",
                 f"/api/v1/studies/{study}/history", "/api/v1/marks?reading=unread", "/api/v1/audit"):  # fmt: skip
        assert door.status(path) == 403, path
    for path in (f"/api/v1/studies/{study}/notes", f"/api/v1/studies/{study}/links", f"/studies/{study}/marks",
                 "/api/v1/deliveries", "/dicom-web/studies"):  # fmt: skip
        assert door.status(path, "POST") == 403, path
    assert door.guest.get("/api/v1/worklist").json()["items"] == []
    marks = {"add_labels": ["suspicion"], "assigned_to": "ann"}
    assert door.ann.post(f"/api/v1/studies/{study}/marks", json=marks).status_code == 200
    for path in ("/api/v1/studies", "/api/v1/study-list", f"/api/v1/studies/{study}"):
        assert "suspicion" in door.ann.get(path).text, path
        assert "suspicion" not in door.guest.get(path).text, path
    assert door.status("/api/v1/studies?label=suspicion") == 403
    assert door.status("/api/v1/study-list?label=suspicion") == 403


def test_what_is_seen_by_a_link_is_audited_under_its_name(door: Door) -> None:
    study = door.own.StudyInstanceUID
    made = door.link(study, purpose="Dr. Weber", hours=2)
    event = door.api.audited()[-1].event
    assert (event.participants[0].user_id, event.subjects[0].study_instance_uid) == ("ann", study)
    assert event.detail.startswith(f"share link {made['id']} made for Dr. Weber, works until ")
    door.open(made["url"])
    event = door.api.audited()[-1].event
    assert (event.participants[0].user_id, event.detail) == (f"share:{made['id']}", "a link made by ann")
    door.guest.get(f"/api/v1/instances/{door.own.SOPInstanceUID}/tags")
    assert f"share:{made['id']}" in [each.user_id for each in door.api.audited()[-1].event.participants]
    (listed,) = door.ann.get(f"/api/v1/studies/{study}/links").json()["items"]
    assert listed["last_opened"] is not None
    assert "url" not in listed


def test_a_revoked_link_ends_for_those_who_have_opened_it(door: Door) -> None:
    study = door.own.StudyInstanceUID
    made, other = door.link(study), door.link(study)
    door.open(made["url"])
    assert door.ann.delete(f"/api/v1/studies/{door.foreign.StudyInstanceUID}/links/{made['id']}").status_code == 404
    assert door.status(f"/api/v1/studies/{study}") == 200
    assert door.ann.delete(f"/api/v1/studies/{study}/links/{made['id']}").status_code == 204
    assert door.status(f"/api/v1/studies/{study}") == 401
    assert door.open(made["url"]).status_code == 404
    assert door.open(other["url"]).status_code == 303


def test_switched_off_no_link_works_and_none_is_made(door: Door) -> None:
    study = door.own.StudyInstanceUID
    made = door.link(study)
    door.open(made["url"])
    door.switch(on=False)
    assert door.status(f"/api/v1/studies/{study}") == 401
    assert door.open(made["url"]).status_code == 404
    assert door.ann.post(f"/api/v1/studies/{study}/links", json={}).status_code == 404
    door.switch(on=True)
    # The session has ended, and the link has not.
    assert door.status(f"/api/v1/studies/{study}") == 401
    assert door.open(made["url"]).status_code == 303


@pytest.mark.parametrize("secret", ["", "x", "A" * 43, "A" * 5000])
def test_a_secret_that_nobody_was_given_opens_nothing(door: Door, secret: str) -> None:
    answer = door.open(f"http://127.0.0.1:8080/share#{secret}")
    assert answer.status_code == 404
    assert "This link is not valid" in answer.text
    assert door.status("/api/v1/studies") == 401


class Shared:
    """Links without a door, at a time that a test sets."""

    def __init__(self, api: RestAPI) -> None:
        self.now, self.terms = NOW, SharingTerms(enabled=True, lifetime=7200.0)
        archive = api.archive
        self.index = ShareLinkIndex(archive.database)
        recorder = Recorder(archive.trail, lambda: "PACS")  # type: ignore[arg-type]
        self.links = ShareLinkService(
            self.index, archive.sessions, recorder, lambda: self.terms, clock=lambda: self.now
        )

    def make(self, lasts: timedelta | None = None, scope: Scope = EVERYTHING, purpose: str = "") -> str:
        caller = type(ANN)(ANN.door, ANN.address, user="ann", role=ANN.role, scope=scope)
        return self.links.make(Subject("P1", "", "1.1", ""), lasts, purpose, caller)[1]


@pytest.fixture
def shared(tmp_path: Path, database_url: str) -> Iterator[Shared]:
    api = RestAPI(tmp_path, None if database_url.startswith("sqlite") else database_url)
    yield Shared(api)
    api.close()


def test_a_link_ends_in_time_and_its_session_with_it(shared: Shared) -> None:
    token = shared.make(timedelta(hours=1))
    opened = shared.links.open(token, "10.0.0.9")
    assert opened is not None
    assert (opened.session.scope, opened.session.role.name) == (Scope(studies=("1.1",)), "READER")
    shared.now += timedelta(hours=1)
    assert shared.links.open(token, "10.0.0.9") is None
    assert shared.links.of_study("1.1") == []
    # What is over is forgotten when the next one is made.
    shared.make()
    assert len(shared.index.of_study("1.1")) == 1


def test_a_link_shows_no_more_than_its_maker_sees(shared: Shared) -> None:
    opened = shared.links.open(shared.make(scope=Scope(modalities=("CT",))), "")
    assert opened is not None
    assert opened.session.scope == Scope(modalities=("CT",), studies=("1.1",))


def test_a_link_is_made_within_the_terms(shared: Shared) -> None:
    for lasts in (timedelta(0), timedelta(hours=3), timedelta(hours=-1)):
        with pytest.raises(InvalidRequest):
            shared.make(lasts)
    with pytest.raises(InvalidRequest):
        shared.make(purpose="a\nb")
    token = shared.make(timedelta(hours=2))
    assert token not in str(shared.index.of_study("1.1"))
    shared.terms = SharingTerms(enabled=False, lifetime=7200.0)
    with pytest.raises(NotFound):
        shared.links.open(token, "")
