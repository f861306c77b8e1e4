"""The list of studies: searching, sorting, the end of the list, keys, and many studies at once."""

import re
import zipfile
from pathlib import Path

import pytest
from browsing import Site
from datasets import make_study
from playwright.sync_api import Browser, Page, expect

from pacs_server.config.rights import Rights

HOSTILE = "<img src=x onerror=alert(1)>"


def fill(site: Site, scratch: Path, count: int) -> None:
    """So many studies, the first of which is the oldest."""
    for number in range(count):
        for ds in make_study(1, 1):
            ds.PatientName = f"Doe^Number{number:03}" if number % 2 else f"Smith^{HOSTILE}"
            ds.PatientID, ds.StudyDescription = f"P{number:03}", "knee" if number % 2 else HOSTILE
            ds.StudyDate, ds.StudyTime = f"2026{1 + number // 28:02}{1 + number % 28:02}", "0800"
            ds.Modality = "CT" if number % 3 else "MR"
            site.keep(ds, scratch)


def test_searching_filtering_and_sorting_are_in_the_address(site: Site, page: Page, tmp_path: Path) -> None:
    fill(site, tmp_path, 6)
    page.goto(f"{site.url}/studies")
    rows = page.locator(".studies tbody tr")
    expect(rows).to_have_count(6)
    page.locator("#q").fill("doe kne")
    expect(rows).to_have_count(3)
    expect(page.locator(".about [role=status]")).to_have_text("3 studies")
    page.get_by_role("combobox", name="Modality").select_option("CT")
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Patient", exact=True).click()
    expect(page.get_by_role("columnheader", name="Patient", exact=True)).to_have_attribute("aria-sort", "ascending")
    expect(rows.first).to_contain_text("Doe, Number001")
    expect(page).to_have_url(f"{site.url}/studies?q=doe+kne&modality=CT&sort=name&dir=asc")
    page.reload()
    expect(rows).to_have_count(2)
    page.get_by_role("link", name="Remove the filter CT").click()
    expect(rows).to_have_count(3)
    expect(page.get_by_role("combobox", name="Modality")).to_have_value("")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_end_of_the_list_brings_older_studies(site: Site, page: Page, tmp_path: Path) -> None:
    fill(site, tmp_path, 54)
    page.goto(f"{site.url}/studies")
    rows = page.locator(".studies tbody tr")
    expect(rows).to_have_count(50)
    page.mouse.wheel(0, 10_000)
    expect(rows).to_have_count(54)
    # What arrives now does not take the place away.
    (ds,) = make_study(1, 1)
    site.keep(ds, tmp_path)
    page.get_by_role("link", name="Show the changes").click()
    expect(rows).to_have_count(50)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_keys_move_select_and_open(site: Site, page: Page, tmp_path: Path) -> None:
    fill(site, tmp_path, 4)
    page.goto(f"{site.url}/studies")
    page.locator("#q").press("ArrowDown")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("[data-count]")).to_have_text("1 study selected")
    # The selection stays when the list changes.
    (ds,) = make_study(1, 1)
    ds.PatientName = "New^Arrival"
    site.keep(ds, tmp_path)
    expect(page.get_by_role("link", name="New, Arrival")).to_be_visible()
    expect(page.locator("[data-count]")).to_have_text("1 study selected")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Smith")


def test_many_studies_are_downloaded_labelled_exported_and_deleted(site: Site, page: Page, tmp_path: Path) -> None:
    fill(site, tmp_path, 4)
    key = site.pacs.archive.keys.create("operator", Rights("operator"), None)
    page.set_extra_http_headers({"authorization": f"Bearer {key}"})
    page.goto(f"{site.url}/studies")
    boxes = page.locator("input[name=study]")
    boxes.nth(0).click()
    boxes.nth(2).click(modifiers=["Shift"])
    expect(page.locator("[data-count]")).to_have_text("3 studies selected")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 4
    page.get_by_role("button", name="Label or mark as read").click()
    page.get_by_label("Add a label").fill("teaching")
    page.get_by_role("combobox", name="Reading").select_option("read")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_text("Done for 3 studies.")).to_be_visible()
    page.goto(f"{site.url}/studies?label=teaching&reading=read")
    page.get_by_label("Select all that are shown").click()
    page.get_by_role("button", name="Export").click()
    page.get_by_label("Name of the new folder").fill("teaching")
    page.get_by_role("button", name="Export").click()
    expect(page.get_by_role("row", name="Export")).to_contain_text("3 of 3 images")
    assert len(list((tmp_path / "exports" / "teaching").rglob("IM*"))) == 3
    page.goto(f"{site.url}/studies?label=teaching&reading=read")
    expect(boxes).to_have_count(3)
    page.get_by_label("Select all that are shown").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_label("Reason").fill("test")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("is in the trash")).to_have_count(3)
    page.goto(f"{site.url}/studies")
    expect(boxes).to_have_count(1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_list_works_without_scripts(site: Site, browser: Browser, tmp_path: Path) -> None:
    fill(site, tmp_path, 54)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.url}/studies")
    page.get_by_role("link", name="Older studies").click()
    expect(page.locator(".studies tbody tr")).to_have_count(4)
    page.locator("#q").fill("number001")
    page.get_by_role("button", name="Search").first.click()
    page.locator("summary").filter(has_text="Columns").click()
    page.get_by_label("Accession").uncheck()
    page.get_by_role("button", name="Show these columns").click()
    expect(page).to_have_url(re.compile(r"/studies\?q=number001&"))
    expect(page.get_by_role("columnheader", name="Accession")).to_have_count(0)
    page.locator("input[name=study]").check()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_text("No remote is configured to send to.")).to_be_visible()
    context.close()
