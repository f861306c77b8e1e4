"""The rooms of those who look after the archive: conflicts, trash, tasks, storage, audit, users, settings and about."""

from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Page, expect

from pacs_server.index.task_values import NewTask

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PASSWORD = "correct horse"


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
