"""A synthetic object of each vendor: its equipment, and private elements in any block."""

from datasets import encoded, make_ct
from pydicom.dataset import Dataset

from pacs_server.dicom.json_codec import decode_data_set
from pacs_server.dicom.json_model import DataSet

# Manufacturer, and private elements by creator: group, element, VR, value.
Private = dict[str, list[tuple[int, int, str, object]]]
OBJECTS: dict[str, tuple[str, Private]] = {
    "GE": ("GE MEDICAL SYSTEMS", {
        "GEMS_PARM_01": [(0x43, 0x39, "IS", [1000001000, 8, 0, 0]), (0x43, 0x83, "DS", [0.5, 1])],
    }),
    "Philips": ("Philips Medical Systems", {
        "Philips Imaging DD 001": [(0x2001, 0x03, "FL", 800.0)],
        "Philips MR Imaging DD 001": [
            (0x2005, 0xB0, "FL", 1.0), (0x2005, 0xB1, "FL", 0.0), (0x2005, 0xB2, "FL", 0.0),
        ],
    }),
    "Siemens": ("SIEMENS", {
        "SIEMENS MR HEADER": [
            (0x19, 0x0A, "US", 36), (0x19, 0x0C, "IS", 1000), (0x19, 0x0E, "FD", [-0.5, 0.5, 0.25]),
        ],
        # Binary, with a directory of its own that begins with SV10.
        "SIEMENS CSA HEADER": [
            (0x29, 0x08, "CS", "IMAGE NUM 4"), (0x29, 0x10, "OB", b"SV10\4\3\2\1" + bytes(8)),
            (0x29, 0x20, "OB", b"SV10\4\3\2\1" + bytes(8)),
        ],
    }),
    "Agfa": ("Agfa", {"AGFA": [(0x19, 0x10, "SH", "A1")]}),
    "Fujifilm": ("FUJIFILM Corporation", {"FDMS 1.0": [(0x25, 0x10, "US", 7)]}),
    "Sectra": ("Sectra Imtec AB", {"SECTRA_Ident_01": [(0x9, 0x01, "LO", "R1")]}),
}  # fmt: skip
# What archives make of an object of another vendor: the block of its private elements, and what comes along. An archive
# that is no maker of equipment is known by its software only.
ARCHIVES: dict[str, tuple[str, int, Private]] = {
    "dcm4chee": ("Siemens", 0x11, {}),
    "Orthanc": ("Siemens", 0x10, {}),
    "generic": ("GE", 0x10, {"ACME ARCHIVE 1.0": [(0x9, 0x01, "LO", "A1")]}),
}


def make(vendor: str, block: int, manufacturer: str | None = None) -> Dataset:
    """An object of a vendor; its private elements are in a block of this number."""
    made_by, private = OBJECTS[vendor]
    ds = make_ct(Manufacturer=made_by if manufacturer is None else manufacturer)
    add_private(ds, private, block)
    return ds


def made_by_archive(archive: str) -> tuple[str, Dataset]:
    """An object of a vendor as it comes from this archive, and the vendor of the equipment."""
    vendor, block, more = ARCHIVES[archive]
    ds = make(vendor, block)
    add_private(ds, more, block)
    return vendor, ds


def add_private(ds: Dataset, private: Private, block: int) -> None:
    """Put private elements into a block of a data set or item; creators of one group take one block after the other."""
    for creator, elements in private.items():
        group = elements[0][0]
        own = block
        while (group, own) in ds:
            own += 1
        ds.add_new((group, own), "LO", creator)
        for _, element, vr, value in elements:
            ds.add_new((group, own << 8 | element), vr, value)


def json_of(ds: Dataset, syntax: str = "1.2.840.10008.1.2.1") -> DataSet:
    """A data set as the archive has it: in the DICOM JSON Model."""
    return decode_data_set(encoded(ds, syntax), syntax, 1 << 20)
