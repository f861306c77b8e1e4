"""The quick look: overlays and presentation states, held against DCMTK's renderers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dcmtk
import numpy as np
import pytest
from datasets import make_ct, uid
from looking import pixels, shown
from PIL import Image
from playwright.sync_api import Page, expect
from presentation_states import area, item, make_state, reference
from pydicom.dataset import Dataset

pytestmark = [pytest.mark.parametrize("database_url", ["sqlite"], indirect=True), pytest.mark.interop]
ROWS, COLUMNS, SIDE = 12, 16, 40


def picture(values: Any, **attributes: Any) -> Dataset:
    """A CT image with these stored values: (rows, columns), or (frames, rows, columns)."""
    rows, columns = values.shape[-2:]
    ds = make_ct(rows=rows, columns=columns, **attributes)
    ds.PixelData = values.astype("<u2").tobytes()
    if values.ndim == 3:
        ds.NumberOfFrames = len(values)
    return ds


def by_dcmtk(tool: str, *arguments: object, scratch: Path) -> Any:
    """The picture that a program of DCMTK makes."""
    done = dcmtk.run(tool, *arguments, scratch / "made.pgm")
    assert done.returncode == 0, done.stderr
    with Image.open(scratch / "made.pgm") as made:
        return np.array(made)


def saved(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def add_overlay(ds: Dataset, group: int, mask: Any, *, origin: tuple[int, int] = (1, 1), first: int = 0) -> None:
    """An overlay with bits of its own, of several frames if `first` says with which frame of the image it begins."""
    rows, columns = mask.shape[-2:]
    for element, vr, value in (
        (0x10, "US", rows), (0x11, "US", columns), (0x40, "CS", "G"), (0x50, "SS", list(origin)), (0x100, "US", 1),
        (0x102, "US", 0),
    ):  # fmt: skip
        ds.add_new((group, element), vr, value)
    if first:
        ds.add_new((group, 0x15), "IS", len(mask))
        ds.add_new((group, 0x51), "US", first)
    packed = np.packbits(mask.ravel(), bitorder="little").tobytes()
    ds.add_new((group, 0x3000), "OW", packed + b"\0" * (len(packed) % 2))


def drawn_again(page: Page) -> None:
    """Wait until what was asked for is on the screen."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_overlays_are_where_dcmtk_has_them(page: Page, look: Callable[..., None], tmp_path: Path) -> None:
    study, random = uid(), np.random.default_rng(1)

    def bits(*shape: int) -> Any:
        return random.integers(0, 2, shape, "u1")

    black = np.zeros((3, ROWS, COLUMNS), "u2")
    frames = picture(black, StudyInstanceUID=study, WindowCenter=2048, WindowWidth=4096)
    add_overlay(frames, 0x6002, bits(2, 5, 7), origin=(4, -2), first=2)
    large = picture(np.zeros((96, 128), "u2"), StudyInstanceUID=study, SeriesNumber=2)
    large.WindowCenter, large.WindowWidth = 2048, 4096
    # So many bits are no part of the metadata: they are fetched apart.
    add_overlay(large, 0x6000, bits(96, 128))
    mask = bits(ROWS, COLUMNS).astype("u2")
    old = picture(mask << 13, StudyInstanceUID=study, SeriesNumber=3, WindowCenter=2048, WindowWidth=4096)
    for element, vr, value in ((0x10, "US", ROWS), (0x11, "US", COLUMNS), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
                               (0x100, "US", 16), (0x102, "US", 13)):  # fmt: skip
        old.add_new((0x6004, element), vr, value)
    look(frames, large, old)

    def check(ds: Dataset, frame: int = 1) -> None:
        shown(page, ds, frame)
        made = by_dcmtk("dcm2pnm", "+F", frame, saved(ds, tmp_path / "one.dcm"), scratch=tmp_path)
        assert {0, 255} >= set(np.unique(made))
        found = pixels(page, ds.Columns, ds.Rows)
        assert (found.max(axis=2) > 100).tolist() == (made > 0).tolist()

    for frame in (1, 2, 3):
        check(frames, frame)
        page.keyboard.press("ArrowDown")
    for ds in (large, old):
        page.locator(f'[data-open="{ds.SeriesInstanceUID}"]').click()
        check(ds)
    page.get_by_role("button", name="Overlays").click()
    expect(page.get_by_role("button", name="Overlays")).to_have_attribute("aria-pressed", "false")
    drawn_again(page)
    assert pixels(page, COLUMNS, ROWS).max() == 0


def test_grey_and_place_are_those_of_the_state(page: Page, look: Callable[..., None], tmp_path: Path) -> None:
    # Squares of 4 by 4 pixels, in the middle of which nothing is smoothed.
    values = np.kron(np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * 21, np.ones((4, 4), "u2"))
    image = picture(values, WindowCenter=40, WindowWidth=400, RescaleSlope=1, RescaleIntercept=-1024)
    inverse = picture(values, StudyInstanceUID=image.StudyInstanceUID, SeriesNumber=2)
    inverse.PhotometricInterpretation = "MONOCHROME1"
    curve = item(LUTDescriptor=[1024, 100, 12], LUTExplanation="steep")
    curve.add_new("LUTData", "US", [min(4095, n * n // 200) for n in range(1024)])
    last = item(LUTDescriptor=[256, 0, 8])
    last.add_new("LUTData", "US", [n * n // 255 for n in range(256)])
    tables = [item(VOILUTSequence=[curve])]
    windows = [item(WindowCenter=1000, WindowWidth=1500)], [item(WindowCenter=500, WindowWidth=900)]
    states = [
        make_state([image], "TURNED", SoftcopyVOILUTSequence=windows[0], ImageRotation=90, ImageHorizontalFlip="Y"),
        make_state([image], "WHITE", SoftcopyVOILUTSequence=windows[1], ImageRotation=270, ImageHorizontalFlip="N",
                   PresentationLUTShape="INVERSE", RescaleSlope=2, RescaleIntercept=-1000, RescaleType="US"),
        make_state([image], "TABLES", SoftcopyVOILUTSequence=tables, ImageRotation=180, ImageHorizontalFlip="N",
                   PresentationLUTSequence=[last]),
        make_state([inverse], "BARE"),
    ]  # fmt: skip
    del states[2].PresentationLUTShape
    look(image, inverse, *states)
    shown(page, image)
    choice = page.get_by_label("Presentation state")
    offered = ["As in the file", "TURNED: made by a test", "WHITE: made by a test", "TABLES: made by a test"]
    expect(choice.locator("option")).to_have_text(offered)
    for ds, number in ((image, 0), (image, 1), (image, 2), (inverse, 3)):
        if ds is inverse:
            page.locator(f'[data-open="{inverse.SeriesInstanceUID}"]').click()
            shown(page, inverse)
        choice.select_option(states[number].SOPInstanceUID)
        expect(page.locator('[data-part="window"]')).to_contain_text(states[number].ContentLabel)
        shown(page, ds)
        paths = saved(states[number], tmp_path / "state.dcm"), saved(ds, tmp_path / "image.dcm")
        made = by_dcmtk("dcmp2pgm", "-p", *paths, scratch=tmp_path).astype(int)
        found = pixels(page, made.shape[1] // 4, made.shape[0] // 4)
        assert abs(found - made[1::4, 1::4, None]).max() <= 2, states[number].ContentLabel
    page.keyboard.press("a")
    expect(choice).to_have_value("")


SHADE = 128


def graphic(kind: str, *points: float, units: str = "PIXEL") -> Dataset:
    return item(GraphicAnnotationUnits=units, GraphicDimensions=2, NumberOfGraphicPoints=len(points) // 2,
                GraphicData=list(points), GraphicType=kind, GraphicFilled="N")  # fmt: skip


LAYERS = [
    # L* of 54, a* of 81 and b* of 70 are red.
    item(GraphicLayer="ABOVE", GraphicLayerOrder=2, GraphicLayerRecommendedDisplayCIELabValue=[35389, 53713, 50886]),
    item(GraphicLayer="BELOW", GraphicLayerOrder=1, GraphicLayerRecommendedDisplayGrayscaleValue=0xFFFF),
]
NOTE = item(
    BoundingBoxAnnotationUnits="DISPLAY", BoundingBoxTopLeftHandCorner=[0.1, 0.8], UnformattedTextValue="A note",
    BoundingBoxBottomRightHandCorner=[0.9, 0.9], BoundingBoxTextHorizontalJustification="CENTER",
)  # fmt: skip
ABOVE = item(
    GraphicLayer="ABOVE", TextObjectSequence=[NOTE],
    GraphicObjectSequence=[graphic("POLYLINE", 10.5, 5.5, 10.5, 30.5), graphic("POINT", 15.5, 15.5)],
)  # fmt: skip
BELOW = item(
    GraphicLayer="BELOW", GraphicObjectSequence=[
        # Crossed by the line above.
        graphic("POLYLINE", 5.5, 10.5, 20.5, 10.5), graphic("CIRCLE", 20.5, 20.5, 26.5, 20.5),
        graphic("ELLIPSE", 28.5, 30.5, 34.5, 30.5, 31.5, 28.5, 31.5, 32.5),
        graphic("POLYLINE", 0.5125, 0.25, 0.5125, 0.3, units="DISPLAY"),
    ],
)  # fmt: skip


def apply(page: Page, look: Callable[..., None], ds: Dataset, state: Dataset) -> None:
    """Open the look at an image, and choose a state for it."""
    look(ds, state)
    shown(page, ds)
    page.get_by_label("Presentation state").select_option(state.SOPInstanceUID)
    expect(page.locator('[data-part="window"]')).to_contain_text(state.ContentLabel)
    drawn_again(page)


def under_an_overlay() -> Dataset:
    """Two grey frames, and an overlay of the first one that covers all of it."""
    ds = picture(np.full((2, SIDE, SIDE), 2048), WindowCenter=2048, WindowWidth=4096)
    add_overlay(ds, 0x6000, np.ones((1, SIDE, SIDE), "u1"), first=1)
    return ds


def is_red(colours: Any) -> bool:
    red, green, blue = np.moveaxis(colours, -1, 0)
    return bool(((red > 200) & (green < 90) & (blue < 90)).all())


def test_graphics_lie_over_the_image(page: Page, look: Callable[..., None]) -> None:
    ds = under_an_overlay()
    curve = graphic("INTERPOLATED", 5.5, 20.5, 8.5, 20.5, 12.5, 20.5)
    second = item(GraphicLayer="BELOW", ReferencedImageSequence=[reference(ds, 2)], GraphicObjectSequence=[curve])
    state = make_state([ds], "DRAWN", GraphicLayerSequence=LAYERS, GraphicAnnotationSequence=[ABOVE, BELOW, second])
    apply(page, look, ds, state)
    found = pixels(page, SIDE, SIDE)
    # The line, the circle, the ellipse twice, and the line that is placed by parts of the whole.
    for row, column in ((10, 15), (20, 26), (30, 34), (28, 31), (11, 20)):
        assert found[row, column].min() > 200, (row, column)
    # The state activates no overlay, the curve is for the other frame, and the ellipse is not filled.
    for row, column in ((0, 0), (20, 7), (30, 31)):
        assert found[row, column].tolist() == [SHADE] * 3
    assert is_red(found[[5, 10, 15], [10, 10, 15]])
    assert (abs(found[32:36, 15:25] - SHADE).max(axis=2) > 40).any()
    expect(page.locator(".pane canvas")).to_have_attribute("aria-description", "A note")
    page.keyboard.press("ArrowDown")
    shown(page, ds, 2)
    assert pixels(page, SIDE, SIDE)[20, 7].min() > 200
    page.keyboard.press("g")
    drawn_again(page)
    assert (pixels(page, SIDE, SIDE) == SHADE).all()


def test_a_part_of_an_image_is_shown_with_its_overlay(page: Page, look: Callable[..., None]) -> None:
    ds = under_an_overlay()
    state = make_state([ds], "PART", ImageRotation=90, ImageHorizontalFlip="N", GraphicLayerSequence=LAYERS)
    state.DisplayedAreaSelectionSequence = [area(ds, 11, 1, 30, 20, PresentationPixelAspectRatio=[2, 1])]
    state.add_new((0x6000, 0x1001), "CS", "ABOVE")
    apply(page, look, ds, state)
    # 20 by 20 pixels, twice as high as wide, and turned: the overlay is red, and there is nothing else.
    assert is_red(pixels(page, 40, 20))
    page.keyboard.press("ArrowDown")
    shown(page, ds, 2)
    assert (pixels(page, 40, 20) == SHADE).all()


def test_shutters_cover_what_is_outside(page: Page, look: Callable[..., None]) -> None:
    ds = under_an_overlay()
    state = make_state(
        [ds], "COVERED", ShutterShape=["RECTANGULAR", "CIRCULAR", "POLYGONAL"], ShutterPresentationValue=0x4040,
        ShutterLeftVerticalEdge=3, ShutterRightVerticalEdge=38, ShutterUpperHorizontalEdge=2,
        ShutterLowerHorizontalEdge=36, CenterOfCircularShutter=[20, 20], RadiusOfCircularShutter=22,
        VerticesOfThePolygonalShutter=[1, 1, 1, 40, 40, 40, 40, 20],
    )  # fmt: skip
    bitmap = make_state(
        [ds], "BITMAP", ShutterShape="BITMAP", ShutterOverlayGroup=0x6002, ShutterPresentationValue=0xFFFF
    )
    mask = np.kron(np.eye(4, dtype="u1"), np.ones((10, 10), "u1"))
    add_overlay(bitmap, 0x6002, mask)
    # A shutter is no overlay, whatever the state says (PS3.3 C.11.7).
    bitmap.add_new((0x6002, 0x1001), "CS", "ABOVE")
    bitmap.GraphicLayerSequence = LAYERS
    look(ds, bitmap)
    apply(page, look, ds, state)
    rows, columns = np.mgrid[1 : SIDE + 1, 1 : SIDE + 1]
    around = np.hypot(rows - 20, columns - 20) - 22
    # The polygon has one side that leans, from its last vertex to the first.
    beside = columns - (1 + (rows - 1) * 19 / 39)
    seen = (columns >= 3) & (columns <= 38) & (rows >= 2) & (rows <= 36) & (around <= 0) & (beside >= 0)
    sure = (abs(around) > 1) & (abs(beside) > 1)
    found = pixels(page, SIDE, SIDE)
    wanted = np.where(seen, SHADE, 0x40)
    wrong = [
        (int(r) + 1, int(c) + 1, found[r, c].tolist()) for r, c in np.argwhere((abs(found[..., 0] - wanted) > 2) & sure)
    ]
    assert wrong == []
    page.get_by_label("Presentation state").select_option(bitmap.SOPInstanceUID)
    expect(page.locator('[data-part="window"]')).to_contain_text("BITMAP")
    drawn_again(page)
    assert pixels(page, SIDE, SIDE)[..., 0].tolist() == np.where(mask, 0xFF, SHADE).tolist()
