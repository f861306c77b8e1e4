"""The worklist of a temporary server: items that a test adds, so that a modality under test finds them."""

import itertools
from datetime import datetime
from typing import Any, Final

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from pacs_server.dicom.worklist import items_of_order
from pacs_server.services.worklist import WorklistService

# The attributes of an item that lie in its Scheduled Procedure Step Sequence (PS3.4 Table K.6-1).
_OF_STEP: Final = frozenset(
    (
        *("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime"),
        *("Modality", "ScheduledPerformingPhysicianName", "ScheduledProcedureStepDescription"),
        *("ScheduledProcedureStepID", "ScheduledStationName", "ScheduledProcedureStepLocation", "PreMedication"),
        *("ScheduledProtocolCodeSequence", "CommentsOnTheScheduledProcedureStep", "ScheduledProcedureStepEndDate"),
        "ScheduledProcedureStepEndTime",
    )
)


class Worklist:
    """The worklist of a temporary server."""

    def __init__(self, service: WorklistService) -> None:
        self._service = service
        self._numbers = itertools.count(1)

    def add(self, order: Dataset | None = None, /, **attributes: Any) -> Dataset:
        """Add an item and return it as a query would.

        `attributes` are named by keyword, those of the scheduled step as well: `add(PatientName="Doe^Jane",
        Modality="MR")`. What is left out has a value, so that `add()` alone is an item of today. `order` is a
        whole item instead, to which `attributes` are added. Raises InvalidWorklistItem, and TypeError for what is no
        keyword.
        """
        made = Dataset(order) if order is not None else self._usual(attributes.get("Modality", "CT"))
        if "ScheduledProcedureStepSequence" not in made:
            made.ScheduledProcedureStepSequence = Sequence([Dataset()])
        for keyword, value in attributes.items():
            if tag_for_keyword(keyword) is None:
                raise TypeError(f"{keyword} is no keyword of an attribute")
            place = made.ScheduledProcedureStepSequence[0] if keyword in _OF_STEP else made
            setattr(place, keyword, value)
        (item,) = items_of_order(made.to_json_dict(), "test")
        self._service.put([item])
        return Dataset.from_json(dict(item.data_set))

    @property
    def items(self) -> list[Dataset]:
        """All items by their start, whatever their status, which is in Scheduled Procedure Step Status."""
        return [_with_status(dict(row.item.data_set), row.item.status) for row in self._service.list()]

    def _usual(self, modality: str) -> Dataset:
        number, now = next(self._numbers), datetime.now()
        made, step = Dataset(), Dataset()
        made.PatientName, made.PatientID = f"Test^Patient{number}", f"TEST{number}"
        made.AccessionNumber = f"ACC{number}"
        step.Modality, step.ScheduledStationAETitle = modality, "MODALITY"
        step.ScheduledProcedureStepStartDate = now.strftime("%Y%m%d")
        step.ScheduledProcedureStepStartTime = now.strftime("%H%M%S")
        step.ScheduledProcedureStepDescription = f"{modality} examination"
        made.ScheduledProcedureStepSequence = Sequence([step])
        return made


def _with_status(data_set: dict[str, Any], status: str) -> Dataset:
    item = Dataset.from_json(data_set)
    item.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus = status
    return item
