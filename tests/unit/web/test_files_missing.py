"""Downloads of studies of which stored files are missing: nothing is sent until somebody wants the rest."""

import io
import re
import zipfile
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from datasets import make_study
from httpx2 import Response
from pydicom.dataset import Dataset
from restapi import RestAPI
from starlette.testclient import TestClient

from pacs_server.services.retrieve import DataSetSource, RetrieveService
from pacs_server.web.api.operation import PREFIX
from pacs_server.web.door import make_app
from pacs_server.web.middleware import Gate

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


class Door:
    """The whole HTTP door on a study of which one file is missing and another one is cut short."""

    def __init__(self, api: RestAPI) -> None:
        self.api = api
        self.stored = api.store(make_study(2, 2, PatientName="Doe^Jane"))
        self.uid = str(self.stored[0].StudyInstanceUID)
        app = make_app(api.services)
        assert isinstance(app, Gate)
        app._identify = api._identify  # type: ignore[assignment]
        self.client = TestClient(app, base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1))
        self.lost = sorted(str(ds.SOPInstanceUID) for ds in self.stored[1:3])
        directory = api.directory / "archive"
        gone, cut = (directory / self._path(ds) for ds in self.stored[1:3])
        gone.unlink()
        cut.chmod(0o600)
        cut.write_bytes(cut.read_bytes()[:-1])

    def _path(self, ds: Dataset) -> str:
        found = self.api.archive.archive.find(str(ds.SOPInstanceUID))
        assert found is not None
        return found.path

    def get(self, path: str, **options: Any) -> Response:
        return self.client.get(path, **options)


@pytest.fixture
def door(api: RestAPI, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    door = Door(api)
    yield door
    door.client.close()


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SOP Instance UIDs of the files that are opened."""
    seen: list[str] = []
    known = RetrieveService.open

    def noted(self: RetrieveService, instance: Any) -> DataSetSource:
        seen.append(instance.uids.sop)
        return known(self, instance)

    monkeypatch.setattr(RetrieveService, "open", noted)
    return seen


def _ways(door: Door) -> dict[str, str]:
    return {
        "wado": f"/dicom-web/studies/{door.uid}?accept=application/zip",
        "deidentified": f"{PREFIX}/studies/{door.uid}/deidentified",
    }


def _without(path: str) -> str:
    return f"{path}{'&' if '?' in path else '?'}without_missing=1"


def _readme(answer: Response) -> tuple[list[str], str]:
    """The names of the files with images in a ZIP file, and what its README.TXT says."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip"), answer.text
    packed = zipfile.ZipFile(io.BytesIO(answer.content))
    assert packed.testzip() is None
    return [name for name in packed.namelist() if name.startswith("DICOM/")], packed.read("README.TXT").decode()


@pytest.mark.parametrize("way", ["wado", "deidentified"])
def test_programs_are_told_what_is_missing_before_the_first_byte(door: Door, way: str, opened: list[str]) -> None:
    answer = door.get(_ways(door)[way])
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    assert opened == [], "a file was read"
    told = answer.json()
    assert (told["missing"], told["of"]) == (door.lost, 4)
    assert told["detail"].startswith(f"2 of 4 stored files are missing or incomplete: {', '.join(door.lost)}; ")
    assert "`pacs-server verify`" in told["detail"]
    assert "with without_missing=1 the ZIP file holds the other 2" in told["detail"]
    assert door.api.audited() == []


@pytest.mark.parametrize("way", ["wado", "deidentified"])
def test_browsers_get_a_page_that_leads_to_the_rest(door: Door, way: str) -> None:
    path = _ways(door)[way]
    answer = door.get(path, headers=HTML)
    assert (answer.status_code, answer.headers["content-type"]) == (409, "text/html; charset=utf-8")
    assert "The files of 2 images are missing" in answer.text
    assert all(f"<code>{uid}</code>" in answer.text for uid in door.lost)
    assert "pacs-server verify" in answer.text
    (link,) = re.findall(r'<a class="button" href="([^"]*without_missing=1)">', answer.text)
    files, _ = _readme(door.get(unescape(link), headers=HTML))
    assert len(files) == 2


def test_the_rest_says_what_is_missing(door: Door) -> None:
    files, told = _readme(door.get(_without(_ways(door)["wado"])))
    assert len(files) == 2
    assert told.splitlines() == [
        "2 of 4 objects are not in this file, because the archive has lost the stored files.",
        "", "SOP Instance UIDs:", *sorted(door.lost, key=told.index),
    ]  # fmt: skip
    assert all(uid in told for uid in door.lost)
    assert door.api.audited()[-1].event.detail == "2 of 4 sent, 2 failed"


def test_the_rest_of_a_de_identified_study_names_no_uid(door: Door) -> None:
    answer = door.get(_without(_ways(door)["deidentified"]))
    files, told = _readme(answer)
    assert len(files) == 2
    assert told == "2 of 4 objects are not in this file, because the archive has lost the stored files.\r\n"
    assert door.api.audited()[-1].event.detail == "2 of 4 sent, 2 failed"


def test_a_study_of_which_nothing_is_left_has_no_rest(door: Door) -> None:
    series = door.stored[2].SeriesInstanceUID
    path = f"/dicom-web/studies/{door.uid}/series/{series}/instances/{door.stored[2].SOPInstanceUID}"
    for asked in (f"{path}?accept=application/zip", f"{path}?accept=application/zip&without_missing=1"):
        page = door.get(asked, headers=HTML)
        assert page.status_code == 409
        assert "The file of 1 image is missing" in page.text
        assert "without_missing" not in page.text.partition("<main")[2]
        assert "without_missing" not in door.get(asked).json()["detail"]


def test_several_studies_in_one_file(door: Door) -> None:
    other = str(door.api.study()[0].StudyInstanceUID)
    asked = {"studies": [door.uid, other]}
    told = door.api.send("POST", "/downloads", asked, 409)
    assert (told["missing"], told["of"]) == (door.lost, 5)
    answer = door.client.post(f"{PREFIX}/downloads?without_missing=true", json=asked)
    files, readme = _readme(answer)
    assert len(files) == 3
    assert all(uid in readme for uid in door.lost)


def test_selected_studies(door: Door) -> None:
    token = re.search(r'name="form-token" content="([^"]+)"', door.get("/studies", headers=HTML).text)
    assert token is not None
    fields = {"token": token[1], "study": door.uid, "do": "download"}
    page = door.client.post("/studies/selected", data=fields, headers=HTML)
    assert page.status_code == 409
    assert "The files of 2 images are missing" in page.text
    form = page.text.partition("<main")[2]
    again = {name: unescape(value) for name, value in re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form)}
    assert again == fields | {"without_missing": "1"}
    files, _ = _readme(door.client.post("/studies/selected", data=again, headers=HTML))
    assert len(files) == 2


def test_links_to_downloads_show_the_page_if_there_is_none(door: Door) -> None:
    """With the attribute `download`, a browser shows no page, whatever is answered."""
    for page in ("download", "deidentification"):
        text = door.get(f"/studies/{door.stored[0].StudyInstanceUID}/{page}", headers=HTML).text
        assert not re.search(r"<a [^>]*\bdownload>", text)
