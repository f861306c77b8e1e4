"""Which part of the archive a caller may see and change."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scope:
    """The limits of a caller; an empty tuple does not limit.

    A caller sees the instances whose series has one of `modalities`, that came from one of `ae_titles`, and whose
    patient has one of `patient_ids`. Studies, series and patients are seen as far as they hold such instances.
    """

    modalities: tuple[str, ...] = ()
    ae_titles: tuple[str, ...] = ()
    patient_ids: tuple[str, ...] = ()

    @property
    def is_limited(self) -> bool:
        """Whether anything is hidden."""
        return bool(self.modalities or self.ae_titles or self.patient_ids)


EVERYTHING = Scope()
"""The scope of a caller without limits."""
