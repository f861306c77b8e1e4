"""Performed procedure steps in the index, tied to the worklist items they refer to and the instances they made.

A step, its ties and the statuses of its items change in one transaction.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from pacs_server.dicom.json_model import SPECIFIC_CHARACTER_SET, DataSet, text_of
from pacs_server.dicom.mpps import ScheduledStep, performed_instances, scheduled_steps, status_of, status_of_item
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import DuplicateInstance, InstanceNotFound, InvalidAttributeValue
from pacs_server.index.changes import ChangeKind, NewChange, record
from pacs_server.index.database import Database
from pacs_server.index.models import instance, patient, study
from pacs_server.index.workflow_models import (
    procedure_step,
    procedure_step_instance,
    procedure_step_item,
    worklist_item,
)
from pacs_server.index.worklist import WORKLIST_LOCK, record_items

_CHUNK_ROWS = 256
# PostgreSQL indexes about 2,700 bytes, and a character takes up to 4.
_MAX_INDEXED = 512
# The largest data set of a step, in characters, so that repeated N-SETs cannot grow it without limit.
_MAX_DATA_SET = 16 << 20
_COLUMNS = {
    "performed_procedure_step_id": "00400253",
    "performed_station_ae_title": "00400241",
    "modality": "00080060",
    "patient_id": "00100020",
    "patient_name": "00100010",
    "start_date": "00400244",
    "start_time": "00400245",
    "specific_character_set": SPECIFIC_CHARACTER_SET,
}
_step, _item = procedure_step.c, worklist_item.c
_made, _tie = procedure_step_instance.c, procedure_step_item.c

StepEdit = Callable[[DataSet], dict[str, Any]]
"""Returns the changed data set of a step, or raises to leave the step as it is."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step as it is listed. It references `referenced` instances, of which `received` are in the archive."""

    id: int
    sop_instance_uid: str
    status: str
    performed_procedure_step_id: str
    performed_station_ae_title: str
    modality: str
    patient_id: str
    patient_name: str
    study_instance_uid: str
    start_date: str
    start_time: str
    calling_ae: str
    created_at: datetime
    updated_at: datetime
    referenced: int
    received: int


@dataclass(frozen=True, slots=True)
class UnmatchedStudy:
    """A study without a worklist item."""

    study_instance_uid: str
    patient_id: str
    accession_number: str
    study_date: str
    modalities: str
    instances: int


class ProcedureStepIndex:
    """The performed procedure steps of one database; may be shared by all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, uid: str, data_set: DataSet, calling_ae: str, *, discontinued_returns: bool) -> int:
        """Store a new step and return the number of its worklist items; raises DuplicateInstance, IndexUnavailable."""
        now = datetime.now(UTC)
        values = _values(data_set) | {
            "sop_instance_uid": uid,
            "calling_ae": calling_ae.replace("\0", ""),
            "created_at": now,
        }
        try:
            # One transaction at a time changes steps and items: the steps that decide an item's status stay.
            with self._database.begin(lock=WORKLIST_LOCK) as connection:
                created = insert(procedure_step).values(values | {"updated_at": now}).returning(_step.id)
                key = connection.scalars(created).one()
                items = _tie_up(connection, key, data_set, discontinued_returns)
                record(connection, [_change(uid, values)])
                return items
        except IntegrityError as error:
            raise DuplicateInstance("there is a procedure step of this UID") from error

    def update(self, uid: str, edit: StepEdit, *, discontinued_returns: bool) -> tuple[str, int]:
        """Change a step in its current state; return its status and the number of its worklist items.

        Raises InstanceNotFound, IndexUnavailable, and what `edit` raises.
        """
        with self._database.begin(lock=WORKLIST_LOCK) as connection:
            row = connection.execute(
                select(_step.id, _step.data_set).where(_step.sop_instance_uid == uid)
            ).one_or_none()
            if row is None:
                raise _not_found()
            data_set = edit(json.loads(row.data_set))
            values = _values(data_set) | {"updated_at": datetime.now(UTC)}
            connection.execute(update(procedure_step).where(_step.id == row.id).values(values))
            connection.execute(delete(procedure_step_instance).where(_made.procedure_step_fk == row.id))
            items = _tie_up(connection, row.id, data_set, discontinued_returns)
            record(connection, [_change(uid, values)])
            return status_of(data_set), items

    def get(self, uid: str) -> dict[str, Any]:
        """The data set of a step; raises InstanceNotFound, IndexUnavailable."""
        with self._database.connect() as connection:
            text = connection.scalar(select(_step.data_set).where(_step.sop_instance_uid == uid))
        if text is None:
            raise _not_found()
        found: dict[str, Any] = json.loads(text)
        return found

    def list(self) -> Generator[StepRow, None, None]:
        """All steps, the latest first; raises IndexUnavailable."""
        return self._rows(_steps().order_by(_step.id.desc()))

    def page(
        self, limit: int, after: int | None = None, *, status: str | None = None, study: str | None = None
    ) -> Sequence[StepRow]:
        """The newest steps, `limit` at most, or those whose id is below `after`; raises IndexUnavailable."""
        statement = _steps().order_by(_step.id.desc()).limit(limit)
        if after is not None:
            statement = statement.where(_step.id < after)
        if status is not None:
            statement = statement.where(_step.status == status)
        if study is not None:
            statement = statement.where(_step.study_instance_uid == study)
        return list(self._rows(statement))

    def row(self, uid: str) -> StepRow:
        """A step as it is listed; raises InstanceNotFound, IndexUnavailable."""
        found = list(self._rows(_steps().where(_step.sop_instance_uid == uid)))
        if not found:
            raise _not_found()
        return found[0]

    def of_item(self, item_id: int) -> Sequence[StepRow]:
        """The steps that refer to a worklist item, in the order they came in; raises IndexUnavailable."""
        tied = select(_tie.procedure_step_fk).where(_tie.worklist_item_fk == item_id)
        return list(self._rows(_steps().where(_step.id.in_(tied)).order_by(_step.id)))

    def of_items(self, item_ids: Sequence[int]) -> Mapping[int, Sequence[StepRow]]:
        """The steps that refer to each of these worklist items; raises IndexUnavailable."""
        found = defaultdict[int, Any](tuple)
        for start in range(0, len(item_ids), _CHUNK_ROWS):
            some = item_ids[start : start + _CHUNK_ROWS]
            tied = select(_tie.worklist_item_fk, _tie.procedure_step_fk).where(_tie.worklist_item_fk.in_(some))
            with self._database.connect() as connection:
                ties = connection.execute(tied).all()
            keys = {step for _, step in ties}
            rows = {row.id: row for row in self._rows(_steps().where(_step.id.in_(keys)))}
            for item, step in ties:
                # A step may have been deleted between the two.
                if step in rows:
                    found[item] += (rows[step],)
        return found

    def items_of(self, uid: str) -> Sequence[tuple[int, ItemStatus]]:
        """The ids and statuses of the worklist items that a step refers to; raises IndexUnavailable."""
        tied = procedure_step_item.join(procedure_step).join(worklist_item)
        statement = select(_item.id, _item.status).select_from(tied).where(_step.sop_instance_uid == uid)
        with self._database.connect() as connection:
            return [(key, ItemStatus(status)) for key, status in connection.execute(statement.order_by(_item.id))]

    def missing(self, uid: str) -> Generator[str, None, None]:
        """The SOP Instance UIDs that a step refers to and the archive does not have; raises IndexUnavailable."""
        named = procedure_step_instance.join(procedure_step)
        there = exists().where(instance.c.sop_instance_uid == _made.sop_instance_uid)
        statement = select(_made.sop_instance_uid).select_from(named).where(_step.sop_instance_uid == uid, ~there)
        for row in self._stream(statement.order_by(_made.id)):
            yield row.sop_instance_uid

    def instances_in_study(self, study_instance_uid: str) -> int:
        """How many instances of a study the archive has; raises IndexUnavailable."""
        # There is one row for each patient that the study came with.
        statement = select(func.sum(study.c.number_of_study_related_instances)).where(
            study.c.study_instance_uid == study_instance_uid
        )
        with self._database.connect() as connection:
            return connection.scalar(statement) or 0

    def unmatched(self, date: str = "") -> Generator[UnmatchedStudy, None, None]:
        """The studies without a worklist item, in the order of arrival; raises IndexUnavailable.

        With `date`, YYYYMMDD, only those of that Study Date.
        """
        statement = _unmatched_statement()
        for row in self._stream(statement.where(study.c.study_date == date) if date else statement):
            yield UnmatchedStudy(*row)

    def _rows(self, statement: Select[Any]) -> Generator[StepRow, None, None]:
        for row in self._stream(statement):
            yield StepRow(*row)

    def _stream(self, statement: Select[Any]) -> Generator[Any, None, None]:
        with (
            self._database.connect() as connection,
            connection.execution_options(yield_per=_CHUNK_ROWS).execute(statement) as result,
        ):
            yield from result


def _change(uid: str, values: dict[str, Any]) -> NewChange:
    return NewChange(ChangeKind.STEP, values["study_instance_uid"], sop_instance_uid=uid, detail=values["status"])


def _not_found() -> InstanceNotFound:
    return InstanceNotFound("there is no procedure step of this UID")


def _steps() -> Select[Any]:
    """Steps with the columns of StepRow."""
    columns = [_step[name] for name in StepRow.__dataclass_fields__ if name in _step]
    there = procedure_step_instance.join(instance, instance.c.sop_instance_uid == _made.sop_instance_uid)
    # Counted for each step separately, so that the first rows come before all steps are counted.
    counts = [
        select(func.count()).select_from(named).where(_made.procedure_step_fk == _step.id).scalar_subquery()
        for named in (procedure_step_instance, there)
    ]
    return select(*columns, *counts)


def _values(data_set: DataSet) -> dict[str, Any]:
    """The columns of a step that follow from its data set."""
    text = json.dumps(data_set, ensure_ascii=False, separators=(",", ":"))
    if len(text) > _MAX_DATA_SET:
        raise InvalidAttributeValue("the procedure step grows too large")
    scheduled = scheduled_steps(data_set)
    return {name: text_of(data_set, tag)[:_MAX_INDEXED] for name, tag in _COLUMNS.items()} | {
        "status": status_of(data_set),
        "study_instance_uid": scheduled[0].study_instance_uid if scheduled else "",
        "data_set": text,
    }


def _tie_up(connection: Connection, key: int, data_set: DataSet, discontinued_returns: bool) -> int:
    """Connect a step with its instances and worklist items; return the number of items."""
    made = [
        {
            "procedure_step_fk": key,
            "series_instance_uid": each.series_instance_uid,
            "sop_class_uid": each.sop_class_uid,
            "sop_instance_uid": each.sop_instance_uid,
        }
        for each in performed_instances(data_set)
    ]
    if made:
        connection.execute(insert(procedure_step_instance), made)
    _tie_items(connection, key, data_set)
    items = connection.scalars(select(_tie.worklist_item_fk).where(_tie.procedure_step_fk == key)).all()
    record_items(connection, [item for item in sorted(items) if _follow(connection, item, discontinued_returns)])
    return len(items)


def _tie_items(connection: Connection, key: int, data_set: DataSet) -> None:
    """Connect a step with the worklist items that it refers to; an item may be newer than the step."""
    clauses = [clause for scheduled in scheduled_steps(data_set) for clause in _refers_to(scheduled)]
    if not clauses:
        return
    tied = select(_tie.worklist_item_fk).where(_tie.procedure_step_fk == key)
    # The rows stay locked, in one order, so that nobody removes an item before the step is connected with it.
    chosen = select(_item.id).where(or_(*clauses), _item.id.not_in(tied)).order_by(_item.id).with_for_update()
    found = connection.scalars(chosen).all()
    if found:
        rows = [{"procedure_step_fk": key, "worklist_item_fk": item} for item in found]
        connection.execute(insert(procedure_step_item), rows)


def _refers_to(scheduled: ScheduledStep) -> list[ColumnElement[bool]]:
    """Conditions for the worklist items of a scheduled step; none if the step was not scheduled.

    The Scheduled Procedure Step ID must be the same, the Requested Procedure ID if the step tells it, and
    Study Instance UID or, where the modality grouped or replaced studies (PS3.4 F.7.2.1.2), accession number.
    """
    if not scheduled.scheduled_procedure_step_id:
        return []
    same = _item.scheduled_procedure_step_id == scheduled.scheduled_procedure_step_id
    if scheduled.requested_procedure_id:
        same = and_(same, _item.requested_procedure_id == scheduled.requested_procedure_id)
    clauses = [and_(same, _item.study_instance_uid == scheduled.study_instance_uid)]
    if scheduled.accession_number:
        clauses.append(and_(same, _item.accession_number == scheduled.accession_number))
    return clauses


def _follow(connection: Connection, item: int, discontinued_returns: bool) -> bool:
    """Give an item the status that follows from its steps, unless it was cancelled; tells whether that changed it."""
    tied = procedure_step_item.join(procedure_step)
    steps = connection.scalars(select(_step.status).select_from(tied).where(_tie.worklist_item_fk == item)).all()
    status = status_of_item(steps, discontinued_returns=discontinued_returns)
    changed = (
        update(worklist_item)
        .where(_item.id == item, _item.status.not_in((status, ItemStatus.CANCELLED)))
        .values(status=status, updated_at=datetime.now(UTC))
    )
    return bool(connection.execute(changed).rowcount)


def _unmatched_statement() -> Select[Any]:
    same_study = exists().where(_item.study_instance_uid == study.c.study_instance_uid)
    # An empty accession number identifies no order.
    same_order = exists().where(_item.accession_number == study.c.accession_number, study.c.accession_number != "")
    performed = exists().where(
        _tie.procedure_step_fk == _step.id, _step.study_instance_uid == study.c.study_instance_uid
    )
    return (
        select(
            study.c.study_instance_uid, patient.c.patient_id, study.c.accession_number, study.c.study_date,
            study.c.modalities_in_study, study.c.number_of_study_related_instances,
        )
        .select_from(study.join(patient)).where(~same_study, ~same_order, ~performed).order_by(study.c.id)
    )  # fmt: skip
