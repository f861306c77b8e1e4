"""The keys of stored objects: what a key is, and which key an instance has."""

import os
import re
from typing import Final

from pacs_server.dicom.header import Header
from pacs_server.dicom.uids import are_uids, is_uid
from pacs_server.errors import InvalidInstance, InvalidKey

NAMINGS: Final = ("hierarchical", "date_hierarchical", "flat")
INCOMING: Final = "incoming"
QUARANTINE: Final = "quarantine"
TRASH: Final = "trash"
DECISIONS: Final = "changes"
RESTORING: Final = "restore"
# No key of an instance begins with these names: the archive's own folders, and one of file systems.
RESERVED: Final = frozenset({INCOMING, QUARANTINE, TRASH, DECISIONS, RESTORING, "lost+found"})
# The keys of side files begin so.
SIDE_PREFIXES: Final = (f"{TRASH}/", f"{DECISIONS}/")
DECISIONS_PREFIX: Final = f"{DECISIONS}/"
# File systems take no longer names, in bytes.
_LONGEST_NAME: Final = 255
_VERSION: Final = re.compile(r"\.v([0-9]{1,9})\.dcm$")
_INSTANCE: Final = re.compile(r"([0-9.]{1,64}?)(?:\.v([0-9]{1,9}))?\.dcm")


def check_key(key: str) -> None:
    """Raise InvalidKey unless an object may be stored under `key`.

    A key is one or more names of at most 255 bytes with slashes between them. No name is `.` or `..` or holds a zero
    character, and the first name is none of `RESERVED`.
    """
    _check_names(key)
    if key.partition("/")[0] in RESERVED:
        raise InvalidKey("a path that the archive keeps for its own files was refused")


def check_side_key(key: str) -> None:
    """Raise InvalidKey unless a side file may be stored under `key`."""
    _check_names(key)
    if not key.startswith(SIDE_PREFIXES):
        raise InvalidKey("a path that is none of the archive's own files was refused")


def trash_prefix(folder: str) -> str:
    """What the keys of the side files of a deletion begin with."""
    return f"{TRASH}/{folder}/"


def instance_key(header: Header, naming: str, version: int = 1) -> str:
    """The key of an instance.

    `naming` is one of `NAMINGS` (`storage.naming`). A later `version` of the same SOP Instance UID has another key.
    Raises InvalidInstance if the header holds what is not a UID, so that nothing else gets into a key.
    """
    uids = header.uids
    if not are_uids((uids.study, uids.series, uids.sop)):
        raise InvalidInstance("a UID that names the instance is not one")
    name = with_version(uids.sop, version)
    if naming == "flat":
        return name
    folder = f"{uids.study}/{uids.series}"
    if naming == "date_hierarchical":
        return f"{_date_folder(header.values.get('study_date', ''))}/{folder}/{name}"
    return f"{folder}/{name}"


def with_version(stem: str, version: int) -> str:
    """The key of a version of an instance, of which `stem` is what the keys of all versions begin with."""
    return f"{stem}.dcm" if version == 1 else f"{stem}.v{version}.dcm"


def version_of(key: str) -> int:
    """The version of an instance that a key names; 1 if it names none."""
    found = _VERSION.search(key)
    return int(found[1]) if found else 1


def named_by(key: str) -> tuple[str, int]:
    """The SOP Instance UID and the version that a key names; ('', 1) for a key that `instance_key` does not give."""
    found = _INSTANCE.fullmatch(key.rpartition("/")[2])
    if found is None or not is_uid(found[1]):
        return "", 1
    return found[1], int(found[2] or 1)


def _check_names(key: str) -> None:
    if key in ("", ".", "..") or key.startswith(("/", "../")) or "\0" in key or os.path.normpath(key) != key:
        raise InvalidKey("a path outside the archive was refused")
    try:
        encoded = os.fsencode(key)
    except UnicodeEncodeError as error:
        raise InvalidKey("a path with characters that no file name has was refused") from error
    if len(encoded) > _LONGEST_NAME and any(len(name) > _LONGEST_NAME for name in encoded.split(b"/")):
        raise InvalidKey("a path with a name that is too long was refused")


def _date_folder(study_date: str) -> str:
    digits = study_date.replace(".", "")
    if len(digits) == 8 and digits.isascii() and digits.isdigit():
        return f"{digits[:4]}/{digits[4:6]}/{digits[6:]}"
    return "undated"
