"""What is known of the vendors of DICOM software: how to tell them, and what they do in their own way.

Every entry names its sources; docs/vendors.md is made from this table. What no source was found for is not here.
"""

from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.private_elements import creators_of

_PYDICOM: Final = "pydicom 3.0, dictionary of private elements"
_ORTHANC_31: Final = (
    "Orthanc, DicomControlUserConnection.cpp, the remark on https://orthanc.uclouvain.be/bugs/show_bug.cgi?id=31 "
    "(wild cards)"
)


@dataclass(frozen=True, slots=True)
class Quirks:
    """What a remote does in its own way, as far as a request can respect that.

    `star_means_all` says whether a lone `*` may be sent as a key; a remote that takes it for a value gets an empty key
    instead, which matches the same (PS3.4 C.2.2.2.3, C.2.2.2.4). `takes_lists` says whether a key that is no UID may
    have several values, of which one has to match; the others get a request for each value.
    """

    star_means_all: bool = True
    takes_lists: bool = False


@dataclass(frozen=True, slots=True)
class Vendor:
    """A vendor: what its software and its objects are told by, what it does in its own way, and who says so.

    `also` are other names that the setting `vendor` may have for it. `class_uids` and `version_names` are beginnings of
    what its software says when associations are opened, `manufacturers` beginnings of Manufacturer (0008,0070),
    `creators` of private creators; case does not matter.
    """

    name: str
    also: tuple[str, ...] = ()
    class_uids: tuple[str, ...] = ()
    version_names: tuple[str, ...] = ()
    manufacturers: tuple[str, ...] = ()
    creators: tuple[str, ...] = ()
    quirks: Quirks = Quirks()
    sources: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


GENERIC: Final = Vendor(
    "generic",
    sources=("PS3.4 C.2.2.2", "PS3.4 C.2.2.1.3"),
    remarks=(
        "For a date, time, number or UID, a lone `*` is sent as an empty key, because wild cards are for text.",
        "Few remotes accept a list of values, except of UIDs. The server therefore searches value by value, and lists "
        "each match once.",
        "Remotes need not match optional keys such as Modalities in Study. The server removes from the result those "
        "studies whose answers contain other modalities. If the answers do not contain the modalities, as with DCMTK's "
        "dcmqrscp, polling asks for the series of each study.",
    ),
)  # fmt: skip

VENDORS: Final = (
    Vendor(
        "GE", (), ("1.2.840.113619.", "2.16.840.1.113709.1.1."), ("CENTRICITY_",), ("GE ", "GEMS", "GEHC"),
        ("GEMS", "GEHC", "GEIIS", "GE_GENESIS", "GE_GROUP", "GE LUT"), Quirks(star_means_all=False),
        (
            "Centricity PACS 3.0 DICOM Conformance Statement (GE 2017753-209, 2005), revision history",
            _ORTHANC_31, _PYDICOM,
        ),
        ("The problem with a lone `*` was reported for a WA server.",),
    ),
    Vendor(
        "Philips", (), ("1.3.46.670589.",), (), ("Philips",), ("Philips", "PMS", "SPI-P"), Quirks(star_means_all=False),
        (
            "https://github.com/rordenlab/dcm2niix/blob/master/Philips/README.md (private SOP classes)",
            _ORTHANC_31, _PYDICOM,
        ),
        ("The problem with a lone `*` was reported for an ADW.",),
    ),
    Vendor(
        "Siemens", ("Siemens Healthineers",), ("1.3.12.2.1107.",), (), ("SIEMENS",), ("SIEMENS", "SHS MagicView"),
        Quirks(star_means_all=False),
        ("https://github.com/rordenlab/dcm2niix/issues/348 (UIDs of the vendor)", _ORTHANC_31, _PYDICOM),
        ("The problem with a lone `*` was reported for syngo.via.",),
    ),
    Vendor(
        "Agfa", ("IMPAX",), ("1.3.51.",), ("IMPAX",), ("Agfa",), ("AGFA", "MITRA"), Quirks(star_means_all=False),
        (
            "IMPAX Storage and Print Services DICOM Conformance Statement (Agfa, 1996), 2.1.1.1",
            "https://github.com/dcm4che/dcm4che/pull/1515", _ORTHANC_31, _PYDICOM,
            "https://github.com/rordenlab/dcm2niix/issues/437 (moved blocks)",
        ),
        (
            "The problem with a lone `*` was reported for IMPAX.",
            "It moves private blocks: instances that pass through it can have private elements in another block.",
            "Enterprise Imaging is built on dcm4che and may report dcm4che as its software.",
        ),
    ),
    Vendor(
        "Fujifilm", ("Fuji",), ("1.2.392.200036.9125.",), (), ("FUJI",), ("FDMS", "FUJI"), Quirks(),
        (
            "fo-dicom, table of private SOP classes (Private Fuji CR Image Storage)",
            "Synapse DICOM Conformance Statement, version 08 (FUJIFILM Medical Systems USA, 2008), revision history",
            _PYDICOM,
        ),
        ("Synapse from version 3.2.0 on limits the matches of a C-FIND, so search for short ranges of dates.",),
    ),
    Vendor(
        "Sectra", (), ("1.2.752.24.",), (), ("Sectra",), ("SECTRA",), Quirks(),
        (_PYDICOM,),
        ("No source was found for its peculiarities or for its Implementation Class UID. The prefix in the table is "
         "the root of the UIDs of its studies.",),
    ),
    Vendor(
        "dcm4chee", ("dcm4che",), ("1.2.40.0.13.1.",), ("dcm4che",), (), (), Quirks(takes_lists=True),
        (
            "https://github.com/dcm4che/dcm4che/issues/1238 (its version name)",
            "https://github.com/dcm4che/dcm4chee-arc-light/issues/1772 (lists of values)",
            "https://github.com/dcm4che/dcm4che/issues/552 (moved blocks)",
        ),
        (
            "It reports dcm4che as its software, like everything that is built on that library.",
            "It moves private blocks: instances that pass through it can have private elements in another block.",
        ),
    ),
    Vendor(
        "Orthanc", (), (), ("ORTHANC",), (), (), Quirks(takes_lists=True),
        ("https://orthanc.uclouvain.be/hg/orthanc/rev/6358923d3ced (lists of values, wild cards by VR)",),
        (
            "It reports DCMTK as its software, like everything that is built on that library. Set `vendor: Orthanc`.",
            "If LimitFindResults is set in its configuration, it limits the matches of a search.",
        ),
    ),
)  # fmt: skip
BY_NAME: Final = {name.casefold(): vendor for vendor in (*VENDORS, GENERIC) for name in (vendor.name, *vendor.also)}


def vendor_of_software(class_uid: str, version_name: str) -> Vendor | None:
    """The vendor of software by its implementation identification (PS3.7 D.3.3.2); None if it is not known."""
    name = version_name.casefold()
    for vendor in VENDORS:
        if class_uid.startswith(vendor.class_uids) or _begins(name, vendor.version_names):
            return vendor
    return None


def vendor_of_object(data_set: DataSet) -> Vendor | None:
    """The vendor of the equipment that made an object: by Manufacturer (0008,0070), else by its private creators."""
    manufacturer = text_of(data_set, "00080070").strip().casefold()
    creators = sorted(set(map(str.casefold, creators_of(data_set).values())))
    return next(
        (each for each in VENDORS if _begins(manufacturer, each.manufacturers)),
        next((each for name in creators for each in VENDORS if _begins(name, each.creators)), None),
    )


def quirks_of(name: str) -> Quirks:
    """What a vendor or toolkit of this name does in its own way; nothing if it is not known."""
    return BY_NAME.get(name.casefold(), GENERIC).quirks


def _begins(text: str, beginnings: tuple[str, ...]) -> bool:
    return text.startswith(tuple(map(str.casefold, beginnings)))
