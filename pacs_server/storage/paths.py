"""Where an instance lies: validated UIDs to a relative path, and nothing else goes into a path."""

from typing import Final

from pacs_server.dicom.header import Header
from pacs_server.dicom.uids import InstanceUIDs, is_uid
from pacs_server.errors import InvalidInstance

NAMINGS: Final = ("hierarchical", "date_hierarchical", "flat")


def relative_path(header: Header, naming: str, version: int = 1) -> str:
    """The path of an instance below the archive's root, posix style.

    `naming` is one of `NAMINGS` (`storage.naming`); a later `version` of the
    same SOP Instance UID has a name of its own. Raises InvalidInstance for what is not a UID.
    """
    uids = header.uids
    _validate(uids)
    name = f"{uids.sop}.dcm" if version == 1 else f"{uids.sop}.v{version}.dcm"
    if naming == "flat":
        return name
    folder = f"{uids.study}/{uids.series}"
    if naming == "date_hierarchical":
        return f"{_date_folder(header.values.get('study_date', ''))}/{folder}/{name}"
    return f"{folder}/{name}"


def _validate(uids: InstanceUIDs) -> None:
    for uid in (uids.study, uids.series, uids.sop):
        if not is_uid(uid):
            raise InvalidInstance("a UID that names the instance is not one")


def _date_folder(study_date: str) -> str:
    digits = study_date.replace(".", "")
    if len(digits) == 8 and digits.isascii() and digits.isdigit():
        return f"{digits[:4]}/{digits[4:6]}/{digits[6:]}"
    return "undated"
