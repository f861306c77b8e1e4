"""Deletions in the index: take rows out, put them back, and list the contents of the trash."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, insert, select, update

from pacs_server.dicom.levels import Level
from pacs_server.dicom.original_attributes import earlier
from pacs_server.dicom.same_patient import Identity, compatible
from pacs_server.errors import InstanceNotFound
from pacs_server.index.archive_models import deletion as table
from pacs_server.index.changes import ChangeKind, NewChange, not_arriving, record
from pacs_server.index.commitment import CommitmentStatus
from pacs_server.index.database import WRITER_LOCK, Database
from pacs_server.index.decisions import Decision, follow
from pacs_server.index.deletion_document import Deletion, DeletionStatus, Document, Row, Rows, in_utc, saved_columns
from pacs_server.index.instances import collect_again, paths_of, take_off
from pacs_server.index.models import instance, patient, series, study
from pacs_server.index.workflow_models import commitment, commitment_instance

_CHUNK: Final = 1000


class DeletionIndex:
    """The deletions of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def look_up(self, level: Level, uid: str) -> Rows:
        """The rows that a UID at STUDY, SERIES or IMAGE level stands for; raises InstanceNotFound."""
        with self._database.connect() as connection:
            rows = _read(connection, level, uid)
        if not rows.instances:
            raise InstanceNotFound(f"no {_NOUN[level]} of this UID is in the archive")
        return rows

    def take_out(self, document: Document, confirm: Callable[[], None]) -> bool:
        """Remove the rows of a deletion and store the deletion as MOVING, unless the rows have changed meanwhile.

        `confirm` is called just before the commit; if it raises, nothing is changed.
        """
        deletion = document.deletion
        with self._database.begin(lock=WRITER_LOCK) as connection:
            if _read(connection, deletion.level, deletion.uid) != document.rows:
                return False
            _take_out(connection, document.rows)
            connection.execute(insert(table).values(_columns(deletion, DeletionStatus.MOVING)))
            record(connection, _deleted(deletion, document.rows))
            confirm()
        return True

    def put_back(
        self,
        rows: Rows,
        folder: str,
        left: Deletion | None,
        confirm: Callable[[], None],
        decided: Callable[[], Iterable[Decision]] = tuple,
    ) -> bool:
        """Put rows back, and store what is `left` of the deletion.

        Returns False and changes nothing if a UID is in use again.

        `confirm` is as for `take_out`. Studies that are there again go where `decided` sent their patients meanwhile.
        """
        with self._database.begin(lock=WRITER_LOCK) as connection:
            if paths_of(connection, [row["sop_instance_uid"] for row in rows.instances]):
                return False
            with not_arriving(connection, ChangeKind.RESTORED):
                missing = _put_back(connection, rows)
            follow(connection, decided(), missing)
            if left is None:
                connection.execute(delete(table).where(table.c.folder == folder))
            else:
                values = {"instances": left.instances, "bytes": left.bytes}
                connection.execute(update(table).where(table.c.folder == folder).values(values))
            confirm()
        return True

    def replay(self, document: Document) -> None:
        """Repeat a deletion in an index that is being rebuilt, and store it as KEPT."""
        deletion = document.deletion
        with self._database.begin(lock=WRITER_LOCK) as connection:
            # Instances that were restored since are no longer in the document, and stay.
            deleted = {row["sop_instance_uid"] for row in document.rows.instances}
            rows = _read(connection, deletion.level, deletion.uid).only(deleted)
            if rows.instances:
                _take_out(connection, rows)
            _adopt(connection, deletion)

    def adopt(self, deletion: Deletion) -> None:
        """Store a deletion that is in the trash and not in the index."""
        with self._database.begin(lock=WRITER_LOCK) as connection:
            _adopt(connection, deletion)

    def list(self) -> list[Deletion]:
        """All deletions, the oldest first."""
        with self._database.connect() as connection:
            rows = connection.execute(select(table).order_by(table.c.deleted_at, table.c.id))
            return [_deletion(row) for row in rows]

    def page(self, limit: int, after: str | None = None) -> Sequence[Deletion]:
        """The newest deletions, `limit` at most, or those whose folder comes before the folder `after`."""
        # The name of a folder begins with the time of the deletion.
        statement = select(table).order_by(table.c.folder.desc()).limit(limit)
        if after is not None:
            statement = statement.where(table.c.folder < after)
        with self._database.connect() as connection:
            return [_deletion(row) for row in connection.execute(statement)]

    def get(self, folder: str) -> Deletion | None:
        """The deletion of that folder."""
        with self._database.connect() as connection:
            row = connection.execute(select(table).where(table.c.folder == folder)).one_or_none()
        return None if row is None else _deletion(row)

    def set_status(self, folder: str, status: DeletionStatus) -> None:
        """Set the status of a deletion."""
        with self._database.begin() as connection:
            connection.execute(update(table).where(table.c.folder == folder).values(status=status))

    def forget(self, folder: str) -> None:
        """Remove a deletion whose files are no longer in the trash."""
        with self._database.begin() as connection:
            connection.execute(delete(table).where(table.c.folder == folder))

    def known(self, uids: Sequence[str]) -> dict[str, str]:
        """The paths of the given instances by SOP Instance UID, as far as they are in the index."""
        with self._database.connect() as connection:
            return paths_of(connection, uids)


_NOUN: Final = {Level.STUDY: "study", Level.SERIES: "series", Level.IMAGE: "instance"}


# ------------------------------------------------------------------------------------ out


def _series_of(level: Level, uid: str) -> ColumnElement[bool]:
    if level is Level.STUDY:
        return series.c.study_fk.in_(select(study.c.id).where(study.c.study_instance_uid == uid))
    if level is Level.SERIES:
        return series.c.series_instance_uid == uid
    return series.c.id.in_(select(instance.c.series_fk).where(instance.c.sop_instance_uid == uid))


def _instances_of(level: Level, uid: str) -> ColumnElement[bool]:
    if level is Level.IMAGE:
        return instance.c.sop_instance_uid == uid
    return instance.c.series_fk.in_(select(series.c.id).where(_series_of(level, uid)))


def _read(connection: Connection, level: Level, uid: str) -> Rows:
    studies = select(series.c.study_fk).where(_series_of(level, uid))
    patients = select(study.c.patient_fk).where(study.c.id.in_(studies))
    return Rows(
        _rows(connection, patient, patient.c.id.in_(patients)),
        _rows(connection, study, study.c.id.in_(studies)),
        _rows(connection, series, _series_of(level, uid)),
        _rows(connection, instance, _instances_of(level, uid)),
    )


def _rows(connection: Connection, of: Table, condition: ColumnElement[bool]) -> tuple[Row, ...]:
    columns = [of.c[name] for name in saved_columns(of)]
    found = connection.execute(select(*columns).where(condition).order_by(of.c.id)).mappings()
    if of is instance:
        return tuple({**row, "received_at": in_utc(row["received_at"])} for row in found)
    return tuple(dict(row) for row in found)


def _deleted(deletion: Deletion, rows: Rows) -> list[NewChange]:
    """The changes to record: one for each study that lost instances."""
    series_uid = "" if deletion.level is Level.STUDY else rows.series[0]["series_instance_uid"]
    sop_uid = deletion.uid if deletion.level is Level.IMAGE else ""
    studies = sorted({row["study_instance_uid"] for row in rows.studies})
    return [NewChange(ChangeKind.DELETED, study, series_uid, sop_uid) for study in studies]


def _take_out(connection: Connection, rows: Rows) -> None:
    """Delete instances, and series, studies and patients that become empty; lower the counters of the others."""
    for start in range(0, len(rows.instances), _CHUNK):
        some = rows.instances[start : start + _CHUNK]
        _verify_again(connection, [row["sop_instance_uid"] for row in some])
        connection.execute(delete(instance).where(instance.c.id.in_([row["id"] for row in some])))
    lost = Counter(row["series_fk"] for row in rows.instances)
    emptied: Counter[int] = Counter()
    for row in rows.series:
        if take_off(connection, series, row["id"], instances=lost[row["id"]]):
            emptied[row["study_fk"]] += 1
    lost_by_study: Counter[int] = Counter()
    for row in rows.series:
        lost_by_study[row["study_fk"]] += lost[row["id"]]
    for row in rows.studies:
        gone = {"instances": lost_by_study[row["id"]], "series": emptied[row["id"]]}
        last = take_off(connection, study, row["id"], **gone)
        take_off(connection, patient, row["patient_fk"], **gone, studies=int(last))
        if not last:
            collect_again(connection, row["id"])


def _verify_again(connection: Connection, uids: Sequence[str]) -> None:
    """Make storage commitment verify instances again, in case it has verified them and not reported yet."""
    unreported = select(commitment.c.id).where(commitment.c.status != CommitmentStatus.REPORTED)
    connection.execute(
        update(commitment_instance)
        .where(commitment_instance.c.commitment_fk.in_(unreported), commitment_instance.c.sop_instance_uid.in_(uids))
        .values(failure_reason=None)
    )


# ------------------------------------------------------------------------------------ back in


def _put_back(connection: Connection, rows: Rows) -> set[str]:
    """Insert instances and the missing rows above them, and raise the counters; returns the studies it added."""
    uids = [row["study_instance_uid"] for row in rows.studies]
    there = set(connection.scalars(select(study.c.id).where(study.c.study_instance_uid.in_(uids))))
    patients = {row["id"]: row for row in rows.patients}
    studies: dict[int, int] = {}
    series_keys: dict[int, int] = {}
    for row in rows.studies:
        studies[row["id"]] = _study(connection, row, patients[row["patient_fk"]])
    for row in rows.series:
        series_keys[row["id"]] = _series(connection, row, studies[row["study_fk"]])
    new = [_without_id(row) | {"series_fk": series_keys[row["series_fk"]]} for row in rows.instances]
    for start in range(0, len(new), _CHUNK):
        connection.execute(insert(instance), new[start : start + _CHUNK])
        _verify_again(connection, [row["sop_instance_uid"] for row in new[start : start + _CHUNK]])
    for key, count in Counter(row["series_fk"] for row in new).items():
        _count(connection, series, key, instances=count)
        above = connection.execute(
            select(study.c.id, study.c.patient_fk).where(
                study.c.id.in_(select(series.c.study_fk).where(series.c.id == key))
            )
        ).one()
        _count(connection, study, above.id, instances=count)
        _count(connection, patient, above.patient_fk, instances=count)
    for key in studies.values():
        collect_again(connection, key)
    return {row["study_instance_uid"] for row in rows.studies if studies[row["id"]] not in there}


def _patient(connection: Connection, row: Row) -> int:
    """The id of the patient, who is inserted again if missing. Another person of the same ID is another patient."""
    same = and_(*(patient.c[name] == row[name] for name in ("patient_id", "issuer_of_patient_id")))
    # An empty Patient ID identifies nobody.
    if row["patient_id"]:
        for known in connection.execute(select(patient).where(same).order_by(patient.c.id)).mappings():
            if compatible(Identity.of(known), Identity.of(row)):  # type: ignore[arg-type]
                return int(known["id"])
    variant = _next_variant(connection, patient, same) if row["patient_id"] else row["variant"]
    return _insert(connection, patient, _without_id(row) | {"variant": variant})


def _study(connection: Connection, row: Row, above: Row) -> int:
    same = study.c.study_instance_uid == row["study_instance_uid"]
    key = _study_of(connection, same, Identity.of(above))
    if key is not None:
        return key
    patient_key = _patient(connection, above)
    _count(connection, patient, patient_key, studies=1)
    variant = _next_variant(connection, study, same)
    return _insert(connection, study, _without_id(row) | {"patient_fk": patient_key, "variant": variant})


def _study_of(connection: Connection, same: ColumnElement[bool], who: Identity) -> int | None:
    """The id of a patient's study; otherwise of the study that was theirs before an operator reassigned it."""
    columns = study.c.id.label("study_key"), study.c.original_attributes_sequence, patient
    statement = select(*columns).join(patient).where(same).order_by(study.c.id)
    was_theirs = None
    for known in connection.execute(statement).mappings():
        now = Identity.of(known)  # type: ignore[arg-type]
        if compatible(now, who):
            return int(known["study_key"])
        items = json.loads(known["original_attributes_sequence"] or "[]")
        if any(compatible(each, who) for each in earlier(items, now)):
            was_theirs = int(known["study_key"])
    return was_theirs


def _next_variant(connection: Connection, of: Table, same: ColumnElement[bool]) -> int:
    return int(connection.scalar(select(func.coalesce(func.max(of.c.variant) + 1, 0)).where(same)) or 0)


def _series(connection: Connection, row: Row, study_key: int) -> int:
    same = series.c.series_instance_uid == row["series_instance_uid"]
    key: int | None = connection.scalar(select(series.c.id).where(same, series.c.study_fk == study_key))
    if key is not None:
        return key
    _count(connection, study, study_key, series=1)
    owner = connection.scalar(select(study.c.patient_fk).where(study.c.id == study_key))
    _count(connection, patient, owner, series=1)
    return _insert(connection, series, _without_id(row) | {"study_fk": study_key})


def _insert(connection: Connection, of: Table, values: Row) -> int:
    key: int = connection.execute(insert(of).values(**values).returning(of.c.id)).scalar_one()
    return key


def _count(connection: Connection, of: Table, key: int | None, **more: int) -> None:
    counters = {of.c[f"number_of_{of.name}_related_{what}"]: count for what, count in more.items()}
    values = {counter.name: counter + count for counter, count in counters.items()}
    connection.execute(update(of).where(of.c.id == key).values(values))


def _without_id(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "id"}


# ------------------------------------------------------------------------------------ the table of deletions


def _adopt(connection: Connection, deletion: Deletion) -> None:
    if connection.execute(select(table.c.id).where(table.c.folder == deletion.folder)).first() is None:
        connection.execute(insert(table).values(_columns(deletion, DeletionStatus.KEPT)))


def _columns(deletion: Deletion, status: DeletionStatus) -> dict[str, Any]:
    return asdict(deletion) | {"level": deletion.level.name, "status": status}


def _deletion(row: Any) -> Deletion:
    values = {name: getattr(row, name) for name in Deletion.__dataclass_fields__}
    values |= {"level": Level[row.level], "status": DeletionStatus(row.status)}
    return Deletion(**values | {"deleted_at": in_utc(row.deleted_at)})
