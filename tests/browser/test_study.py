"""One study: its series, what people say of it, its attributes and its history."""

from pathlib import Path

import pytest
from browsing import Site
from datasets import make_study
from playwright.sync_api import Page, expect
from pydicom.dataset import Dataset

NASTY = "<script>alert(1)</script>"


def kept(site: Site, scratch: Path) -> Dataset:
    """A study of two series, with markup in its texts."""
    first, other = make_study(2, 1, PatientName=f"Roe^{NASTY}", StudyDescription=NASTY)
    for ds in (first, other):
        ds.SeriesDescription, ds.PatientComments = f"{NASTY}{ds.SeriesNumber}", "long " * 100
        ds.private_block(0x0029, NASTY, create=True).add_new(1, "LO", NASTY)
        site.keep(ds, scratch)
    return first


def test_a_study_is_labelled_noted_and_read(site: Site, page: Page, tmp_path: Path) -> None:
    ds = kept(site, tmp_path)
    page.goto(f"{site.url}/studies/{ds.StudyInstanceUID}")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Roe, {NASTY}")
    expect(page.locator(".tile img")).to_have_count(2)
    page.get_by_label("New label").fill(NASTY)
    page.get_by_role("button", name="Label", exact=True).click()
    expect(page.get_by_label("Labels").get_by_role("listitem")).to_contain_text(NASTY)
    page.get_by_label("New note").fill("Second look\nplease")
    page.get_by_role("button", name="Write the note").click()
    expect(page.get_by_text("Second look")).to_be_visible()
    page.get_by_label("State").select_option("read")
    page.get_by_label("Assigned to").fill("ann")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Last set by not logged in")).to_be_visible()
    page.get_by_role("button", name=f"Remove the label {NASTY}").click()
    expect(page.get_by_label("Labels").get_by_role("listitem")).to_have_count(0)
    page.get_by_role("link", name="What happened").click()
    expect(page.get_by_text("Received from CT1")).to_be_visible()
    expect(page.get_by_text("not logged in wrote a note")).to_be_visible()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_attributes_are_found_while_one_types(site: Site, page: Page, tmp_path: Path) -> None:
    ds = kept(site, tmp_path)
    page.goto(f"{site.url}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}")
    page.get_by_role("link", name=ds.SOPInstanceUID).click()
    row = page.locator(".tag-row")
    expect(row.filter(has_text="(0028,0010)")).to_be_visible()
    expect(row.filter(has_text="(0029,1001)")).not_to_be_visible()
    page.get_by_label("Search in the attributes").fill("29,1001")
    expect(row.filter(has_text="(0029,1001)")).to_contain_text(NASTY)
    expect(row.filter(has_text="(0028,0010)")).not_to_be_visible()
    page.get_by_label("Search in the attributes").fill("nothing like it")
    expect(page.get_by_text("No attribute matches.")).to_be_visible()
    page.get_by_label("Search in the attributes").fill("comments")
    row.get_by_text("all", exact=True).click()
    expect(row.filter(has_text="(0010,4000)")).to_contain_text("long " * 50)
