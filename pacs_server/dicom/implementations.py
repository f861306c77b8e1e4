"""Whose software a peer is, as far as its implementation identification tells (PS3.7 D.3.3.2)."""

from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID

# The beginnings of Implementation Class UIDs. Toolkits come first: whoever builds on one often leaves its UID there.
_MADE_WITH: Final = {
    IMPLEMENTATION_CLASS_UID: "pacs-server",
    "1.2.276.0.7230010.3.0.3.": "DCMTK",
    "1.2.40.0.13.1.": "dcm4che",
    "1.3.6.1.4.1.30071.8": "fo-dicom",
    "1.2.826.0.1.3680043.9.3811.": "pynetdicom",
    "1.2.826.0.1.3680043.10.854": "dcmjs-dimse",
    "1.2.840.113619.": "GE",
    "1.3.12.2.1107.": "Siemens",
    "1.3.46.670589.": "Philips",
    "1.3.51.0.1.": "Agfa",
    "1.2.392.200036.9116.": "Canon",
    "1.2.392.200036.9125.": "Fujifilm",
    "1.2.752.24.": "Sectra",
}


@dataclass(frozen=True, slots=True)
class Implementation:
    """What a peer says of its software: both empty if it says nothing."""

    class_uid: str = ""
    version_name: str = ""

    def vendor(self, setting: str = "auto") -> str:
        """The vendor, as set, else that or the toolkit that the class UID tells; '' if it is not known."""
        if setting != "auto":
            return setting
        return next((name for root, name in _MADE_WITH.items() if self.class_uid.startswith(root)), "")

    def __str__(self) -> str:
        return self.version_name or self.class_uid


UNKNOWN: Final = Implementation()
"""What peers are that say nothing."""
