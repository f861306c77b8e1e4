"""Private elements are found by their creators, and some of their values under standard names."""

import base64
import struct

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from vendor_objects import ARCHIVES, OBJECTS, add_private, json_of, made_by_archive, make

from pacs_server.dicom.private_elements import private_elements
from pacs_server.dicom.private_known import KNOWN, normalised

# Where archives leave blocks: the first one, and one that was moved.
BLOCKS = (0x10, 0x13)
NAMES = {
    "GE": {"Slop_int_6... slop_int_9": [1000001000, 8, 0, 0], "Asset R Factors": [0.5, 1]},
    "Philips": {
        "Diffusion B-Factor": [800.0], "Diffusion Direction RL": [1.0], "Diffusion Direction AP": [0.0],
        "Diffusion Direction FH": [0.0],
    },
    "Siemens": {
        "NumberOfImagesInMosaic": [36], "B_value": [1000], "DiffusionGradientDirection": [-0.5, 0.5, 0.25],
        # The CSA headers are named and not read.
        "CSA Image Header Type": ["IMAGE NUM 4"], "CSA Image Header Info": [], "CSA Series Header Info": [],
    },
    "Agfa": {"Private Identification Code": ["A1"]},
    "Fujifilm": {"Relative Light Emission Amount Sk": [7]},
    "Sectra": {"Request number": ["R1"]},
}  # fmt: skip
STANDARD = {
    "GE": {"DiffusionBValue": [1000], "ParallelReductionFactorInPlane": [2]},
    "Philips": {"DiffusionBValue": [800], "DiffusionGradientOrientation": [1, 0, 0]},
    "Siemens": {
        "DiffusionBValue": [1000], "DiffusionGradientOrientation": [-0.5, 0.5, 0.25], "NumberOfImagesInMosaic": [36],
    },
}  # fmt: skip


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("vendor", OBJECTS)
def test_elements_are_named_wherever_their_block_is(vendor: str, block: int, syntax: str) -> None:
    data_set = json_of(make(vendor, block), syntax)
    found = {each.name: _numbers(each.values()) for each in private_elements(data_set)}
    assert found == NAMES[vendor]
    told = {each.known.keyword: each.values for each in normalised(data_set)}
    assert told == STANDARD.get(vendor, {})


def _numbers(values: list[object]) -> list[object]:
    """DS and IS are kept as text in the model."""
    return [float(each) if isinstance(each, str) and each.replace(".", "").isdigit() else each for each in values]


@pytest.mark.parametrize("archive", ARCHIVES)
def test_elements_are_named_whatever_archive_they_come_from(archive: str) -> None:
    vendor, ds = made_by_archive(archive)
    data_set = json_of(ds)
    found = {each.name: _numbers(each.values()) for each in private_elements(data_set) if each.name}
    assert found == NAMES[vendor]
    assert {each.known.keyword: each.values for each in normalised(data_set)} == STANDARD[vendor]


def test_another_creator_at_the_same_tags_says_nothing() -> None:
    ds = make("Siemens", 0x11)
    ds.add_new((0x19, 0x10), "LO", "ACME")
    ds.add_new((0x19, 0x100C), "IS", 5)
    data_set = json_of(ds)
    assert {each.known.keyword: each.values for each in normalised(data_set)}["DiffusionBValue"] == [1000]
    (foreign,) = [each for each in private_elements(data_set) if each.creator == "ACME"]
    assert (foreign.number, foreign.name, foreign.tag) == ("0019xx0C", "", "0019100C")
    # A block that nobody reserved is nobody's.
    del ds[0x19, 0x11]
    assert not list(normalised(json_of(ds)))


@pytest.mark.parametrize(
    ("vr", "raw", "values"),
    [("FL", struct.pack("<f", 800), [800]), ("FL", b"\0\0\0", []), ("FL", struct.pack("<f", float("nan")), [])],
)
def test_what_was_sent_as_un_is_read_by_the_dictionary(vr: str, raw: bytes, values: list[float]) -> None:
    data_set = {
        "20010013": {"vr": "LO", "Value": ["PHILIPS IMAGING DD 001"]},
        "20011303": {"vr": "UN", "InlineBinary": base64.b64encode(raw).decode()},
    }
    (element,) = private_elements(data_set)
    assert (element.vr, element.name) == (vr, "Diffusion B-Factor")
    assert [each.values for each in normalised(data_set)] == ([values] if values else [])


def test_what_is_no_number_in_the_end_is_told_by_nobody() -> None:
    data_set = {
        "00430010": {"vr": "LO", "Value": ["GEMS_PARM_01"]},
        # One divided by it is more than any number.
        "00431083": {"vr": "DS", "Value": ["1e-320"]},
    }
    assert list(normalised(data_set)) == []


def test_the_attribute_of_the_standard_counts() -> None:
    ds = make("Siemens", 0x10)
    ds.DiffusionBValue = 999.0
    keywords = [each.known.keyword for each in normalised(json_of(ds))]
    assert keywords == ["DiffusionGradientOrientation", "NumberOfImagesInMosaic"]


def test_items_have_blocks_of_their_own() -> None:
    ds, item = make("Philips", 0x10), Dataset()
    add_private(item, {"Philips Imaging DD 001": [(0x2001, 0x03, "FL", 50.0)]}, 0x13)
    ds.PerFrameFunctionalGroupsSequence = [Dataset(), item]
    found = [(each.path, each.values) for each in normalised(json_of(ds)) if each.known.keyword == "DiffusionBValue"]
    assert found == [("", [800]), ("52009230[2]", [50])]


def test_every_known_value_has_a_source_and_a_synthetic_object() -> None:
    assert all(each.source and each.keyword in STANDARD[each.vendor] for each in KNOWN)
    assert {(vendor, keyword) for vendor, told in STANDARD.items() for keyword in told} == {
        (each.vendor, each.keyword) for each in KNOWN
    }
