"""One study: its series, what people say of it, its attributes and its history."""

import io
import zipfile
from pathlib import Path

import pydicom
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
    page.get_by_role("button", name="Keep").click()
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
    expect(page.get_by_text("No attribute has these words.")).to_be_visible()
    page.get_by_label("Search in the attributes").fill("comments")
    row.get_by_text("all", exact=True).click()
    expect(row.filter(has_text="(0010,4000)")).to_contain_text("long " * 50)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_study_is_downloaded_after_a_look_at_what_is_removed(site: Site, page: Page, tmp_path: Path) -> None:
    ds = kept(site, tmp_path)
    page.goto(f"{site.url}/studies/{ds.StudyInstanceUID}/download")
    with page.expect_download() as stored:
        page.get_by_role("link", name="Download as ZIP").click()
    page.get_by_role("link", name="See what is removed").click()
    expect(page.get_by_role("row", name="Patient's Name")).to_contain_text(NASTY)
    with page.expect_download() as deidentified:
        page.get_by_role("link", name="Download de-identified").click()
    names = []
    for download in (stored, deidentified):
        download.value.save_as(tmp_path / "study.zip")
        with zipfile.ZipFile(tmp_path / "study.zip") as packed:
            names.append(sorted(packed.namelist()))
            file = pydicom.dcmread(io.BytesIO(packed.read("DICOM/SE000001/IM000001")))
    assert names[0] == names[1] == ["DICOM/SE000001/IM000001", "DICOM/SE000002/IM000001", "DICOMDIR"]
    assert (file.PatientName, file.PatientIdentityRemoved) == ("", "YES")
