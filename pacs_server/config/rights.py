"""The rights of users and API keys, as they are kept in text: a role, and limits by modality, AE title and patient."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from pacs_server.errors import UserError

RoleName = Literal["reader", "contributor", "operator", "administrator"]
ROLES: Final[tuple[str, ...]] = get_args(RoleName)
# Limits hide what an operator works with: tasks, conflicts, the trash.
_WITH_LIMITS: Final = ("reader", "contributor")
_MOST: Final = 500


@dataclass(frozen=True, slots=True)
class Rights:
    """What a user may do, and of what; an empty tuple does not limit.

    `patients` holds pairs of Patient ID and issuer, '' for none. A user without a role is a contributor: before there
    were roles, users could query, retrieve and store over DICOM, and no more.
    """

    role: str = "contributor"
    modalities: tuple[str, ...] = ()
    ae_titles: tuple[str, ...] = ()
    patients: tuple[tuple[str, str], ...] = ()

    @property
    def is_limited(self) -> bool:
        """Whether there are limits."""
        return bool(self.modalities or self.ae_titles or self.patients)

    @property
    def in_words(self) -> str:
        """The rights without the patients in them: in an event a patient is named as its subject and nowhere else."""
        people = [f"{len(self.patients)} patients"] if self.patients else []
        limited = ", ".join((*self.modalities, *self.ae_titles, *people))
        return self.role + (f" limited to {limited}" if limited else "")

    def text(self) -> str:
        """The rights as a JSON object, '' for those of a user without a role."""
        if self == CONTRIBUTOR:
            return ""
        return json.dumps({name: value for name, value in asdict(self).items() if value}, separators=(",", ":"))


CONTRIBUTOR: Final = Rights()


@dataclass(frozen=True, slots=True)
class User:
    """A user of the file: the Argon2id hash of the password, and the rights."""

    hashed: str
    rights: Rights = CONTRIBUTOR

    def text(self) -> str:
        """What stands behind the name in the user's line."""
        rights = self.rights.text()
        return f"{self.hashed}:{rights}" if rights else self.hashed

    @property
    def stamp(self) -> str:
        """Changes with the password and with the rights; tells neither."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:32]


def rights_of(text: str) -> Rights:
    """The rights of a JSON object. Raises UserError."""
    try:
        values: dict[str, Any] = json.loads(text)
        patients = tuple((number, issuer) for number, issuer in map(_texts, values.pop("patients", [])))
        modalities, ae_titles = (_texts(values.pop(name, [])) for name in ("modalities", "ae_titles"))
        rights = Rights(patients=patients, modalities=modalities, ae_titles=ae_titles, **values)
    except (ValueError, TypeError, AttributeError):
        raise UserError("the rights are not understood") from None
    check_rights(rights)
    return rights


def check_rights(rights: Rights) -> None:
    """Raise UserError if nobody may have these rights."""
    if rights.role not in ROLES:
        raise UserError(f"a role is one of {', '.join(ROLES)}")
    if rights.is_limited and rights.role not in _WITH_LIMITS:
        raise UserError(f"only a {' or '.join(_WITH_LIMITS)} can have limits")
    values = (*rights.modalities, *rights.ae_titles, *(number for number, _ in rights.patients))
    if len(values) > _MOST:
        raise UserError(f"there can be {_MOST} limits at most")
    if any(not value or not value.isprintable() or "\\" in value for value in values):
        raise UserError("a limit is a printable text without a backslash")


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError
    return tuple(value)
