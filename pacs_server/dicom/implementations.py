"""Whose software a peer is, as far as its implementation identification tells (PS3.7 D.3.3.2)."""

from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID
from pacs_server.dicom.vendors import Quirks, quirks_of, vendor_of_software

# The beginnings of Implementation Class UIDs of toolkits, which come first: whoever builds on one often leaves its UID
# there. The vendors are in `vendors.py`.
_MADE_WITH: Final = {
    IMPLEMENTATION_CLASS_UID: "pacs-server",
    "1.2.276.0.7230010.3.0.3.": "DCMTK",
    "1.2.40.0.13.1.": "dcm4che",
    "1.3.6.1.4.1.30071.8": "fo-dicom",
    "1.2.826.0.1.3680043.9.3811.": "pynetdicom",
    "1.2.826.0.1.3680043.10.854": "dcmjs-dimse",
    "1.2.392.200036.9116.": "Canon",
}


@dataclass(frozen=True, slots=True)
class Implementation:
    """What a peer says of its software: both empty if it says nothing."""

    class_uid: str = ""
    version_name: str = ""

    def vendor(self, setting: str = "auto") -> str:
        """The vendor, as set, else the toolkit or vendor that its software tells; '' if it is not known."""
        if setting != "auto":
            return setting
        toolkit = next((name for root, name in _MADE_WITH.items() if self.class_uid.startswith(root)), "")
        vendor = vendor_of_software(self.class_uid, self.version_name)
        # What is built on a toolkit and says so in its version name is told by that.
        if vendor is not None and (not toolkit or not self.class_uid.startswith(vendor.class_uids)):
            return vendor.name
        return toolkit

    def quirks(self, setting: str = "auto") -> Quirks:
        """What it does in its own way, as far as a request can respect that."""
        return quirks_of(self.vendor(setting))

    def __str__(self) -> str:
        return self.version_name or self.class_uid


UNKNOWN: Final = Implementation()
"""What peers are that say nothing."""
