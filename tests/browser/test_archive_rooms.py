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
    expect(admin.get_by_role("img", name="Received in total")).to_be_visible()
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
@pytest.mark.complains("409 (Conflict)")
def test_a_study_under_the_wrong_id_is_given_to_its_patient_in_the_conflict(
    site: Site, admin: Page, tmp_path: Path
) -> None:
    """Two people with one ID, of whom one should have had another one."""
    for name, patient_id, description in (
        ("Roe^Jane", "4711", "Thorax"), ("Poe^Edgar", "4711", "Knee"), ("Poe^Edgar", "1845", "Knee before")
    ):  # fmt: skip
        site.keep(make_ct(PatientName=name, PatientID=patient_id, StudyDescription=description), tmp_path)
    admin.goto(f"{site.url}/conflicts")
    admin.get_by_text("A study belongs to somebody else").click()
    study = admin.get_by_label("Which study?")
    expect(study.get_by_role("option")).to_have_count(3)
    study.select_option(index=2)
    expect(study.locator("option:checked")).to_contain_text("Poe, Edgar")
    # While somebody is busy with the form, images arrive.
    admin.get_by_role("heading", level=1).click()
    admin.evaluate("document.addEventListener('stale', () => { document.body.dataset.news = 'yes' })")
    site.keep(make_ct(PatientName="Roe^Jane", PatientID="4711"), tmp_path)
    expect(admin.locator("body")).to_have_attribute("data-news", "yes")
    expect(study.locator("option:checked")).to_contain_text("Poe, Edgar")
    admin.get_by_label("Somebody with another Patient ID").check()
    admin.get_by_label("The other Patient ID").fill("1854")
    admin.get_by_role("button", name="Show what will change").first.click()
    # Somebody has mistyped it: what was chosen stays.
    expect(admin.get_by_role("alert")).to_contain_text("There is no patient of ID 1854")
    expect(study.locator("option:checked")).to_contain_text("Poe, Edgar")
    expect(admin.get_by_label("Somebody with another Patient ID")).to_be_checked()
    admin.get_by_label("The other Patient ID").fill("1845")
    admin.get_by_role("button", name="Show what will change").first.click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("Move this study to another patient?")
    expect(admin.get_by_role("row", name="Patient ID (differs)")).to_contain_text("1845")
    expect(admin.get_by_role("row", name="Moved")).to_contain_text("1 study, 1 image")
    assert site.pacs.archive.patients.count() == 1
    admin.get_by_label("Reason").fill("wrong ID at the console")
    admin.get_by_role("button", name="Move it").click()
    expect(admin.get_by_role("status").first).to_contain_text("Done: 1 study, 1 image.")
    expect(admin.get_by_text("There are no conflicts.")).to_be_visible()
    assert site.pacs.archive.patients.count() == 0
