"""The service of performed procedure steps, and what became of scheduled ones: performed, and images received."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pacs_server.dicom import mpps
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.index.mpps import ProcedureStepIndex, StepRow, UnmatchedStudy


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A step after an operation: its status, how many worklist items it refers to, and its data set."""

    status: str
    items: int
    data_set: DataSet


@dataclass(frozen=True, slots=True)
class Step:
    """All that is known about a step; `missing` are the SOP Instance UIDs of instances that have not been stored."""

    row: StepRow
    data_set: DataSet
    items: Sequence[tuple[int, ItemStatus]]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class Loop:
    """What became of a worklist item: the steps that performed it, and how many instances of its study are stored."""

    steps: Sequence[StepRow]
    instances_in_study: int


class MPPSService:
    """Keeps performed procedure steps and updates the worklist accordingly; may be shared by all threads."""

    def __init__(self, index: ProcedureStepIndex, *, discontinued_returns: Callable[[], bool]) -> None:
        """With `discontinued_returns`, the item of a discontinued step is scheduled again."""
        self._index = index
        self._discontinued_returns = discontinued_returns

    def create(self, uid: str, data_set: DataSet, calling_ae: str) -> StepOutcome:
        """Keep a new step; when this returns, it is durable (PS3.4 F.7.2.1).

        Raises MissingAttribute, MissingAttributeValue, InvalidAttributeValue, DuplicateInstance, IndexUnavailable.
        """
        step = mpps.created(data_set)
        items = self._index.create(uid, step, calling_ae, discontinued_returns=self._discontinued_returns())
        return StepOutcome(mpps.status_of(step), items, step)

    def set(self, uid: str, modifications: DataSet) -> StepOutcome:
        """Update a step that is in progress; when this returns, the change is durable (PS3.4 F.7.2.2).

        Raises InstanceNotFound, ProcedureStepClosed, MissingAttribute, MissingAttributeValue,
        InvalidAttributeValue, IndexUnavailable.
        """
        kept: dict[str, Any] = {}

        def change(step: DataSet) -> dict[str, Any]:
            kept.clear()
            kept.update(mpps.updated(step, modifications))
            return kept

        changed = self._index.update(uid, change, discontinued_returns=self._discontinued_returns())
        return StepOutcome(*changed, kept)

    def get(self, uid: str, tags: Collection[int]) -> tuple[dict[str, Any], bool]:
        """The attributes of a step with these tags, all if there are none, and whether all are supported (PS3.4 F.8.2).

        Raises InstanceNotFound, IndexUnavailable.
        """
        return mpps.selected(self._index.get(uid), tags)

    def list(self) -> Generator[StepRow, None, None]:
        """All steps, the newest first; raises IndexUnavailable."""
        return self._index.list()

    def page(
        self, limit: int, after: int | None = None, *, status: str | None = None, study: str | None = None
    ) -> Sequence[StepRow]:
        """The newest steps, `limit` at most, or those whose id is below `after`; raises IndexUnavailable.

        With `status` or `study`, only those of that status or of that Study Instance UID.
        """
        return self._index.page(limit, after, status=status, study=study)

    def of_items(self, item_ids: Sequence[int]) -> Mapping[int, Sequence[StepRow]]:
        """The steps that were performed for each of these worklist items; raises IndexUnavailable."""
        return self._index.of_items(item_ids)

    def show(self, uid: str) -> Step:
        """All that is known about a step; raises InstanceNotFound, IndexUnavailable."""
        row = self._index.row(uid)
        return Step(row, self._index.get(uid), self._index.items_of(uid), list(self._index.missing(uid)))

    def loop_of(self, item_id: int, study_instance_uid: str) -> Loop:
        """What became of the worklist item with that id and Study Instance UID; raises IndexUnavailable."""
        return Loop(self._index.of_item(item_id), self._index.instances_in_study(study_instance_uid))

    def unmatched(self, date: str = "") -> Generator[UnmatchedStudy, None, None]:
        """The stored studies that have no worklist item, of a Study Date if one is given; raises IndexUnavailable."""
        return self._index.unmatched(date)
