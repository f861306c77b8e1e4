"""The files and settings of the viewer as they are served; what stands in for the viewer is made here."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import make_ct
from rooms import Rooms
from starlette.testclient import TestClient

from pacs_server.config import WebConfig
from pacs_server.config.users import add_user
from pacs_server.dicom.caller import Role
from pacs_server.web.door import make_app
from pacs_server.web.pages import viewer_files

BUNDLE = b"window.ohif = true; " * 100
INDEX = b'<script src="@PLACE@/app-config.js"></script><script src="@PLACE@/app.bundle.0123456789abcdef.js"></script>'
NAME = "/viewer/app.bundle.0123456789abcdef.js"


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rooms]:
    """Pages of a server that may have the package on this machine, which does not count."""
    monkeypatch.setattr(viewer_files, "_folder_of_package", lambda: None)
    rooms = Rooms(tmp_path)
    rooms.act_as(Role.READER)
    yield rooms
    rooms.close()


@pytest.fixture
def viewer(rooms: Rooms, tmp_path: Path) -> Rooms:
    folder = tmp_path / "viewer"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_bytes(INDEX)
    (folder / "app.bundle.0123456789abcdef.js.gz").write_bytes(gzip.compress(BUNDLE))
    (folder / "0123456789abcdef.wasm").write_bytes(b"\0asm")
    (folder / "assets" / "favicon.ico").write_bytes(b"icon")
    rooms.config = rooms.config.model_copy(update={"web": WebConfig(viewer_path=folder)})
    return rooms


def test_a_file_is_sent_as_it_is_kept_if_the_client_can_read_that(viewer: Rooms) -> None:
    packed = viewer.browser.get(NAME, headers={"accept-encoding": "br, gzip"})
    plain = viewer.browser.get(NAME, headers={"accept-encoding": "gzip;q=0, identity"})
    assert packed.content == plain.content == BUNDLE
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 200
    assert "content-encoding" not in plain.headers
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "immutable" in packed.headers["cache-control"]
    assert packed.headers["content-type"] == "text/javascript"
    again = viewer.browser.get(NAME, headers={"accept-encoding": "gzip", "if-none-match": packed.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_file_without_a_digest_in_its_name_is_asked_for_again(viewer: Rooms) -> None:
    assert viewer.browser.get("/viewer/assets/favicon.ico").headers["cache-control"] == "no-cache"
    decoder = viewer.browser.get("/viewer/0123456789abcdef.wasm")
    assert decoder.headers["content-type"] == "application/wasm"
    assert "immutable" in decoder.headers["cache-control"]


def test_every_mode_is_the_page_and_a_missing_file_is_none(viewer: Rooms) -> None:
    for mode in ("viewer", "microscopy"):
        assert viewer.page(f"/viewer/{mode}?StudyInstanceUIDs=1.2") == INDEX.replace(b"@PLACE@", b"/viewer").decode()
    for missing in ("assets/other.ico", "index.html.gz", "..%2f..%2fpacs.db", "..%2fviewer/index.html"):
        assert viewer.browser.get(f"/viewer/{missing}").status_code == 404
    there = viewer.browser.get("/viewer/", follow_redirects=False)
    assert (there.status_code, there.headers["location"]) == (303, "/studies")


def test_below_the_path_of_a_proxy(viewer: Rooms) -> None:
    web = viewer.config.web.model_copy(update={"public_url": "https://pacs.example.org/pacs"})
    viewer.config = viewer.config.model_copy(update={"web": web})
    assert '"/pacs/viewer/app-config.js"' in viewer.page("/viewer/viewer")


def test_only_the_viewer_may_make_code_from_text(viewer: Rooms) -> None:
    for path in ("/viewer/viewer", "/viewer/app-config.js", NAME):
        headers = viewer.browser.get(path).headers
        assert "'unsafe-eval'" in headers["content-security-policy"]
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["cross-origin-opener-policy"] == "same-origin"
    for path in ("/studies", "/viewer/none.js", "/about"):
        assert "unsafe" not in viewer.browser.get(path).headers["content-security-policy"]
        assert "cross-origin-embedder-policy" not in viewer.browser.get(path).headers


def test_the_pages_lead_to_the_mode_of_the_study(viewer: Rooms) -> None:
    image, slide = viewer.store([make_ct(), make_ct(Modality="SM")])
    for study, mode in ((image, "viewer"), (slide, "microscopy")):
        link = f'href="/viewer/{mode}?StudyInstanceUIDs={study.StudyInstanceUID}"'
        assert link in viewer.page(f"/studies/{study.StudyInstanceUID}")
        assert link in viewer.page("/studies")


def test_without_a_viewer_operators_are_told_how_to_get_it(rooms: Rooms) -> None:
    [image] = rooms.store([make_ct()])
    page = f"/studies/{image.StudyInstanceUID}"
    assert "make viewer" not in rooms.page(page)
    rooms.act_as(Role.OPERATOR)
    shown = rooms.page(page)
    assert "make viewer" in shown
    assert "/viewer/" not in shown
    assert "Quick look" in shown
    assert "docs/web.md says how to get it" in rooms.page("/viewer/viewer", 404)
    rooms.config = rooms.config.model_copy(update={"web": WebConfig(viewer_path=Path("/nonexistent"))})
    assert "make viewer" in rooms.page(page)


def test_nobody_gets_the_viewer_without_a_login(viewer: Rooms) -> None:
    add_user(viewer.config.user_identity.users_path, "ann", "12345678")
    client = TestClient(make_app(viewer.services), base_url="http://127.0.0.1:8080", client=("127.0.0.1", 1))
    for path in ("/viewer/viewer", "/viewer/app-config.js", NAME):
        assert client.get(path).status_code == 401
        assert client.get(path, auth=("ann", "12345678")).status_code == 200
