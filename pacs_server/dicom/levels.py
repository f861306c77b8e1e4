"""Levels and information models of Query/Retrieve (PS3.4 C.3, C.6)."""

from enum import Enum, IntEnum
from functools import cached_property


class Level(IntEnum):
    """A level of the Query/Retrieve hierarchy; a greater value lies deeper (PS3.4 C.3)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


class InformationModel(Enum):
    """A Query/Retrieve information model (PS3.4 C.6)."""

    PATIENT_ROOT = "PATIENT_ROOT"
    STUDY_ROOT = "STUDY_ROOT"

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The levels that a query may name. In Study Root, patient attributes are of the study (PS3.4 C.6.2.1)."""
        return tuple(Level) if self is InformationModel.PATIENT_ROOT else tuple(Level)[1:]
