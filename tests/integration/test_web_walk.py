"""A caller with limits walks the whole HTTP door, and learns nothing of what the limits hide."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import servers
from datasets import make_ct
from starlette.routing import Route

from pacs_server.app import web as app_web
from pacs_server.config import DatabaseConfig, UserIdentityConfig
from pacs_server.config.rights import Rights
from pacs_server.config.users import add_user
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.web.door import make_app

PASSWORD = "correct horse"
# Texts and UIDs of what is hidden; nothing else in the archive has them.
FOREIGN = re.compile(r"Geheim|666\.|HIDDEN")
OWN = {"study": "1.2.1", "series": "1.3.1", "instance": "1.4.1", "patient": "P1"}
HIDDEN = {"study": "1.2.666.1", "series": "1.3.666.1", "instance": "1.4.666.1", "patient": "HIDDEN"}
# Within a study that is seen, a series that is not.
BESIDE = {"study": "1.2.1", "series": "1.3.666.2", "instance": "1.4.666.2", "patient": "P1"}
UNKNOWN = {"study": "1.2.99", "series": "1.3.99", "instance": "1.4.99", "patient": "NOBODY"}
# They do not end.
STREAMS = ("/api/v1/events",)
OTHERS = {"frames": "1", "path": "7FE00010"}
ACCEPTS = ("*/*", "application/dicom+json", "application/json")


class Archive:
    """A server with something that is seen and something that is not, and the paths of its HTTP door."""

    def __init__(self, pacs: Any, routes: list[Route]) -> None:
        self.url = "http://{}:{}".format(*pacs.web_address)
        self.routes = routes
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def get(self, path: str, user: str, accept: str = "*/*", **headers: str) -> httpx.Response:
        return self.http.get(path, auth=(user, PASSWORD), headers={"Accept": accept, **headers})

    def paths(self, ids: dict[str, str]) -> Iterator[str]:
        """Every path that can be got, with these identifiers in it."""
        for route in self.routes:
            names = re.findall(r"{(\w+)", route.path)
            if "GET" in (route.methods or ()) and route.path not in STREAMS:
                path = route.path
                for name in names:
                    path = re.sub(rf"{{{name}(:path)?}}", ids.get(name, OTHERS.get(name, ids["instance"])), path)
                yield path
        uids = f"studyUID={ids['study']}&seriesUID={ids['series']}&objectUID={ids['instance']}"
        for kind in ("", "&contentType=application/dicom", "&contentType=image/jpeg"):
            yield f"/wado?requestType=WADO&{uids}{kind}"


@pytest.fixture
def archive(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    add_user(tmp_path / "users", "limited", PASSWORD, Rights("contributor", ("CT",), ("SCAN",), (("P1", ""),)))
    add_user(tmp_path / "users", "all", PASSWORD, Rights("administrator"))
    apps: list[Any] = []
    monkeypatch.setattr(app_web, "make_app", lambda services: apps.append(make_app(services)) or apps[-1])
    config = servers.config(tmp_path, web=True).model_copy(
        update={
            "user_identity": UserIdentityConfig(users_path=tmp_path / "users"),
            "database": DatabaseConfig(url=database_url),
        }
    )
    with servers.running(config) as pacs:
        hidden = {"StudyDescription": "Geheim", "SeriesDescription": "Geheim", "AccessionNumber": "HIDDEN1"}
        for uids, more in (
            (OWN, {}),
            (BESIDE, {"SeriesDescription": "Geheim", "Modality": "MR", "PatientComments": ""}),
            (HIDDEN, hidden | {"PatientName": "Geheim^Anna", "PatientID": "HIDDEN", "InstitutionName": "Geheim"}),
        ):
            ds = make_ct(uids["study"], uids["series"], uids["instance"], **more)
            ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
            pacs.archive.store.store_file(tmp_path / "one.dcm", Origin("SCAN", "PACS", "10.0.0.7", Door.DIMSE))
        archive = Archive(pacs, [each for each in apps[0]._app.routes if isinstance(each, Route)])
        yield archive
        archive.http.close()


def told(answer: httpx.Response, ids: dict[str, str]) -> tuple[int, str]:
    """An answer without what the request itself has said."""
    text = answer.text
    for value in sorted(ids.values(), key=len, reverse=True):
        text = text.replace(value, "...")
    # What is drawn by lot or by the clock.
    text = re.sub(r"part-[0-9a-f]{32}", "", text)
    return answer.status_code, text


@pytest.mark.slow
def test_nothing_that_is_hidden_is_told_or_tells_that_it_is_there(archive: Archive) -> None:
    assert len(list(archive.paths(OWN))) > 50
    assert FOREIGN.search(archive.get("/dicom-web/instances?includefield=all", "all").text)
    looked = 0
    for accept in ACCEPTS:
        for ids in (OWN, UNKNOWN):
            for path in archive.paths(ids):
                answer = archive.get(path, "limited", accept)
                assert answer.status_code < 500, (path, answer.text)
                assert not FOREIGN.search(answer.text), (path, accept, FOREIGN.search(answer.text))
                assert not FOREIGN.search(str(answer.headers)), path
                looked += answer.status_code == 200
        for ids in (HIDDEN, BESIDE):
            unknown = UNKNOWN | ({"study": OWN["study"], "patient": OWN["patient"]} if ids is BESIDE else {})
            for path, other in zip(archive.paths(ids), archive.paths(unknown), strict=True):
                if path == other:
                    continue
                found, missing = archive.get(path, "limited", accept), archive.get(other, "limited", accept)
                assert told(found, ids) == told(missing, unknown), (path, accept)
    assert looked > 30


@pytest.mark.slow
def test_searches_for_what_is_hidden_answer_as_those_for_what_is_not_there(archive: Archive) -> None:
    keys = {
        "PatientID=HIDDEN": "PatientID=NOBODY",
        "PatientName=Geheim*": "PatientName=Nobody*",
        "AccessionNumber=HIDDEN1": "AccessionNumber=NOTHING",
        "StudyDescription=Geheim": "StudyDescription=Nothing",
        "StudyInstanceUID=1.2.666.1": "StudyInstanceUID=1.2.99",
        "SeriesInstanceUID=1.3.666.2": "SeriesInstanceUID=1.3.99",
        "SOPInstanceUID=1.4.666.2": "SOPInstanceUID=1.4.99",
        "Modality=MR": "Modality=ZZ",
        "ModalitiesInStudy=MR": "ModalitiesInStudy=ZZ",
    }
    for level in ("patients", "studies", "series", "instances"):
        for root in ("/dicom-web", "/api/v1"):
            for hidden, unknown in keys.items():
                found, missing = (archive.get(f"{root}/{level}?{key}", "limited") for key in (hidden, unknown))
                assert (found.status_code, found.text) == (missing.status_code, missing.text), (root, level, hidden)


@pytest.mark.slow
def test_what_a_limited_caller_has_seen_elsewhere_opens_nothing(archive: Archive) -> None:
    """Conditional requests and ranges are answered after the check, not from a cache."""
    paths = list(zip(archive.paths(HIDDEN), archive.paths(UNKNOWN), strict=True))
    tried = 0
    for path, other in paths:
        seen = archive.get(path, "all")
        if seen.status_code == 200 and (tag := seen.headers.get("etag")) and "{" not in path and path != other:
            tried += 1
            for headers in ({"If-None-Match": tag}, {"Range": "bytes=0-9"}):
                found = archive.get(path, "limited", **headers)
                missing = archive.get(other, "limited", **headers)
                assert found.status_code == missing.status_code == 404, path
    assert tried > 3
