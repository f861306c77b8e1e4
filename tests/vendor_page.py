"""docs/vendors.md, made from the tables of vendors and of known private values; as a program it prints the page."""

from collections.abc import Iterable, Iterator

from pacs_server.dicom.private_known import KNOWN
from pacs_server.dicom.vendors import GENERIC, VENDORS, Quirks, Vendor

_HEAD = """# Vendors

Products of some vendors deviate from the Standard, or keep important values in private elements. This page lists the
peculiarities that the server takes into account, and their sources. Peculiarities without a source are not included.
`make conformance` generates the page from the tables in `pacs_server/dicom/vendors.py` and
`pacs_server/dicom/private_known.py`.

The tests include a synthetic instance of each vendor, and a simulated remote that behaves like its product. Of the
products themselves, only Orthanc and DCMTK were tested.

## Remotes

Each remote reports its software when an association is opened: the Implementation Class UID and the Implementation
Version Name (PS3.7 D.3.3.2). From these, the server recognises the vendor. A product that is built on a toolkit may
report the toolkit instead; for such a product, set `remote_aes[].vendor`. The last column shows how searches at the
remote differ. An entry that ends with … is the beginning of a value.

"""
_PRIVATE = """
## Private elements

The server finds private elements by their private creator, in whichever block they are (PS3.5 7.8.1), because some
archives move the blocks. The page of an instance, and `GET /api/v1/instances/{uid}/private`, show each private element
with its name from pydicom's dictionary. They also show the values in the table below under the name of the Standard,
unless the instance has the standard attribute itself. This does not change the stored files, or the answers over
DICOMweb and DIMSE.

"""
_GRADIENTS = """
GE's diffusion directions are not included, because GE states them relative to frequency, phase and slice
(https://github.com/rordenlab/dcm2niix/blob/master/GE/README.md), but the Standard in the coordinates of the patient.
The binary CSA headers of Siemens (creator `SIEMENS CSA HEADER`) are named, and their contents are not read.
"""


def page() -> str:
    """The text of the page."""
    return "".join([_HEAD, *_remotes(), "\n", *map(_section, (GENERIC, *VENDORS)), _PRIVATE, *_known(), _GRADIENTS])


def _remotes() -> Iterator[str]:
    yield from _row(["Vendor", "`vendor`", "Implementation Class UID", "Version Name", "How searches differ"])
    yield from _row(["---"] * 5)
    for vendor in VENDORS:
        names = ", ".join(f"`{name}`" for name in (vendor.name, *vendor.also))
        yield from _row(
            [vendor.name, names, _begins(vendor.class_uids), _begins(vendor.version_names), _quirks(vendor.quirks)]
        )
    yield from _row(["others", "`auto`", "", "", _quirks(GENERIC.quirks)])


def _quirks(quirks: Quirks) -> str:
    said = [] if quirks.star_means_all else ["a lone `*` is sent as an empty key for every attribute"]
    said += ["a list of values is sent as one key"] if quirks.takes_lists else []
    return "; ".join(said) or "as for all remotes, see below"


def _section(vendor: Vendor) -> str:
    objects = [
        *(
            [f"Its instances are recognised by Manufacturer: {_begins(vendor.manufacturers)}."]
            if vendor.manufacturers
            else []
        ),
        *(
            [f"If Manufacturer does not tell, by private creators: {_begins(vendor.creators)}."]
            if vendor.creators
            else []
        ),
    ]
    title = "All remotes" if vendor is GENERIC else vendor.name
    told = "".join(f"- {each}\n" for each in (*objects, *vendor.remarks))
    return f"### {title}\n\n{told}\nSources: {'; '.join(vendor.sources)}.\n\n"


def _known() -> Iterator[str]:
    yield from _row(["Name", "Attribute of the Standard", "Vendor", "Private creator", "Elements", "Source"])
    yield from _row(["---"] * 6)
    for each in KNOWN:
        tag = f"({each.tag[:4]},{each.tag[4:]})" if each.tag else "none"
        numbers = ", ".join(f"({number[:4]},{number[4:]})" for number in each.numbers)
        yield from _row([f"`{each.keyword}`", tag, each.vendor, f"`{each.creator}`", numbers, each.source])


def _begins(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`…" for text in texts)


def _row(cells: list[str]) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    print(page(), end="")
