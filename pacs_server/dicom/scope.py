"""Which part of the archive a caller may see and change."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Scope:
    """The limits of a caller; an empty tuple does not limit.

    A caller sees the instances whose series has one of `modalities`, that came from one of `ae_titles`, and whose
    patient is one of `patients`, each a Patient ID with its issuer, '' if it has none, and whose study is one of
    `studies`, by UID. Studies, series and patients are seen as far as they hold such instances.
    """

    modalities: tuple[str, ...] = ()
    ae_titles: tuple[str, ...] = ()
    patients: tuple[tuple[str, str], ...] = ()
    studies: tuple[str, ...] = ()

    @property
    def is_limited(self) -> bool:
        """Whether anything is hidden."""
        return bool(self.modalities or self.ae_titles or self.patients or self.studies)

    def shows(self, modality: str, ae_title: str, patient: tuple[str, str], study: str = "") -> bool:
        """Whether an instance of these values is seen; `patient` is the ID with its issuer, `study` its UID."""
        return (
            (not self.modalities or modality in self.modalities)
            and (not self.ae_titles or ae_title in self.ae_titles)
            and (not self.patients or patient in self.patients)
            and (not self.studies or study in self.studies)
        )

    def as_json(self) -> str:
        """The limits as text, '' without any."""
        if not self.is_limited:
            return ""
        names = ("modalities", "ae_titles", "patients", "studies")
        values = {name: getattr(self, name) for name in names}
        return json.dumps({name: value for name, value in values.items() if value}, ensure_ascii=False)


EVERYTHING = Scope()
"""The scope of a caller without limits."""


def scope_of(text: str) -> Scope:
    """The scope that `Scope.as_json` has turned into text."""
    if not text:
        return EVERYTHING
    values: dict[str, Any] = json.loads(text)
    patients = tuple((str(number), str(issuer)) for number, issuer in values.get("patients", ()))
    modalities, ae_titles, studies = (tuple(values.get(name, ())) for name in ("modalities", "ae_titles", "studies"))
    return Scope(modalities, ae_titles, patients, studies)
