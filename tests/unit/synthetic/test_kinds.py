"""Synthetic studies: the same seed makes the same bytes, and what belongs together fits together."""

import re
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs_server.synthetic import study as studies
from pacs_server.testing import synthetic

SMALL = "size=48"


def file_of(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def everything() -> list[Dataset]:
    """A small study of each kind, written and read again."""
    return [dcmread(BytesIO(file_of(ds))) for ds in synthetic.from_spec(SMALL)]


def by_modality(found: list[Dataset], modality: str) -> Dataset:
    return next(ds for ds in found if modality == ds.Modality)


def test_the_same_seed_makes_the_same_bytes_and_another_one_does_not(everything: list[Dataset]) -> None:
    again = synthetic.from_spec(SMALL)
    assert [file_of(ds) for ds in again] == [file_of(ds) for ds in everything]
    other = synthetic.ct(1, size=48, seed=2)[0]
    assert not {ds.SOPInstanceUID for ds in everything} & {other.SOPInstanceUID}
    first = by_modality(everything, "CT")
    assert other.PatientID != first.PatientID
    assert not np.array_equal(other.pixel_array[20:30], first.pixel_array[20:30])


def test_uids_are_unique_and_one_patient_has_all_studies_of_a_seed(everything: list[Dataset]) -> None:
    assert len({ds.SOPInstanceUID for ds in everything}) == len(everything)
    assert {(ds.PatientID, str(ds.PatientName), ds.PatientBirthDate) for ds in everything} == {
        (everything[0].PatientID, str(everything[0].PatientName), everything[0].PatientBirthDate)
    }
    of_series = {(ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality) for ds in everything}
    assert len({series for series, _, _ in of_series}) == len(of_series)
    # The objects beside the CT are in its study.
    ct = by_modality(everything, "CT")
    beside = [by_modality(everything, name) for name in ("SR", "SEG", "RTSTRUCT", "RTPLAN", "RTDOSE")]
    assert {ds.StudyInstanceUID for ds in beside} == {ct.StudyInstanceUID}
    assert all(ds.AccessionNumber == ct.AccessionNumber for ds in beside)
    assert len({ds.StudyInstanceUID for ds in everything}) == 10


def referenced(ds: Dataset) -> set[str]:
    """The instances that are named anywhere in a data set."""
    return {str(element.value) for element in ds.iterall() if element.keyword == "ReferencedSOPInstanceUID"}


def test_references_are_to_what_is_there(everything: list[Dataset]) -> None:
    known = {ds.SOPInstanceUID for ds in everything}
    ct = {ds.SOPInstanceUID for ds in everything if ds.SOPClassUID.name == "CT Image Storage"}
    named = {ds.Modality: referenced(ds) for ds in everything}
    study = by_modality(everything, "CT").StudyInstanceUID
    # The retired Detached Study Management SOP Class names the study by its UID (PS3.3 C.8.8.5).
    assert named["RTSTRUCT"] == ct | {study}
    assert named["SR"] == named["SEG"] == ct
    assert named["RTPLAN"] == {by_modality(everything, "RTSTRUCT").SOPInstanceUID}
    assert named["RTDOSE"] == {by_modality(everything, name).SOPInstanceUID for name in ("RTPLAN", "RTSTRUCT")}
    assert set().union(*named.values()) - {study} <= known
    frames = {by_modality(everything, name).FrameOfReferenceUID for name in ("CT", "SEG", "RTSTRUCT", "RTDOSE")}
    assert len(frames) == 1


def test_slices_lie_one_above_the_other() -> None:
    for images in (1, 2, 40):
        stack = synthetic.ct(images, size=16)
        heights = [float(ds.ImagePositionPatient[2]) for ds in stack]
        assert all(b - a == pytest.approx(stack[0].SpacingBetweenSlices, abs=0.001) for a, b in pairwise(heights))
        assert len({ds.FrameOfReferenceUID for ds in stack}) == 1
    assert (heights[0], heights[-1]) == pytest.approx((-156, 156), abs=1)


def test_report_segment_contour_and_dose_are_about_the_same_nodule() -> None:
    images = synthetic.ct(5, size=128, text=False)
    (segments,) = synthetic.seg(images)
    contours, plan, dose = synthetic.rt(images)
    (report,) = synthetic.sr(images)
    middle = images[2]
    left, spacing = float(middle.ImagePositionPatient[0]), float(middle.PixelSpacing[0])
    masks = segments.pixel_array
    number = next(
        n for n, group in enumerate(segments.PerFrameFunctionalGroupsSequence)
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 2
        and group.PlanePositionSequence[0].ImagePositionPatient == middle.ImagePositionPatient
    )  # fmt: skip
    rows, columns = np.nonzero(masks[number])
    # Tissue in the middle of the lung.
    assert -50 < middle.pixel_array[rows, columns].mean() < 100
    # Air in the lungs, but for the vessels and the nodule in them.
    for place, image in enumerate(images):
        assert np.median(image.pixel_array[masks[place] == 1]) < -700
        assert (image.pixel_array[masks[place] == 1] < -700).mean() > 0.9
    target = contours.ROIContourSequence[3]
    outline = next(
        one.ContourData for one in target.ContourSequence
        if one.ContourImageSequence[0].ReferencedSOPInstanceUID == middle.SOPInstanceUID
    )  # fmt: skip
    assert min(outline[::3]) == pytest.approx(left + spacing * columns.min(), abs=spacing)
    assert max(outline[::3]) == pytest.approx(left + spacing * columns.max(), abs=spacing)
    values = [item.NumericValue for ds in report.iterall() for item in _measured(ds)]
    assert values[0] == pytest.approx((columns.max() - columns.min()) * spacing, abs=1.5 * spacing)
    assert values[2] == pytest.approx(middle.pixel_array[rows, columns].mean(), abs=0.01)
    gray = dose.pixel_array[2] * dose.DoseGridScaling
    assert gray[rows.mean().astype(int) // 2, columns.mean().astype(int) // 2] == pytest.approx(60, abs=5)
    assert plan.BeamSequence[0].ControlPointSequence[0].IsocenterPosition[2] == pytest.approx(
        float(middle.ImagePositionPatient[2]), abs=4
    )


def _measured(element: object) -> list[Dataset]:
    return list(element.value) if getattr(element, "keyword", "") == "MeasuredValueSequence" else []  # type: ignore[attr-defined]


def test_text_is_drawn_only_if_wanted() -> None:
    drawn, plain = (synthetic.dx(size=128, text=text)[0] for text in (True, False))
    assert (drawn.BurnedInAnnotation, plain.BurnedInAnnotation) == ("YES", "NO")
    changed = np.nonzero(drawn.pixel_array != plain.pixel_array)
    # Three lines at the top and one at the bottom.
    assert {"top" if row < 30 else "bottom" if row > 115 else row for row in changed[0]} == {"top", "bottom"}
    # The name of the patient: another one looks different.
    other = synthetic.dx(size=128, patient="Other^Name")[0]
    assert np.nonzero(other.pixel_array != drawn.pixel_array)[0].max() < 11


@pytest.mark.parametrize(
    ("syntax", "kinds"),
    [("RLELossless", "ct,us,slide"), ("JPEG2000Lossless", "ct,us"), ("JPEGBaseline8Bit", "us,slide")],
)
def test_transfer_syntaxes(syntax: str, kinds: str) -> None:
    plain = synthetic.from_spec(f"{kinds},images=1,size=64")
    packed = [
        dcmread(BytesIO(file_of(ds)))
        for ds in synthetic.from_spec(f"{kinds},images=1,size=64,transfer_syntax={syntax}")
    ]
    for one, other in zip(plain, packed, strict=True):
        assert other.file_meta.TransferSyntaxUID.keyword == syntax
        difference = np.abs(one.pixel_array.astype(int) - other.pixel_array)
        assert difference.max() == 0 if syntax != "JPEGBaseline8Bit" else other.LossyImageCompression == "01"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("mri=1", "'mri=1' is not one of ct, mr,"),
        ("ct=two", "ct has to be a whole number, not 'two'"),
        ("ct=1,images=0", "a study has one image at least"),
        ("ct=1,size=3", "a size of 3 is not between 16 and 65535"),
        ("ct=1,charset=latin1", "'latin1' is not a character set of DICOM"),
        ("ct=1,charset=ISO_IR 100,patient=Петрова^Анна", "'Петрова^Анна' cannot be written in ISO_IR 100"),
        ("ct=1,transfer_syntax=ExplicitVRBigEndian", "'ExplicitVRBigEndian' is not a transfer syntax that can be"),
        ("ct=1,transfer_syntax=JPEGBaseline8Bit", "JPEG Baseline has no room for samples of more than 8 bits"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_sentence(spec: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}"):
        synthetic.from_spec(spec)


def test_a_spec_counts_studies_and_adds_the_ct_that_others_belong_to() -> None:
    found = list(synthetic.Spec.parse("sr=2,ct=1,enhanced-ct=1,seed=5,size=16,images=1,frames=2").studies())
    assert [(one.kind, one.seed) for one in found] == [("ct", 5), ("ct", 6), ("enhanced_ct", 5)]
    modalities = [[ds.Modality for ds in one.instances] for one in found]
    assert modalities == [["CT", "SR"], ["CT", "SR"], ["CT"]]
    assert studies.study_instance_uid("ct", 5) == synthetic.ct(1, seed=5, size=16)[0].StudyInstanceUID


def test_the_phantoms_show_what_they_should() -> None:
    chest = synthetic.ct(3, size=256, text=False)[1].pixel_array
    # Air around, lungs on both sides, soft tissue in between, bone behind.
    assert chest[5, 128] < -950
    assert np.median(chest[130:150, 75:90]) < -700
    assert np.median(chest[118:136, 165:180]) < -700
    assert 0 < np.median(chest[90:110, 120:135]) < 250
    assert chest.max() > 500
    t1, t2 = (synthetic.mr(1, size=256, text=False)[number].pixel_array for number in (0, 1))
    ventricle = (slice(105, 118), slice(114, 120))
    assert np.median(t1[ventricle]) < 500
    assert np.median(t2[ventricle]) > 1500
