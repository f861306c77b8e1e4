"""**The** table of the transactions of DICOMweb that this server answers, by method and resource (PS3.18 10, Annex H).

The capabilities that the server tells, and its conformance statement, are made of it. A test holds it to the routes.
"""

from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.bulk_syntax import MEDIA_TYPES
from pacs_server.dicom.picture import PICTURES
from pacs_server.web.dicomweb.media_types import (
    DICOM,
    JSON,
    OCTET_STREAM,
    PLAIN_JSON,
    XML,
    ZIP,
    compressed_media_types,
)
from pacs_server.web.dicomweb.resources import BASE, FRAMES, INSTANCE, SERIES, STUDIES, STUDY

_LEVELS: Final = {STUDY: "Study", SERIES: "Series", INSTANCE: "Instance"}


def _related(media_type: str) -> str:
    return f'multipart/related; type="{media_type}"'


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction: its name in the Standard, where it stands there, and the media types of request and response.

    `section` is "" for what is not in the Standard.
    """

    name: str
    section: str
    answers: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    @property
    def identifier(self) -> str:
        """The name as one word."""
        return self.name.replace(" ", "")


_MATCHES: Final = (JSON, PLAIN_JSON, _related(XML))
_FILES: Final = (_related(DICOM), DICOM, ZIP)
_VALUES: Final = (_related(OCTET_STREAM), OCTET_STREAM, *map(_related, compressed_media_types()))
_PICTURES: Final = tuple(PICTURES)
STORED: Final = (
    _related(DICOM), DICOM, _related(JSON), JSON, _related(XML), XML, OCTET_STREAM, *MEDIA_TYPES,
)  # fmt: skip
"""What a Store transaction takes; the last ones are bulk data beside metadata."""

TRANSACTIONS: Final[dict[tuple[str, str], Transaction]] = {
    ("GET", STUDIES): Transaction("Search for Studies", "10.6", _MATCHES),
    ("GET", f"{STUDY}/series"): Transaction("Search for Study Series", "10.6", _MATCHES),
    ("GET", f"{STUDY}/instances"): Transaction("Search for Study Instances", "10.6", _MATCHES),
    ("GET", f"{BASE}/series"): Transaction("Search for Series", "10.6", _MATCHES),
    ("GET", f"{SERIES}/instances"): Transaction("Search for Study Series Instances", "10.6", _MATCHES),
    ("GET", f"{BASE}/instances"): Transaction("Search for Instances", "10.6", _MATCHES),
    **{("GET", path): Transaction(f"Retrieve {name}", "10.4", _FILES) for path, name in _LEVELS.items()},
    **{
        ("GET", f"{path}/metadata"): Transaction(f"Retrieve {name} Metadata", "10.4", (JSON, PLAIN_JSON, _related(XML)))
        for path, name in _LEVELS.items()
    },
    **{
        ("GET", f"{path}/bulkdata"): Transaction(f"Retrieve {name} Bulkdata", "10.4", _VALUES)
        for path, name in _LEVELS.items()
    },
    ("GET", f"{INSTANCE}/bulkdata/{{path:path}}"): Transaction("Retrieve Bulkdata", "10.4", _VALUES),
    ("GET", FRAMES): Transaction("Retrieve Frames", "10.4", _VALUES),
    **{
        ("GET", f"{path}/rendered"): Transaction(f"Retrieve Rendered {name}", "10.4", _PICTURES)
        for path, name in {**_LEVELS, FRAMES: "Frames"}.items()
    },
    **{
        ("GET", f"{path}/thumbnail"): Transaction(f"Retrieve {name} Thumbnail", "10.4", _PICTURES)
        for path, name in {**_LEVELS, FRAMES: "Frames"}.items()
    },
    ("GET", "/wado"): Transaction("Retrieve DICOM Instance, Retrieve Rendered Instance", "9", (DICOM, *_PICTURES)),
    ("POST", STUDIES): Transaction("Store Instances", "10.5", (JSON, PLAIN_JSON, XML), STORED),
    ("POST", STUDY): Transaction("Store Study Instances", "10.5", (JSON, PLAIN_JSON, XML), STORED),
    **{("DELETE", path): Transaction(f"Delete {name}", "") for path, name in _LEVELS.items()},
}
