"""docs/vendors.md, made from the tables of vendors and of known private values; as a program it prints the page."""

from collections.abc import Iterable, Iterator

from pacs_server.dicom.private_known import KNOWN
from pacs_server.dicom.vendors import GENERIC, VENDORS, Quirks, Vendor

_HEAD = """# Vendors

What the server knows of what vendors do in their own way, and where that is said. `make conformance` makes this page
from the tables in `pacs_server/dicom/vendors.py` and `pacs_server/dicom/private_known.py`. What no source was found
for is not in them. Each vendor has a synthetic object, and a remote that behaves like it, in the tests; none was
tested with the vendor's own product except Orthanc and DCMTK.

## Remotes

A remote says in each association whose software it is (PS3.7 D.3.3.2). `remote_aes[].vendor` says it instead, for
software that is built on a toolkit and names that. Searches at the remote respect what is in the table.

"""
_PRIVATE = """
## Private elements

Private elements are found by their creator in whichever block it is (PS3.5 7.8.1), because archives that put data
sets together anew move the blocks. The page of an instance, and `GET /api/v1/instances/{uid}/private`, name the
elements as pydicom's dictionary does, and tell the values below under standard names, unless the instance has the
attribute of the Standard. Stored bytes, DICOMweb and DIMSE stay as they are.

"""
_GRADIENTS = """
The directions of diffusion of GE are left out: GE gives them along frequency, phase and slice
(https://github.com/rordenlab/dcm2niix/blob/master/GE/README.md), the Standard in the coordinates of the patient. The
binary CSA headers of Siemens are not read.
"""


def page() -> str:
    """The text of the page."""
    return "".join([_HEAD, *_remotes(), "\n", *map(_section, (GENERIC, *VENDORS)), _PRIVATE, *_known(), _GRADIENTS])


def _remotes() -> Iterator[str]:
    yield from _row(["Vendor", "`vendor`", "Implementation Class UID", "Version Name", "What searches respect"])
    yield from _row(["---"] * 5)
    for vendor in VENDORS:
        names = ", ".join(f"`{name}`" for name in (vendor.name, *vendor.also))
        yield from _row(
            [vendor.name, names, _begins(vendor.class_uids), _begins(vendor.version_names), _quirks(vendor.quirks)]
        )
    yield from _row(["others", "`auto`", "", "", _quirks(GENERIC.quirks)])


def _quirks(quirks: Quirks) -> str:
    said = [] if quirks.star_means_all else ["a lone `*` is sent as an empty key, whatever the attribute"]
    said += ["lists of values are sent as they are"] if quirks.takes_lists else []
    return "; ".join(said) or "what the Standard says"


def _section(vendor: Vendor) -> str:
    objects = [
        *([f"Its objects are told by Manufacturer: {_begins(vendor.manufacturers)}."] if vendor.manufacturers else []),
        *([f"Else by private creators: {_begins(vendor.creators)}."] if vendor.creators else []),
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
