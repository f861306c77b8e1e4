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
    "PatientName": "Roe, Jane", "PatientID": "P7", "AccessionNumber": "A7", "Modality": "CT",
    "RequestedProcedureDescription": "CT of the head",
    "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartTime": "23:59",
}  # fmt: skip


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
    page.get_by_role("button", name="Use this order").click()
    expect(without.get_by_role("row")).to_have_count(2)
    assert "Roe, Jane" in column(page, "Completed")
    [row] = site.pacs.archive.worklist.list()
    assert row.item.study_instance_uid == ds.StudyInstanceUID


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_order_is_completed_by_hand(site: Site, page: Page, tmp_path: Path) -> None:
    # A modality without MPPS never says that it has finished.
    add_order(site, page, **ORDER)
    expect(page.get_by_role("link", name="Roe, Jane")).to_be_visible()
    [row] = site.pacs.archive.worklist.list()
    site.keep(make_ct(row.item.study_instance_uid, PatientID="P7"), tmp_path)
    page.goto(f"{site.url}/worklist/{row.id}")
    page.get_by_role("button", name="All images are here").click()
    expect(page.locator(".column", has_text="Completed").get_by_role("link", name="Roe, Jane")).to_be_visible()
