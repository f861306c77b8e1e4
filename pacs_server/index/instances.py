"""Write instances to the index, with their series, study and patient, and keep the counters.

A batch of instances costs a handful of statements, whatever its size; the batches are made by
`GroupCommit`.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple, cast

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.header import Header
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import DuplicateInstance, IndexUnavailable, InstanceNotFound, PacsError
from pacs_server.index import models
from pacs_server.index.changes import ChangeKind, NewChange, not_arriving, record
from pacs_server.index.database import WRITER_LOCK, Database
from pacs_server.index.deletion_document import unversioned
from pacs_server.index.group_commit import IN_THE_WAY, GroupCommit
from pacs_server.index.parents import COUNTERS, Parents, joined
from pacs_server.index.prepared import Prepared, PreparedForMany, Raw

log = logging.getLogger(__name__)

# Statements are built once, because that costs more than running them.
_KNOWN = PreparedForMany(models.instance.c.sop_instance_uid, select(models.instance.c.sop_instance_uid))
_PATHS = PreparedForMany(
    models.instance.c.sop_instance_uid, select(models.instance.c.sop_instance_uid, models.instance.c.path)
)
_COUNT = "SELECT count(*) FROM instance WHERE sop_instance_uid = ANY (%s)"
_CHECKPOINT = text(
    "INSERT INTO archive_state (key, value) VALUES ('checkpoint', :value) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
# So many UIDs are looked up at a time.
_CHUNK = 64
# Of so many series it is remembered to which study and patient they belong.
_REMEMBERED = 64
_INSERT_INSTANCE = Prepared(
    insert(models.instance)
    .values({column.name: bindparam(column.name) for column in models.instance.c if not column.primary_key})
    .inline()  # nobody asks for its id
)
# The fields of StoredInstance that are columns of the same name.
_STORED = ("sop_class_uid", "transfer_syntax_uid", "path", "data_set_offset", "size", "digest", "version")
_EMPTY = dict.fromkeys((attribute.column for attribute in at_level(Level.IMAGE)), "")


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """Where an instance is stored: `path` is POSIX and relative to the archive root, `size` and offset are bytes.

    `digest` is the SHA-256 of the data set in hexadecimal, `data_set_offset` where that starts in the file.
    """

    uids: InstanceUIDs
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    data_set_offset: int
    size: int
    digest: str
    version: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many patients, studies, series and instances the index holds."""

    patients: int
    studies: int
    series: int
    instances: int


class Arrival(NamedTuple):
    """An instance on its way into the index; `received_at` is in UTC."""

    instance: StoredInstance
    header: Header
    origin: Origin
    received_at: datetime


class _New(NamedTuple):
    """An arrival with the columns of its row except the series; prepared before the thread waits for the lock."""

    header: Header
    values: dict[str, Any]


class InstanceIndex:
    """The instances of one database; `on_commit` is called after every commit with its seconds and instances."""

    def __init__(self, database: Database, *, on_commit: Callable[[float, int], None] | None = None) -> None:
        self._database = database
        self._commits = GroupCommit(database, _write, hasty=_write_new, lock=WRITER_LOCK, on_commit=on_commit)

    def get(self, sop_instance_uid: str) -> StoredInstance | None:
        """The instance of that UID, under the study and series it is indexed in; raises IndexUnavailable."""
        with self._database.connect() as connection:
            row = connection.execute(_LOOK_UP, {"uid": sop_instance_uid}).mappings().one_or_none()
        return None if row is None else stored_of(row)

    def add(
        self,
        instance: StoredInstance,
        header: Header,
        origin: Origin,
        received_at: datetime | None = None,
        *,
        relaxed: bool = False,
    ) -> None:
        """Index an instance, and return when that is committed; raises DuplicateInstance, IndexUnavailable.

        Without `received_at`, in UTC, it was received now. With `relaxed` a power loss may take the row until
        `make_durable` has returned. After IndexUnavailable the row may be there all the same, if the database was lost
        while it committed: the file has to stay where it is.
        """
        arrival = Arrival(instance, header, origin, received_at or datetime.now(UTC))
        self._commits.add(_new(arrival), relaxed=relaxed)

    @property
    def is_embedded(self) -> bool:
        """Whether the database lives and dies with the processes that use it, and on their disk."""
        return self._database.is_sqlite

    @property
    def relaxes(self) -> bool:
        """Whether the database has commits that do not wait for the disk, and keep their order after a power loss."""
        return self._database.relaxes

    def make_durable(self) -> None:
        """Have every row that is committed survive a power loss; raises IndexUnavailable."""
        # SQLite syncs nothing for a row that is written as it was.
        value = {"value": secrets.token_hex(8)}
        self._commits.make_durable(lambda connection: connection.execute(_CHECKPOINT, value))

    def known(self, uids: Sequence[str]) -> dict[str, str]:
        """The paths of the instances that the index holds, by SOP Instance UID; raises IndexUnavailable."""
        with self._database.connect() as connection:
            return paths_of(connection, uids)

    def restore(self, arrivals: Callable[[], Sequence[Arrival]]) -> int:
        """Write the rows of instances that the database has lost, durably, and return their number.

        `arrivals` is called when nobody else can write. While a connection is being checked nothing else of the index
        may be used. Raises IndexUnavailable.
        """
        written = 0
        try:
            with self._database.begin(lock=WRITER_LOCK, unchecked=True) as connection:
                entries = [_new(arrival) for arrival in arrivals()]
                for start in range(0, len(entries), _CHUNK):
                    written += _write(Raw(connection), entries[start : start + _CHUNK]).count(None)
        except IntegrityError as error:
            raise IndexUnavailable(IN_THE_WAY) from error
        return written

    def when_connected(self, check: Callable[[Callable[[list[str]], bool]], None]) -> None:
        """Have each new connection to a database server checked before it is used; see `Database`.

        `check` is given a function that tells whether the connection finds the instances of all UIDs.
        """
        self._database.when_connected(lambda first: check(lambda uids: first(_COUNT, (uids,))[0] == len(set(uids))))

    def add_many(self, arrivals: list[Arrival]) -> list[PacsError | None]:
        """Index instances in one transaction and return what is wrong with each; raises IndexUnavailable."""
        entries = [_new(arrival) for arrival in arrivals]
        with self._commits.alone() as connection:
            return _write(Raw(connection), entries)

    def replace(
        self, instance: StoredInstance, header: Header, origin: Origin, received_at: datetime | None = None
    ) -> None:
        """Replace an instance by another version; raises InstanceNotFound, IndexUnavailable.

        Raises DuplicateInstance unless it is a later version: two processes may have replaced the same one.
        """
        entry = _new(Arrival(instance, header, origin, received_at or datetime.now(UTC)))
        with self._commits.alone() as connection:
            known = connection.execute(_LOOK_UP, {"uid": instance.uids.sop}).one_or_none()
            if known is not None and known.version >= instance.version:
                raise DuplicateInstance(f"{instance.uids.sop} is there in version {known.version}")
            _remove(connection, instance.uids.sop)
            assert known is not None, "a missing instance is not removed"
            was = InstanceUIDs(known.study_instance_uid, known.series_instance_uid, instance.uids.sop)
            if was != instance.uids:
                # Its old study or series has lost it, which the replacement in another place does not tell.
                record(connection, [NewChange(ChangeKind.DELETED, was.study, was.series, was.sop)])
            entry.values["earlier_paths"] = _earlier_paths(known, instance.path)
            with not_arriving(connection, ChangeKind.REPLACED):
                _write(Raw(connection), [entry])

    def remove(self, sop_instance_uid: str) -> None:
        """Remove an instance, and its series, study and patient if they become empty; raises as `replace` does."""
        with self._commits.alone() as connection:
            _remove(connection, sop_instance_uid)
            record(connection, [NewChange(ChangeKind.DELETED, sop_instance_uid=sop_instance_uid)])

    def counts(self) -> Counts:
        """How much the index holds, by its counters; raises IndexUnavailable."""
        sums = [func.coalesce(func.sum(models.patient.c[name]), 0) for name in COUNTERS[models.patient]]
        with self._database.connect() as connection:
            row = connection.execute(select(func.count(), *sums).select_from(models.patient)).one()
        return Counts(*(int(number) for number in row))


def _write(raw: Raw, entries: list[_New]) -> list[PacsError | None]:
    """Write all entries whose instance is not known already, and return what is wrong with each."""
    known = {uid for (uid,) in _KNOWN.all(raw, [entry.header.uids.sop for entry in entries])}
    fresh: list[_New] = []
    errors: list[PacsError | None] = []
    for entry in entries:
        sop = entry.header.uids.sop
        if sop in known:
            errors.append(DuplicateInstance(f"{sop} is stored already"))
        else:
            errors.append(None)
            fresh.append(entry)
        known.add(sop)
    if fresh:
        _insert(raw, fresh)
    return errors


def _write_new(raw: Raw, entries: list[_New]) -> list[PacsError | None]:
    """Write all entries; raises the driver's IntegrityError if an instance is known already."""
    _insert(raw, entries)
    return [None] * len(entries)


def paths_of(connection: Connection, uids: Sequence[str]) -> dict[str, str]:
    """The paths of the instances that are there, by SOP Instance UID."""
    found: dict[str, str] = {}
    raw = Raw(connection)
    for start in range(0, len(uids), _CHUNK):
        found |= dict(_PATHS.all(raw, uids[start : start + _CHUNK]))
    return found


def _insert(raw: Raw, entries: list[_New]) -> None:
    parents = _parents(raw)
    parents.look_up([entry.header for entry in entries])
    placed = [parents.place(entry.header, entry.values["received_at"], entry.values["calling_ae"]) for entry in entries]
    parents.insert()
    for entry, row in zip(entries, placed, strict=True):
        entry.values["series_fk"] = row.values["id"]
    _INSERT_INSTANCE.write(raw, [entry.values for entry in entries])
    parents.update()


def _parents(raw: Raw) -> Parents:
    """The parents as the last transaction left them, if nobody else has written to the embedded database since."""
    if raw.dialect.name != "sqlite":
        return Parents(raw)
    # It changes with every commit of any other connection, in this process or another one.
    (version,) = raw.cursor.execute("PRAGMA data_version").fetchone()
    if raw.memory is not None:
        seen, parents = raw.memory
        if seen == version and len(parents) <= _REMEMBERED:
            return cast("Parents", parents)
    parents = Parents(raw)
    raw.memory = version, parents
    return parents


def _new(entry: Arrival) -> _New:
    stored, origin = entry.instance, entry.origin
    # What is no column of an instance is passed over.
    values: dict[str, Any] = {
        **_EMPTY,
        **entry.header.values,
        "sop_instance_uid": stored.uids.sop,
        "sop_class_uid": stored.sop_class_uid,
        "transfer_syntax_uid": stored.transfer_syntax_uid,
        "path": stored.path,
        "data_set_offset": stored.data_set_offset,
        "size": stored.size,
        "digest": stored.digest,
        "version": stored.version,
        "received_at": entry.received_at,
        "calling_ae": _storable(origin.calling_ae),
        "peer": _storable(origin.peer),
        "move_originator": _storable(origin.move_originator) if origin.move_originator else "",
        "earlier_paths": "",
    }
    return _New(entry.header, values)


def _earlier_paths(known: Any, path: str) -> str:
    """The paths of earlier versions after a replacement; a version beside the current file needs no path."""
    if unversioned(known.path) == unversioned(path):
        return str(known.earlier_paths)
    return "\n".join([*known.earlier_paths.splitlines(), known.path])


# Nearly all instances come from the same few places.
@lru_cache(256)
def _storable(text: str) -> str:
    """The text without NUL and without surrogates from undecodable file names: no database accepts them."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


WITH_UIDS = (
    select(models.instance, models.series.c.series_instance_uid, models.study.c.study_instance_uid)
    .join(models.series, models.series.c.id == models.instance.c.series_fk)
    .join(models.study, models.study.c.id == models.series.c.study_fk)
)
"""The rows of instances as `stored_of` takes them."""
_LOOK_UP = WITH_UIDS.where(models.instance.c.sop_instance_uid == bindparam("uid"))


def stored_of(row: Mapping[Any, Any]) -> StoredInstance:
    """The instance of a row of `WITH_UIDS`."""
    uids = InstanceUIDs(row["study_instance_uid"], row["series_instance_uid"], row["sop_instance_uid"])
    return StoredInstance(uids, **{name: row[name] for name in _STORED})


def _remove(connection: Connection, sop_instance_uid: str) -> None:
    """Delete an instance and the rows above it that become empty; lower the counters of the others."""
    patient, study, series, instance = (models.TABLES[level] for level in Level)
    found = connection.execute(
        select(instance.c.id, instance.c.series_fk, series.c.study_fk, study.c.patient_fk)
        .join(series, series.c.id == instance.c.series_fk)
        .join(study, study.c.id == series.c.study_fk)
        .where(instance.c.sop_instance_uid == sop_instance_uid)
    ).one_or_none()
    if found is None:
        raise InstanceNotFound(f"{sop_instance_uid} is not in the index")
    connection.execute(delete(instance).where(instance.c.id == found.id))
    last_in_series = take_off(connection, series, found.series_fk, instances=1)
    last_in_study = take_off(connection, study, found.study_fk, instances=1, series=int(last_in_series))
    gone = {"instances": 1, "series": int(last_in_series), "studies": int(last_in_study)}
    take_off(connection, patient, found.patient_fk, **gone)
    if not last_in_study:
        collect_again(connection, found.study_fk)


def take_off(connection: Connection, table: Table, key: int, **gone: int) -> bool:
    """Lower the counters of a row. If no instance is left, delete the row and return True."""
    counters = {table.c[f"number_of_{table.name}_related_{what}"]: count for what, count in gone.items()}
    instances = table.c[f"number_of_{table.name}_related_instances"]
    last = connection.scalar(select(instances).where(table.c.id == key)) == gone["instances"]
    changed = update(table).values({counter.name: counter - count for counter, count in counters.items()})
    connection.execute((delete(table) if last else changed).where(table.c.id == key))
    return last


def collect_again(connection: Connection, study_key: int) -> None:
    """Compute the modalities and SOP classes of a study again from its remaining instances."""
    series, instance = models.series, models.instance
    modalities = connection.scalars(select(series.c.modality).where(series.c.study_fk == study_key).distinct())
    classes = connection.scalars(
        select(instance.c.sop_class_uid).join(series).where(series.c.study_fk == study_key).distinct()
    )
    values = {"modalities_in_study": joined(modalities), "sop_classes_in_study": joined(classes)}
    connection.execute(update(models.study).where(models.study.c.id == study_key).values(values))
