"""The worklist in a browser: an order from the form to its images, and a study that finds its order by hand."""

from datetime import date
from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Page, expect


def column(page: Page, title: str) -> str:
    return page.locator(".column", has=page.get_by_role("heading", name=title)).inner_text()


def add_order(site: Site, page: Page, **fields: str) -> None:
    page.goto(f"{site.url}/worklist")
    page.get_by_role("link", name="New order").click()
    for keyword, text in fields.items():
        page.locator(f"#{keyword}").fill(text)
    page.get_by_role("button", name="Add the order").click()


ORDER = {
    "PatientName": "Roe^Jane", "PatientID": "P7", "AccessionNumber": "A7", "Modality": "CT",
    "RequestedProcedureDescription": "CT of the head",
    "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartTime": "23:59",
}  # fmt: skip


@pytest.mark.complains("400")
def test_from_an_order_to_its_images(site: Site, page: Page, tmp_path: Path) -> None:
    add_order(site, page, **ORDER)
    expect(page.get_by_role("link", name="Roe, Jane")).to_be_visible()
    assert "CT of the head" in column(page, "Scheduled")
    # The time is changed, and what the form does not show stays.
    page.get_by_role("link", name="Roe, Jane").click()
    page.locator("#ScheduledProcedureStepStartTime").fill("25:00")
    page.get_by_role("button", name="Keep the changes").click()
    expect(page.get_by_role("alert")).to_contain_text("ScheduledProcedureStepStartTime has to be a time")
    page.locator("#ScheduledProcedureStepStartTime").fill("07:15")
    page.get_by_role("button", name="Keep the changes").click()
    expect(page.get_by_text("07:15")).to_be_visible()
    # The images arrive under the UID of the order while the board is open.
    [row] = site.pacs.archive.worklist.list()
    ds = make_ct(PatientID="P7", AccessionNumber="A7")
    ds.StudyInstanceUID = row.item.study_instance_uid
    site.keep(ds, tmp_path)
    page.get_by_role("link", name="1 image").click()
    expect(page).to_have_url(f"{site.url}/studies/{ds.StudyInstanceUID}")
    page.goto(f"{site.url}/worklist/{row.id}")
    page.get_by_role("button", name="Cancel the order").click()
    expect(page.get_by_text("cancelled")).to_be_visible()


@pytest.mark.complains("409")
def test_a_study_finds_its_order_by_hand(site: Site, page: Page, tmp_path: Path) -> None:
    today = date.today().strftime("%Y%m%d")
    ds = site.keep(make_ct(PatientName="Roe^Jane", PatientID="P7", StudyDate=today, AccessionNumber=""), tmp_path)
    other = site.keep(make_ct(PatientName="Doe^John", PatientID="P8", StudyDate=today, AccessionNumber=""), tmp_path)
    add_order(site, page, **ORDER)
    without = page.locator(".without")
    expect(without.get_by_role("row")).to_have_count(3)
    page.goto(f"{site.url}/worklist/unmatched/{other.StudyInstanceUID}")
    expect(page.get_by_text("There is no order for the Patient ID P8.")).to_be_visible()
    page.goto(f"{site.url}/worklist")
    without.get_by_role("row", name="Roe, Jane").get_by_role("link", name="Find the order").click()
    page.get_by_role("button", name="This is it").click()
    expect(without.get_by_role("row")).to_have_count(2)
    assert "Roe, Jane" in column(page, "Completed")
    [row] = site.pacs.archive.worklist.list()
    assert row.item.study_instance_uid == ds.StudyInstanceUID
