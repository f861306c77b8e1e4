"""REST: how the archive grew, and which studies are the largest."""

from datetime import date, datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.services.statistics import Sized
from pacs_server.services.statistics import Statistics as Counted
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.api.stored import STUDY_ROOT_FIND
from pacs_server.web.services import WebServices

_TAG: Final = "server"


class Day(Answer):
    """What was received on a day and is still stored."""

    day: Annotated[date, Field(description="In UTC.")]
    instances: int
    bytes: int


class LargeStudy(Answer):
    """A study and its size."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    study_date: str
    study_description: str
    instances: int
    bytes: int


class Statistics(Answer):
    """A count of what is stored. It is made in the background when somebody asks and the last one is old."""

    counted_at: Annotated[datetime | None, Field(description="When the count began; null if there is none yet.")]
    counting: Annotated[bool, Field(description="Whether a count is under way: ask again in a few seconds.")]
    days: Annotated[list[Day], Field(description="The days on which something came, in their order.")]
    largest: Annotated[list[LargeStudy], Field(description="The largest studies, the largest first.")]


class StorageStatistics:
    """The resource storage/statistics."""

    def __init__(self, services: WebServices) -> None:
        self._statistics = services.statistics
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operation of the resource."""
        return [
            Operation(
                method="GET", path="/storage/statistics", name="show_statistics", tag=_TAG, role=Role.OPERATOR,
                summary="Show how much was received on each day, and the largest studies.",
                answer=Statistics, run=self._show,
            )
        ]  # fmt: skip

    def _show(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        found = self._statistics.statistics()
        counting = self._statistics.counting
        if found is None:
            return Statistics(counted_at=None, counting=counting, days=[], largest=[])
        with self._auditor.query(call.caller, STUDY_ROOT_FIND) as record:
            largest = self._statistics.largest(found)
            record.matched(len(largest), complete=True)
        return Statistics(
            counted_at=found.counted_at, counting=counting, days=_days(found),
            largest=[_large(each) for each in largest],
        )  # fmt: skip


def _days(found: Counted) -> list[Day]:
    return [Day(day=each.day, instances=each.instances, bytes=each.bytes) for each in found.days]


def _large(each: Sized) -> LargeStudy:
    study = each.study
    return LargeStudy(
        study_instance_uid=study.study_instance_uid, patient_name=study.patient_name, patient_id=study.patient_id,
        study_date=study.study_date, study_description=study.study_description,
        instances=each.instances, bytes=each.bytes,
    )  # fmt: skip
