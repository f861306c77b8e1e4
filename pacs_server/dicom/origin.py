"""Where an instance came from; kept with it and named in logs."""

from dataclasses import dataclass
from enum import StrEnum


class Via(StrEnum):
    """The door an instance came through."""

    DIMSE = "dimse"
    IMPORT = "import"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent an instance and how; `peer` is a network address, or a path for imports."""

    calling_ae: str
    called_ae: str
    peer: str
    via: Via
