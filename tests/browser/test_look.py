"""The quick look: what is on the canvas, and what mouse, keys and fingers do to it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from browsing import Site
from datasets import make_ct, uid
from looking import READ, SIDE, close, grey, image, shown
from playwright.sync_api import Page, expect
from presentation_states import make_state
from pydicom.dataset import Dataset
from pydicom.uid import BasicTextSRStorage, JPEG2000Lossless

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def test_pixels_of_every_kind(page: Page, look: Callable[..., None]) -> None:
    study = uid()
    values = [0, 1024, 2048, 4095]
    plain = image(values, study, 1, WindowCenter=2048, WindowWidth=4096)
    inverse = image(values, study, 2, WindowCenter=2048, WindowWidth=4096, PhotometricInterpretation="MONOCHROME1")
    signed = image([-1000, 24, 1044, 1100], study, 3, PixelRepresentation=1, BitsStored=16, HighBit=15, RescaleSlope=1,
                   RescaleIntercept=-1024, WindowCenter=[0, 40], WindowWidth=[2, 80])  # fmt: skip
    packed = image(values, study, 4, WindowCenter=2048, WindowWidth=4096)
    packed.compress(JPEG2000Lossless, generate_instance_uid=False)
    frames = image(values, study, 5, WindowCenter=2048, WindowWidth=4096, NumberOfFrames=2)
    frames.PixelData += bytes(2 * SIDE * SIDE)
    colour = image(values, study, 6, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0,
                   BitsAllocated=8, BitsStored=8, HighBit=7)  # fmt: skip
    half = SIDE // 2
    colours = [b"\xff\0\0", b"\0\xff\0", b"\0\0\xff", b"\x80\x80\x80"]
    colour.PixelData = (colours[0] * half + colours[1] * half) * half + (colours[2] * half + colours[3] * half) * half
    look(plain, inverse, signed, packed, frames, colour)

    levels = [0, 64, 128, 255]
    assert shown(page, plain) == grey(levels)
    page.locator(f'[data-open="{inverse.SeriesInstanceUID}"]').click()
    assert shown(page, inverse) == grey([255 - level for level in levels])
    page.locator(f'[data-open="{signed.SeriesInstanceUID}"]').click()
    assert shown(page, signed) == grey([0, 0, 255, 255])
    page.get_by_label("Window").select_option("1")
    expect(page.locator('[data-part="window"]')).to_contain_text("C 40 W 80")
    # -1000, 20 and 76 Hounsfield units between 0.5 and 79.5.
    assert close(page.evaluate(READ), grey([0, 0, 65, 245]), 2)
    page.locator(f'[data-open="{packed.SeriesInstanceUID}"]').click()
    assert shown(page, packed) == grey(levels)
    page.locator(f'[data-open="{frames.SeriesInstanceUID}"]').click()
    assert shown(page, frames) == grey(levels)
    page.keyboard.press("ArrowDown")
    assert shown(page, frames, 2) == grey([0] * 4)
    page.locator(f'[data-open="{colour.SeriesInstanceUID}"]').click()
    assert close(shown(page, colour), [list(each) for each in colours], 3)
    expect(page.get_by_label("Window")).to_be_disabled()
    page.keyboard.press("w")
    page.locator(".pane canvas").drag_to(page.locator(".pane canvas"), target_position={"x": 10, "y": 10})
    expect(page.get_by_text("The server made this picture")).to_be_visible()


@pytest.fixture
def axial(page: Page, look: Callable[..., None]) -> list[list[Dataset]]:
    """Two series of one volume that the quick look is open at: of five images and of three, which begin at the top."""
    study, series, frame = uid(), uid(), uid()
    plane = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "FrameOfReferenceUID": frame}
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    first = [
        image([0, 1024, 2048, 4095], study, 1, series, InstanceNumber=n, ImagePositionPatient=[0, 0, 50 - n * 10],
              **plane, **window)
        for n in range(1, 6)
    ]  # fmt: skip
    second = [
        image([4095] * 4, study, 2, f"{series}.2", InstanceNumber=n, ImagePositionPatient=[0, 0, 61 - n * 20], **plane)
        for n in range(1, 4)
    ]
    look(*reversed(first), *second)
    assert shown(page, first[0]) == grey([0, 64, 128, 255])
    return [first, second]


def test_the_window_changes_the_pixels(page: Page, axial: list[list[Dataset]]) -> None:
    window = page.locator('[data-part="window"]')
    page.keyboard.press("i")
    expect(page.get_by_role("button", name="Invert")).to_have_attribute("aria-pressed", "true")
    expect(window).to_contain_text("inverted")
    assert page.evaluate(READ) == grey([255, 191, 127, 0])
    page.keyboard.press("i")
    box = page.locator(".pane canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x, y + 40)
    page.mouse.up(button="right")
    # A sixteenth of the width for each pixel.
    expect(window).to_contain_text(f"C {2048 + 40 * 16} W 4096")
    assert close(page.evaluate(READ), grey([0, 24, 88, 215]), 1)
    page.keyboard.press("r")
    expect(window).to_contain_text("C 2048 W 4096")
    assert page.evaluate(READ) == grey([0, 64, 128, 255])


def test_mouse_and_keys_scroll(page: Page, axial: list[list[Dataset]]) -> None:
    first, second = axial
    page.locator(".pane canvas").hover()
    page.mouse.wheel(0, 120)
    shown(page, first[1])
    page.keyboard.press("End")
    shown(page, first[4])
    page.keyboard.press("Home")
    shown(page, first[0])
    expect(page.locator('[data-part="left"]')).to_have_text("R")
    page.keyboard.press("h")
    expect(page.locator('[data-part="left"]')).to_have_text("L")
    page.keyboard.press(" ")
    shown(page, first[2])
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("button", name="Play")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("Home")

    # Another series beside it begins where this one is, and goes with it.
    page.keyboard.press("c")
    shown(page, second[0])
    page.keyboard.press("End")
    shown(page, second[2])
    expect(page.locator(f'.pane[data-shown="{first[4].SOPInstanceUID}/1"]')).to_be_visible()
    assert f"compare={second[0].SeriesInstanceUID}" in page.url
    page.keyboard.press("c")
    expect(page.locator(".pane")).to_have_count(1)


def test_fingers_zoom_and_a_distance_is_measured(page: Page, look: Callable[..., None]) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    ds = image([0, 1024, 2048, 4095], uid(), PixelSpacing=[0.5, 0.5])
    look(ds)
    shown(page, ds)
    box = page.locator(".pane canvas").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    zoom = page.locator('[data-part="window"]')
    before = int(zoom.inner_text().split("\n")[-1].split()[0])

    page.keyboard.press("m")
    page.mouse.move(x - box["width"] / 4, y)
    page.mouse.down()
    page.mouse.move(x + box["width"] / 4, y, steps=3)
    page.mouse.up()
    # Half of 64 pixels of half a millimetre.
    expect(page.locator(".lines text")).to_have_text("16.0 mm")

    session = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        named = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": named})

    touch("touchStart", (x - 40, y), (x + 40, y))
    touch("touchMove", (x - 80, y), (x + 80, y))
    touch("touchEnd")
    expect(zoom).to_contain_text(re.compile(f"({2 * before - 1}|{2 * before}|{2 * before + 1}) %"))
    # Nothing is wider than the screen, and the bar of tools is for fingers.
    assert page.evaluate("() => document.documentElement.scrollWidth") == 390
    for button in page.locator("#look .tools button").all()[:5]:
        found = button.bounding_box()
        assert found is not None
        assert min(found["width"], found["height"]) >= 44


@pytest.mark.complains("406")
def test_what_cannot_be_shown_says_so(site: Site, page: Page, look: Callable[..., None]) -> None:
    study, series = uid(), uid()
    evil = "<img src=x onerror=alert(1)>"
    good = image([0, 1024, 2048, 4095], study, 1, series, SeriesDescription=evil, StudyDescription=evil, PatientID=evil)
    broken = image([0] * 4, study, 1, series, InstanceNumber=2)
    broken.compress(JPEG2000Lossless, generate_instance_uid=False)
    broken.PixelData = broken.PixelData.replace(b"\xff\x52", b"\xff\x00", 1)
    report = make_ct(study, SOPClassUID=BasicTextSRStorage, Modality="SR", SeriesNumber=3)
    for name in ("PixelData", "Rows", "Columns", "BitsAllocated", "PhotometricInterpretation"):
        delattr(report, name)
    report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    state, lost = make_state([good], "EVIL", ContentDescription=evil), make_state([image([0] * 4, study)], "LOST")
    look(good, broken, report, state, lost)
    shown(page, good)
    expect(page.locator('[data-part="series"]')).to_contain_text(evil)
    page.keyboard.press("End")
    expect(page.locator('[data-part="message"]')).to_contain_text("This image cannot be shown")
    expect(page.locator('[data-part="message"]')).to_contain_text("download the study")
    page.keyboard.press("Home")
    shown(page, good)
    expect(page.locator('[data-part="message"]')).to_be_hidden()
    page.locator(f'[data-open="{report.SeriesInstanceUID}"]').click()
    expect(page.get_by_text("There are no images in this series: structured reports.")).to_be_visible()
    for address in (f"{study}?series=1.2", "1.2.3"):
        assert page.request.get(f"{site.url}/look/{address}").status == 404
    link = page.locator('[data-part="documents"] a').first
    expect(link).to_have_attribute("href", f"/dicom-web/studies/{study}/series/{report.SeriesInstanceUID}"
                                           f"/instances/{report.SOPInstanceUID}/rendered")  # fmt: skip
    expect(page.get_by_role("link", name="Download the study")).to_be_visible()
    page.locator(f'[data-open="{lost.SeriesInstanceUID}"]').click()
    expect(page.get_by_text("The images that these refer to are not in the study")).to_be_visible()
    page.locator(f'[data-open="{state.SeriesInstanceUID}"]').click()
    page.get_by_role("button", name=f"EVIL: {evil}").click()
    shown(page, good)
    expect(page.get_by_label("Presentation state")).to_have_value(state.SOPInstanceUID)


def test_a_study_still_received_grows(site: Site, page: Page, look: Callable[..., None], tmp_path: Path) -> None:
    study, series = uid(), uid()

    def plane(number: int) -> Dataset:
        where = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "ImagePositionPatient": [0, 0, 50 - number]}
        window = {"WindowCenter": 2048, "WindowWidth": 4096}
        return image([0, 1024, 2048, 4095], study, 1, series, InstanceNumber=number, **where, **window)

    first, second = plane(2), plane(4)
    look(first, second)
    shown(page, first)
    page.keyboard.press("End")
    shown(page, second)
    page.keyboard.press("i")
    about = page.context.new_page()
    about.goto(f"{site.url}/studies/{study}")
    expect(about.get_by_role("heading", name="1 series")).to_contain_text("2 images")
    about.locator(".tile a").focus()
    page.bring_to_front()
    page.locator(f'[data-open="{series}"]').focus()

    others = [plane(number) for number in (5, 1, 3)]
    beside = image([0] * 4, study, 2, f"{series}.2")
    for ds in (*others, beside):
        site.keep(ds, tmp_path)
    expect(page.locator(".pane canvas")).to_have_attribute("aria-label", "Image 4 of 5")
    expect(page.locator('[data-part="slider"]')).to_have_value("3")
    expect(page.locator(f'[data-open="{series}"]')).to_contain_text("5 images")
    expect(page.locator(f'[data-open="{series}"]')).to_be_focused()
    expect(page.locator(f'[data-open="{series}.2"]')).to_contain_text("1 image")
    expect(page.locator("#series option")).to_have_count(2)
    assert shown(page, second) == grey([255, 191, 127, 0])
    for ds in (others[2], first, others[1]):
        page.keyboard.press("ArrowUp")
        shown(page, ds)
    page.locator(f'[data-open="{series}.2"]').click()
    shown(page, beside)

    about.bring_to_front()
    expect(about.get_by_role("heading", name="2 series")).to_contain_text("6 images")
    expect(about.locator(".tile")).to_have_count(2)
    expect(about.locator(".tile a").first).to_be_focused()
    expect(about.locator(".tile").first).to_contain_text("5 images")
