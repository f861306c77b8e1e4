"""The rooms of those who look after the archive: conflicts, trash, tasks, storage, audit, users, settings and about."""

import csv
from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Page, expect

from pacs_server.config.rights import Rights
from pacs_server.dicom.levels import Level
from pacs_server.index.task_values import NewTask
from pacs_server.services.users import UserService

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PASSWORD = "correct horse"


@pytest.fixture
def admin(site: Site, page: Page) -> Page:
    """A browser that is logged in as an administrator."""
    key = site.pacs.archive.keys.create("browser", Rights(role="administrator"), None)
    page.set_extra_http_headers({"Authorization": f"Bearer {key}"})
    return page


def test_a_conflict_is_decided_after_a_look(site: Site, admin: Page, tmp_path: Path) -> None:
    for name in ("Roe^Jane", "Row^Jane"):
        site.keep(make_ct(PatientName=name, PatientID="4711"), tmp_path)
    admin.goto(f"{site.url}/conflicts")
    expect(admin.get_by_role("row", name="Name (differs)")).to_contain_text("Row, Jane")
    admin.get_by_role("link", name="This is right").first.click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("Merge these two patients?")
    expect(admin.get_by_role("row", name="Moved")).to_contain_text("1 study, 1 image")
    admin.get_by_label("Why?").fill("typed wrong")
    admin.get_by_role("button", name="Merge").click()
    expect(admin.get_by_role("status").first).to_contain_text("Done: 1 study, 1 image.")
    expect(admin.get_by_text("There are no conflicts.")).to_be_visible()
    assert site.pacs.archive.patients.count() == 0


def test_what_was_deleted_comes_back(site: Site, admin: Page, tmp_path: Path) -> None:
    ds = site.keep(make_ct(PatientName="Roe^Jane"), tmp_path)
    admin.goto(f"{site.url}/trash")
    expect(admin.get_by_text("The trash is empty.")).to_be_visible()
    # The page follows.
    site.pacs.archive.deletions.delete(Level.STUDY, ds.StudyInstanceUID, "sent by mistake")
    row = admin.get_by_role("row", name="Roe, Jane")
    expect(row).to_contain_text("sent by mistake")
    row.get_by_role("button", name="Restore").click()
    expect(admin.get_by_text("1 image is back in the archive.")).to_be_visible()
    site.pacs.archive.deletions.delete(Level.STUDY, ds.StudyInstanceUID, "again")
    admin.goto(f"{site.url}/trash")
    admin.get_by_role("link", name="Remove for good").click()
    admin.get_by_role("button", name="Remove for good").click()
    expect(admin.get_by_text("It is removed for good.")).to_be_visible()
    assert site.pacs.archive.deletions.contents() == []


@ON_SQLITE
def test_tasks_storage_settings_and_about(site: Site, admin: Page, tmp_path: Path) -> None:
    site.keep(make_ct(PatientName="Large^Study"), tmp_path)
    number = site.pacs.archive.tasks.add(NewTask("nothing_runs_this", "a test", "WS1"))
    admin.goto(f"{site.url}/tasks")
    admin.get_by_role("button", name=f"Cancel {number}").click()
    expect(admin.get_by_text("The task is cancelled.")).to_be_visible()
    admin.get_by_label("State").select_option("cancelled")
    admin.get_by_role("button", name=f"Try now {number}").click()
    expect(admin.get_by_text("The task is tried again now.")).to_be_visible()
    admin.goto(f"{site.url}/storage")
    expect(admin.get_by_role("link", name="Large, Study")).to_be_visible()
    expect(admin.get_by_role("img", name="What was received, added up")).to_be_visible()
    admin.goto(f"{site.url}/settings")
    admin.get_by_role("searchbox").press_sequentially("trash_days")
    expect(admin.get_by_role("heading", level=3)).to_have_text(["storage.trash_days"])
    expect(admin).to_have_url(f"{site.url}/settings?q=trash_days")
    admin.goto(f"{site.url}/about")
    admin.context.grant_permissions(["clipboard-read", "clipboard-write"])
    admin.get_by_role("button", name=f"Copy {site.url}/dicom-web").click()
    expect(admin.get_by_text("Copied.")).to_be_visible()
    assert admin.evaluate("navigator.clipboard.readText()") == f"{site.url}/dicom-web"
    admin.get_by_role("link", name="Conformance statement").click()
    expect(admin.get_by_role("heading", level=1)).to_contain_text("DICOM conformance statement")


@ON_SQLITE
def test_the_first_user_logs_in_and_the_audit_trail_tells_of_it(site: Site, page: Page, tmp_path: Path) -> None:
    page.goto(f"{site.url}/users")
    expect(page.get_by_role("heading", level=1)).to_have_text("Nobody has to log in here yet")
    assert page.get_by_role("link", name="Audit").count() == 0
    _add_user(site, "ann")
    page.goto(f"{site.url}/users")
    page.get_by_label("Name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button").last.click()
    expect(page.get_by_role("row", name="ann")).to_contain_text("administrator")
    page.get_by_text("Add a user").click()
    page.get_by_label("Name", exact=True).fill("bob")
    page.get_by_label("Password, at least 8 characters").fill(PASSWORD)
    page.get_by_label("The same password once more").first.fill(PASSWORD)
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("row", name="bob")).to_contain_text("reader")
    page.goto(f"{site.url}/audit?when=today")
    expect(page.get_by_role("row", name="logged in")).to_contain_text("ann")
    page.get_by_label("What").select_option("user_authentication")
    page.get_by_role("button", name="Search").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    path = tmp_path / "audit.csv"
    download.value.save_as(path)
    with path.open(encoding="utf-8", newline="") as file:
        assert {row["event"] for row in csv.DictReader(file)} == {"User Authentication"}


def _add_user(site: Site, name: str) -> None:

    archive = site.pacs.archive
    service = UserService(lambda: site.pacs.config.user_identity.users_path, archive.audit)
    service.add(name, PASSWORD, Rights(role="administrator"))
