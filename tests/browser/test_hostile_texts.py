"""No text of an object, an order, a label or a note becomes a part of a page: every page is opened and looked at."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Dialog, Page, expect
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from servers import config, running

from pacs_server.config.rights import Rights
from pacs_server.config.users import add_user

PASSWORD = "correct horse battery staple"
_MOST_PAGES = 80
# What no link may lead to: it ends the login, or is a file.
_LEFT_OUT = re.compile(r"/logout|/dicom-web|/static/|/api/|download|export|\.csv|\.zip|/wado")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Site]:
    """A server with an administrator."""
    settings = config(tmp_path, web=True)
    users = tmp_path / "users"
    add_user(users, "ann", PASSWORD, Rights(role="administrator"))
    section = settings.user_identity.model_copy(update={"users_path": users})
    with running(settings.model_copy(update={"user_identity": section})) as pacs:
        yield Site(pacs)


def log_in(page: Page, site: Site, name: str = "ann") -> None:
    page.goto(f"{site.url}/login")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{site.url}/studies")


def hostile(number: int) -> str:
    """A text that would run a script, were it taken for HTML, an attribute or a script."""
    return f"x{number}\"'><img src=q onerror=hit({number})>"[:64]


def hostile_ct() -> Dataset:
    ds = make_ct(PatientName=f"Evil^{hostile(1)}", PatientID=hostile(2), StudyDescription=hostile(3))
    ds.SeriesDescription, ds.StationName, ds.InstitutionName = hostile(4), "<marquee>S1", hostile(5)
    ds.ReferringPhysicianName, ds.AccessionNumber, ds.ImageComments = hostile(6), "<i>'\"", hostile(7)
    item = Dataset()
    item.CodeMeaning, item.CodeValue, item.CodingSchemeDesignator = hostile(8), "<marquee>", "99X"
    ds.ProcedureCodeSequence = Sequence([item])
    block = ds.private_block(0x0019, hostile(9)[:60], create=True)
    block.add_new(0x01, "LT", f"<script>hit(10)</script>{hostile(11)}")
    return ds


@pytest.mark.complains("/welcome")
def test_no_text_runs_as_a_script(guarded: Site, page: Page, tmp_path: Path) -> None:
    ds = guarded.keep(hostile_ct(), tmp_path)
    base = f"{guarded.url}/api/v1"
    page.add_init_script("window.hits = []; window.hit = (n) => window.hits.push(n);")
    dialogs: list[str] = []

    def opened(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", opened)
    log_in(page, guarded)
    study = f"{base}/studies/{ds.StudyInstanceUID}"
    headers = {"content-type": "application/json"}
    for address, body in (
        (f"{study}/marks", {"add_labels": [hostile(12)], "assigned_to": hostile(13)}),
        (f"{study}/notes", {"text": f"<script>hit(14)</script>{hostile(15)}"}),
        (f"{base}/worklist", {"fields": {
            "PatientName": f"Evil^{hostile(16)}", "PatientID": hostile(17), "Modality": "CT", "AccessionNumber": "<u>",
            "ScheduledStationAETitle": "<B>", "ScheduledProcedureStepStartDate": "20240229",
            "ScheduledProcedureStepStartTime": "0800", "RequestedProcedureDescription": hostile(18),
        }}),
    ):  # fmt: skip
        answer = page.request.post(address, data=body, headers=headers)
        assert answer.ok, (address, answer.text())

    waiting = [f"{guarded.url}/studies", f"{guarded.url}/worklist?date=20240229"]
    waiting.append(f"{guarded.url}/studies/{ds.StudyInstanceUID}")
    seen: set[str] = set()
    shapes: dict[str, int] = {}
    texts = 0
    while waiting and len(seen) < _MOST_PAGES:
        address = waiting.pop(0)
        # One or two pages of each kind are enough.
        shape = re.sub(r"[0-9.]{2,}|%3C.*|=[^&]*", "#", urlsplit(address).path + "?" + urlsplit(address).query)
        if address in seen or shapes.get(shape, 0) >= 2:
            continue
        seen.add(address)
        shapes[shape] = shapes.get(shape, 0) + 1
        answer = page.goto(address, wait_until="load")
        assert answer is not None
        assert answer.status < 500, address
        assert page.evaluate("window.hits") == [], address
        assert page.locator("img[src='q'], main marquee, main script:not([src])").count() == 0, address
        texts += "Evil" in (page.text_content("main") or "")
        links = page.evaluate("[...document.links].map(link => link.href.split('#')[0])")
        waiting += [each for each in links if each.startswith(f"{guarded.url}/") and not _LEFT_OUT.search(each)]
    assert dialogs == []
    assert len(shapes) > 12, shapes
    # The text was there to be seen.
    assert texts > 3


@pytest.mark.parametrize("role", ["reader", "contributor", "operator", "administrator"])
def test_each_role_sees_its_rooms(tmp_path: Path, page: Page, role: str) -> None:
    settings = config(tmp_path, web=True)
    users = tmp_path / "users"
    add_user(users, "ann", PASSWORD, Rights(role=role))
    section = settings.user_identity.model_copy(update={"users_path": users})
    with running(settings.model_copy(update={"user_identity": section})) as pacs:
        site = Site(pacs)
        log_in(page, site)
        names = set(page.get_by_role("navigation", name="Main").get_by_role("link").all_inner_texts())
        expected = {"Studies", "Worklist", "About"}
        if role != "reader":
            expected |= {"Upload"}
        if role in ("operator", "administrator"):
            expected |= {"Associations", "Remotes", "Send queue", "Conflicts", "Trash", "Tasks", "Storage"}
        if role == "administrator":
            expected |= {"Users and keys"}
        assert expected <= names
        assert role == "administrator" or not names & {"Users and keys", "Audit", "Settings"}
        assert role in ("operator", "administrator") or not names & {"Associations", "Trash", "Tasks", "Storage"}
        # What is not shown is refused as well.
        refused = {"reader": "/upload", "contributor": "/trash", "operator": "/users", "administrator": ""}[role]
        if refused:
            answer = page.request.get(f"{site.url}{refused}", headers={"accept": "text/html"})
            assert answer.status == 403
        # Away from the page before the server stops.
        page.goto("about:blank")


def test_forms_of_other_pages_do_nothing(guarded: Site, page: Page, tmp_path: Path) -> None:
    ds = guarded.keep(make_ct(), tmp_path)
    log_in(page, guarded)
    token = page.locator("meta[name=form-token]").get_attribute("content")
    target = f"{guarded.url}/preferences"
    form = {"language": "de", "theme": "dark", "back": "/studies"}
    for told, origin, status in (
        ({}, guarded.url, 400),
        ({"token": "x" * 43}, guarded.url, 400),
        ({"token": token}, "http://evil.example", 403),
        ({"token": token}, "null", 403),
        ({"token": token}, guarded.url, 303),
    ):
        answer = page.request.post(target, form={**form, **told}, headers={"origin": origin}, max_redirects=0)
        assert answer.status == status, (told, origin)
    assert ds.StudyInstanceUID
