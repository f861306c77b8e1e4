"""Decisions of operators: merges and reassignments, each applied to the index in one transaction."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from pacs_server.dicom.original_attributes import earlier, original_item
from pacs_server.dicom.same_patient import Identity, compatible
from pacs_server.index.aliases import add_alias, as_json, mark_joined
from pacs_server.index.archive_models import archive_state
from pacs_server.index.changes import ChangeKind, NewChange, record
from pacs_server.index.database import WRITER_LOCK, Database
from pacs_server.index.instances import collect_again
from pacs_server.index.models import instance, patient, patient_alias, series, study
from pacs_server.index.parents import left_open, patient_values
from pacs_server.index.patients import ATTRIBUTES, named

_APPLIED: Final = "changes"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of an operator: studies of the patient `source` belong to `target`. `number` counts from 1.

    With `whole` it is a merge: all that is there and all that will come. Attributes of the patients are by column.
    """

    number: int
    at: datetime
    by: str
    reason: str
    whole: bool
    source: Mapping[str, str]
    target: Mapping[str, str]
    studies: tuple[str, ...]
    system: str


class DecisionIndex:
    """The decisions of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def applied(self) -> int:
        """The number of the last decision that was applied to the index."""
        with self._database.connect() as connection:
            return _applied(connection)

    def apply(self, decision: Decision, confirm: Callable[[], bool] = lambda: True) -> bool:
        """Apply a decision unless the index has it already, and tell whether it was applied.

        `confirm` is called before anything is changed, while nobody else writes; if it returns False, nothing is.
        """
        with self._database.begin(lock=WRITER_LOCK) as connection:
            if _applied(connection) >= decision.number or not confirm():
                return False
            moved = _apply(connection, decision)
            connection.execute(delete(archive_state).where(archive_state.c.key == _APPLIED))
            connection.execute(insert(archive_state).values(key=_APPLIED, value=str(decision.number)))
            kind = ChangeKind.MERGED if decision.whole else ChangeKind.REASSIGNED
            record(connection, [NewChange(kind, uid, number=decision.number) for uid in sorted(moved) or [""]])
            return True


def _applied(connection: Connection) -> int:
    return int(connection.scalar(select(archive_state.c.value).where(archive_state.c.key == _APPLIED)) or 0)


def follow(connection: Connection, decisions: Iterable[Decision], studies: Collection[str]) -> None:
    """Apply decisions, in their order, to studies that were in the trash when the decisions were made."""
    for decision in decisions:
        source_key = _find(connection, decision.source, studies)
        if _studies_to_move(connection, decision, source_key).keys() & set(studies):
            _apply(connection, decision, only=studies)


def _apply(connection: Connection, decision: Decision, only: Collection[str] | None = None) -> Collection[str]:
    """Move the studies, remember where later arrivals of them go, and return the UIDs of those that were moved.

    With `only`, the decision was applied before, and only these studies are moved after the others.
    """
    source = Identity.of(decision.source)
    found = _find(connection, decision.target, decision.studies)
    target_key = _make(connection, decision.target) if found is None else found
    _complete(connection, target_key, decision.target)
    source_key = _find(connection, decision.source, decision.studies if only is None else only)
    if source_key == target_key:
        # Both have turned out to be one patient since.
        return ()
    moving = _studies_to_move(connection, decision, source_key)
    if only is None:
        # The target receives studies, so an earlier alias must not send its arrivals elsewhere.
        _forget_aliases(connection, Identity.of(decision.target), "")
        concerned = set(decision.studies) | set(moving)
    else:
        moving = {uid: key for uid, key in moving.items() if uid in only}
        concerned = set(moving)
    undone = {uid for uid in concerned if _undo(connection, uid, decision, target_key)}
    joined = set()
    for uid, key in moving.items():
        item = None if uid in undone else _original_item(connection, key, decision)
        if _move(connection, key, target_key, item, undone=uid in undone):
            joined.add(uid)
    for uid in joined:
        mark_joined(connection, uid, Identity.of(decision.target))
    for uid in sorted(concerned):
        _forget_aliases(connection, source, uid)
        if uid not in undone or _was_theirs(connection, uid, target_key, source):
            add_alias(connection, uid, decision.source, decision.target, decision.system, joined=uid in joined)
    if decision.whole and source.patient_id and only is None:
        _forget_aliases(connection, source, "")
        add_alias(connection, "", decision.source, decision.target, decision.system, joined=False)
    _recount_patient(connection, target_key)
    if source_key is not None:
        _recount_patient(connection, source_key)
    return moving.keys()


def _studies_to_move(connection: Connection, decision: Decision, source_key: int | None) -> dict[str, int]:
    if source_key is None:
        return {}
    rows = connection.execute(
        select(study.c.study_instance_uid, study.c.id).where(study.c.patient_fk == source_key).order_by(study.c.id)
    )
    return {uid: key for uid, key in rows if decision.whole or uid in decision.studies}


def _find(connection: Connection, attributes: Mapping[str, str], studies: Iterable[str] = ()) -> int | None:
    """The id of a patient's row. A patient without a Patient ID is found by the studies only."""
    wanted = Identity.of(attributes)
    statement: Select[Any] = select(patient).where(
        patient.c.patient_id == wanted.patient_id, patient.c.issuer_of_patient_id == wanted.issuer_of_patient_id
    )
    if not wanted.patient_id:
        theirs = select(study.c.patient_fk).where(study.c.study_instance_uid.in_(list(studies)))
        statement = statement.where(patient.c.id.in_(theirs))
    rows = connection.execute(statement.order_by(patient.c.id)).mappings().all()
    fitting = [row for row in rows if compatible(Identity.of(_texts(row)), wanted)]
    # An identical patient is preferred to one that is only compatible.
    fitting.sort(key=lambda row: Identity.of(_texts(row)) != wanted)
    return fitting[0]["id"] if fitting else None


def _texts(row: Mapping[Any, Any]) -> dict[str, str]:
    return {name: row[name] for name in ATTRIBUTES}


def _make(connection: Connection, attributes: Mapping[str, str]) -> int:
    """Insert a patient whose row an earlier decision has removed."""
    key = Identity.of(attributes).key
    variant = 0
    if key[0]:
        same = (patient.c.patient_id == key[0], patient.c.issuer_of_patient_id == key[1])
        highest = connection.scalar(select(func.max(patient.c.variant)).where(*same))
        variant = 0 if highest is None else highest + 1
    values = patient_values(attributes) | {"variant": variant}
    made: int = connection.execute(insert(patient).values(values).returning(patient.c.id)).scalar_one()
    return made


def _complete(connection: Connection, key: int, attributes: Mapping[str, str]) -> bool:
    """Add known attributes to a patient's row, which may have fewer; False if the attributes are another person's."""
    row = connection.execute(select(patient).where(patient.c.id == key)).mappings().one()
    if not compatible(Identity.of(_texts(row)), Identity.of(attributes)):
        return False
    if more := left_open(patient, _texts(row), attributes):
        connection.execute(update(patient).where(patient.c.id == key).values(more))
    return True


def _aliases(connection: Connection, source: Identity, uid: str) -> Sequence[Row[Any]]:
    """The aliases of a patient for one study, or for all studies if `uid` is empty."""
    statement = select(patient_alias).where(
        *named(patient_alias, *source.key), patient_alias.c.study_instance_uid == uid
    )
    rows = connection.execute(statement.order_by(patient_alias.c.id)).all()
    return [row for row in rows if compatible(Identity.of(json.loads(row.source)), source)]


def _forget_aliases(connection: Connection, source: Identity, uid: str) -> Sequence[Row[Any]]:
    found = _aliases(connection, source, uid)
    connection.execute(delete(patient_alias).where(patient_alias.c.id.in_([row.id for row in found])))
    return found


def _undo(connection: Connection, uid: str, decision: Decision, target_key: int) -> bool:
    """Whether a decision moves a study back to the patient it came from; the alias of the first move is removed.

    One that joined another does not: part of it never was there, and what comes for that part has to follow it.
    """
    back = False
    for row in _forget_aliases(connection, Identity.of(decision.target), uid):
        sent = json.loads(row.source)
        if _complete(connection, target_key, sent):
            back |= not row.joined and compatible(Identity.of(json.loads(row.target)), Identity.of(decision.source))
        else:
            # The target is another person of that ID, and later arrivals have to follow to that person.
            add_alias(connection, uid, sent, decision.target, decision.system, joined=row.joined)
    return back


def _was_theirs(connection: Connection, uid: str, patient_key: int, who: Identity) -> bool:
    """Whether a study belonged to `who` before; later arrivals for that patient have to follow the study."""
    same = study.c.study_instance_uid == uid, study.c.patient_fk == patient_key
    statement = select(study.c.original_attributes_sequence, patient).join(patient).where(*same)
    row = connection.execute(statement).mappings().one_or_none()
    if row is None:
        return False
    items = json.loads(row["original_attributes_sequence"] or "[]")
    return any(compatible(each, who) for each in earlier(items, Identity.of(_texts(row))))


def _move(connection: Connection, key: int, patient_key: int, item: dict[str, Any] | None, *, undone: bool) -> bool:
    """Move a study to another patient; returns whether it was joined with a study of the same UID there."""
    row = connection.execute(select(study).where(study.c.id == key)).mappings().one()
    items: list[Any] = json.loads(row["original_attributes_sequence"] or "[]")
    items = items[:-1] if undone else [*items, item]
    same = study.c.study_instance_uid == row["study_instance_uid"]
    there = connection.execute(select(study).where(same, study.c.patient_fk == patient_key)).mappings().one_or_none()
    if there is None:
        values = {"patient_fk": patient_key, "original_attributes_sequence": as_json(items) if items else ""}
        connection.execute(update(study).where(study.c.id == key).values(values))
        return False
    items = json.loads(there["original_attributes_sequence"] or "[]") + items
    values = {"original_attributes_sequence": as_json(items) if items else ""}
    connection.execute(update(study).where(study.c.id == there["id"]).values(values))
    _join_series(connection, key, there["id"])
    connection.execute(delete(study).where(study.c.id == key))
    _recount_study(connection, there["id"])
    return True


def _join_series(connection: Connection, key: int, into: int) -> None:
    there = connection.execute(select(series.c.series_instance_uid, series.c.id).where(series.c.study_fk == into))
    theirs = {str(uid): int(series_key) for uid, series_key in there}
    mine = connection.execute(select(series.c.id, series.c.series_instance_uid).where(series.c.study_fk == key)).all()
    for series_key, uid in mine:
        if uid not in theirs:
            connection.execute(update(series).where(series.c.id == series_key).values(study_fk=into))
            continue
        connection.execute(update(instance).where(instance.c.series_fk == series_key).values(series_fk=theirs[uid]))
        connection.execute(delete(series).where(series.c.id == series_key))
        count = select(func.count()).where(instance.c.series_fk == theirs[uid]).scalar_subquery()
        counted = {"number_of_series_related_instances": count}
        connection.execute(update(series).where(series.c.id == theirs[uid]).values(counted))


def _recount_study(connection: Connection, key: int) -> None:
    counts = select(func.count(), func.sum(series.c.number_of_series_related_instances))
    of_series, of_instances = connection.execute(counts.where(series.c.study_fk == key)).one()
    values = {"number_of_study_related_series": of_series, "number_of_study_related_instances": of_instances}
    connection.execute(update(study).where(study.c.id == key).values(values))
    collect_again(connection, key)


def _recount_patient(connection: Connection, key: int) -> None:
    """Recount a patient's studies, and delete a patient who has none left."""
    sums = [study.c.number_of_study_related_series, study.c.number_of_study_related_instances]
    counts = select(func.count(), *(func.coalesce(func.sum(each), 0) for each in sums))
    of_studies, of_series, of_instances = connection.execute(counts.where(study.c.patient_fk == key)).one()
    if not of_studies:
        connection.execute(delete(patient).where(patient.c.id == key))
        return
    values = {
        "number_of_patient_related_studies": of_studies,
        "number_of_patient_related_series": of_series,
        "number_of_patient_related_instances": of_instances,
    }
    connection.execute(update(patient).where(patient.c.id == key).values(values))


def _original_item(connection: Connection, study_key: int, decision: Decision) -> dict[str, Any]:
    first = (
        select(instance.c.calling_ae).select_from(instance.join(series)).where(series.c.study_fk == study_key)
        .order_by(instance.c.id).limit(1)
    )  # fmt: skip
    return original_item(
        decision.source,
        decision.target,
        at=decision.at,
        system=decision.system,
        reason="COERCE" if decision.whole else "CORRECT",
        origin=connection.scalar(first) or "",
    )
