"""Vendors are told by what their software and their objects say, and every entry has its sources."""

import pytest
from vendor_objects import ARCHIVES, OBJECTS, json_of, made_by_archive, make

from pacs_server.dicom.implementations import Implementation
from pacs_server.dicom.vendors import BY_NAME, GENERIC, VENDORS, Quirks, quirks_of, vendor_of_object

# What software says when an association is opened.
SOFTWARE = {
    "GE": [("1.2.840.113619.6.94", "CENTRICITY_2.1"), ("2.16.840.1.113709.1.1.1", "CENTRICITY_1.0")],
    "Philips": [("1.3.46.670589.42.2.2.4.3.1", "")],
    "Siemens": [("1.3.12.2.1107.5.8.99", "SIEMENS_S7VB10B")],
    "Agfa": [("1.3.51.0.42.1.1", ""), ("1.2.3", "IMPAX_WS_5.0")],
    "Fujifilm": [("1.2.392.200036.9125.5342", "")],
    "Sectra": [("1.2.752.24.3.3.25.1", "")],
    "dcm4che": [("1.2.40.0.13.1.3", "dcm4che-5.34.1")],
    # Both are built on DCMTK, and only what says so can be told.
    "DCMTK": [("1.2.276.0.7230010.3.0.3.6.7", "OFFIS_DCMTK_367")],
    "Orthanc": [("1.2.276.0.7230010.3.0.3.6.7", "ORTHANC_1.12.5")],
    "": [("1.2.3", "OTHER"), ("", "")],
}


@pytest.mark.parametrize(("vendor", "said"), [(name, said) for name, every in SOFTWARE.items() for said in every])
def test_software_is_told_by_what_it_says(vendor: str, said: tuple[str, str]) -> None:
    assert Implementation(*said).vendor() == vendor
    assert Implementation(*said).vendor("Mine") == "Mine"
    assert Implementation(*said).quirks() == quirks_of(vendor)


@pytest.mark.parametrize("block", [0x10, 0x13])
@pytest.mark.parametrize("vendor", OBJECTS)
def test_objects_are_told_by_manufacturer_and_else_by_creators(vendor: str, block: int) -> None:
    # The creators of another vendor do not matter where the maker is known.
    other = next(name for name in OBJECTS if name != vendor)
    for ds in (make(vendor, block), make(vendor, block, ""), make(other, block, OBJECTS[vendor][0])):
        found = vendor_of_object(json_of(ds))
        assert found is not None
        assert found.name == vendor
    assert vendor_of_object({"00080070": {"vr": "LO", "Value": ["Gelmed"]}}) is None


@pytest.mark.parametrize("archive", ARCHIVES)
def test_an_archive_does_not_make_an_object_its_own(archive: str) -> None:
    vendor, ds = made_by_archive(archive)
    found = vendor_of_object(json_of(ds))
    assert found is not None
    assert found.name == vendor


def test_every_entry_has_sources_and_what_it_is_told_by() -> None:
    assert {vendor.name for vendor in (*VENDORS, GENERIC)} == OBJECTS.keys() | ARCHIVES.keys()
    assert GENERIC.sources
    for vendor in VENDORS:
        assert vendor.sources, vendor.name
        assert vendor.class_uids or vendor.version_names, vendor.name
        assert bool(vendor.creators) == (vendor.name in OBJECTS)
    assert GENERIC.quirks == Quirks()


def test_names_of_the_setting() -> None:
    assert len(BY_NAME) == sum(1 + len(vendor.also) for vendor in (*VENDORS, GENERIC))
    assert quirks_of("ORTHANC").takes_lists
    assert quirks_of("dcm4che").takes_lists
    assert quirks_of("somebody's") == Quirks()
