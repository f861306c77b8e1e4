"""The viewer OHIF on this server's pages: images, slides and reports, as it shows them.

It is fetched from npm and made once, and kept beside the packages of other tests. Each page takes it ten seconds.
"""

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browsing import FLAGS, Site, program
from datasets import make_ct, uid
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ComprehensiveSRStorage
from servers import config, eventually, running

from pacs_server.config.sections.web import WebConfig
from pacs_server.testing import synthetic

pytestmark = [pytest.mark.soak, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]
_TOOL = Path(__file__).resolve().parents[2] / ".ci" / "viewer"
_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_SECONDS = 90.0
SIDE = 64


@pytest.fixture(scope="module")
def viewer() -> Path:
    """The files of the viewer, as this version of the tool makes them."""
    digest = hashlib.sha256(_TOOL.read_bytes()).hexdigest()[:12]
    folder = Path.home() / ".cache" / "pacs-server-tests" / f"viewer-{digest}"
    if not folder.exists():
        made = folder.with_name(f"{folder.name}-{os.getpid()}")
        done = subprocess.run([sys.executable, _TOOL, "--folder", made], check=False, capture_output=True, timeout=600)
        if done.returncode:
            pytest.skip(f"the viewer cannot be fetched: {done.stderr.decode()[-300:]}")
        made.rename(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=[*FLAGS, *_WEBGL])
        yield browser
        browser.close()


@pytest.fixture
def site(viewer: Path, database_url: str, tmp_path: Path) -> Iterator[Site]:
    web = WebConfig(enabled=True, port=0, viewer_path=viewer)
    with running(config(tmp_path, web=True).model_copy(update={"web": web})) as pacs:
        yield Site(pacs)


def series(count: int) -> list[Dataset]:
    """Parallel images with a bright square in the middle."""
    study, number, frame = uid(), uid(), uid()
    stored = np.full((SIDE, SIDE), -1000, "<i2")
    stored[16:48, 16:48] = 400
    images = []
    for place in range(count):
        ds = make_ct(study, number, rows=SIDE, columns=SIDE, InstanceNumber=place + 1, SeriesDescription="Thorax")
        ds.FrameOfReferenceUID, ds.PixelRepresentation, ds.PixelData = frame, 1, stored.tobytes()
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, 0, 40, 400
        ds.PixelSpacing, ds.SliceThickness, ds.ImageOrientationPatient = [2, 2], 3, [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-64, -64, 3 * place]
        images.append(ds)
    return images


def seen(page: Page) -> np.ndarray:
    """The colours in the middle of the page, where the image is."""
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        return np.asarray(shot.convert("RGB"))[100:650, 320:960]


def report(about: Dataset) -> Dataset:
    """A report in the study of an image."""
    ds = make_ct(about.StudyInstanceUID, Modality="SR", SeriesDescription="Findings", SeriesNumber=9)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = ComprehensiveSRStorage
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, name)
    ds.ValueType, ds.ContinuityOfContent, ds.CompletionFlag, ds.VerificationFlag = (
        "CONTAINER",
        "SEPARATE",
        "PARTIAL",
        "UNVERIFIED",
    )
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "126000", "DCM", "Imaging Measurement Report"
    ds.ConceptNameCodeSequence, ds.ContentSequence = Sequence([title]), Sequence()
    return ds


def test_a_click_in_the_list_shows_the_images(site: Site, page: Page, tmp_path: Path) -> None:
    images = series(6)
    for ds in images:
        site.keep(ds, tmp_path)
    site.keep(report(images[0]), tmp_path)
    page.goto(f"{site.url}/studies")
    page.locator(".in-viewer").click()
    expect(page.get_by_text("for investigational use only")).to_be_visible(timeout=_SECONDS * 1000)
    # A black page has no bright pixels, and texts have few.
    assert eventually(lambda: float((seen(page).min(axis=2) > 200).mean()) > 0.1, _SECONDS)
    expect(page.get_by_text("Thorax").first).to_be_visible()
    # What was stored by others is in its list of series, as what it stores itself is.
    expect(page.get_by_text("Findings").first).to_be_visible()
    expect(page.get_by_role("link", name="Studies")).to_have_attribute(
        "href", f"{site.url}/studies/{images[0].StudyInstanceUID}"
    )


@pytest.mark.complains("ICC Profile was not found")
def test_a_slide_opens_in_the_microscopy_mode(site: Site, page: Page, tmp_path: Path) -> None:
    slide = synthetic.slide(2, size=256, text=False, transfer_syntax="JPEG2000Lossless")
    for level in slide:
        site.keep(level, tmp_path)
    page.goto(f"{site.url}/studies/{slide[0].StudyInstanceUID}")
    page.get_by_role("link", name="Open in the viewer").click()
    expect(page.get_by_text("for investigational use only")).to_be_visible(timeout=_SECONDS * 1000)

    def is_stained() -> bool:
        colours = seen(page).astype(int)
        pink = (colours[..., 0] > 200) & (colours[..., 1] > 100) & (colours[..., 1] < 185) & (colours[..., 2] > 150)
        return bool(pink.mean() > 0.05)

    assert eventually(is_stained, _SECONDS)


# Of its dialog, of a number that it shortens to what the VR DS may hold, and of itself when it shows the report.
@pytest.mark.complains("Missing `Description`", "Truncating value", "viewport has been destroyed")
def test_measurements_are_stored_as_a_report_and_come_back(site: Site, page: Page, tmp_path: Path) -> None:
    images = series(3)
    for ds in images:
        site.keep(ds, tmp_path)
    study, seconds = images[0].StudyInstanceUID, _SECONDS * 1000
    page.goto(f"{site.url}/viewer/viewer?StudyInstanceUIDs={study}")
    page.get_by_role("button", name="Confirm and hide").click(timeout=seconds)
    assert eventually(lambda: float((seen(page).min(axis=2) > 200).mean()) > 0.1, _SECONDS)
    page.locator('[data-cy="MeasurementTools-split-button-primary"]').click()
    box = page.locator("canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 100, y - 50)
    page.mouse.down()
    page.mouse.move(x, y)
    page.mouse.move(x + 100, y + 50)
    page.mouse.up()
    page.locator('[data-cy="prompt-begin-tracking-yes-btn"]').click(timeout=seconds)
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    page.get_by_role("button", name="Create SR").click(timeout=seconds)
    page.get_by_role("button", name="Save", exact=True).click(timeout=seconds)
    reports = f"{site.url}/dicom-web/studies/{study}/instances?Modality=SR&includefield=SOPClassUID"
    assert eventually(lambda: page.request.get(reports).status == 200, _SECONDS)
    [stored] = page.request.get(reports).json()
    content = page.request.get(stored["00081190"]["Value"][0] + "/metadata").json()[0]["0040A730"]
    assert "Length" in str(content)
    page.reload()
    page.get_by_text("Create Report").first.dblclick(timeout=seconds)
    page.get_by_role("button", name="Yes", exact=True).click(timeout=seconds)
    expect(page.locator("svg text").filter(has_text="mm").first).to_be_attached(timeout=seconds)
