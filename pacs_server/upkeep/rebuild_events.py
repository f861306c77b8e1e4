"""The events of an archive in the order of time, collected in a temporary SQLite file so that memory stays small."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pacs_server.archive.stored_file import StoredFile
from pacs_server.dicom.caller import Door
from pacs_server.dicom.header import Header
from pacs_server.dicom.origin import Origin
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import StorageUnavailable
from pacs_server.index.instances import StoredInstance

_TABLE: Final = "CREATE TABLE event (at TEXT, kind INTEGER, place TEXT, uid TEXT, body TEXT, in_trash INTEGER)"
_ORDER: Final = "CREATE INDEX in_order ON event (at, kind, place)"
_BY_INSTANCE: Final = "CREATE INDEX by_instance ON event (uid, at)"
# Instances with several files: versions, or files that were deleted and received again.
_REPEATED: Final = """
    CREATE TABLE repeated AS SELECT uid FROM event WHERE uid IS NOT NULL GROUP BY uid HAVING count(*) > 1"""
_KEY: Final = "CREATE UNIQUE INDEX is_repeated ON repeated (uid)"
_ALL: Final = """
    SELECT at, kind, body, uid IN (SELECT uid FROM repeated) FROM event ORDER BY at, kind, place"""
_STORED: Final = "SELECT at, body FROM event WHERE uid = ? AND at <= ? AND NOT in_trash ORDER BY at, place"
_ARRIVAL, _DELETION, _DECISION = range(3)


@dataclass(frozen=True, slots=True)
class Arrived:
    """An instance was received; `repeated` if its UID was received more than once."""

    file: StoredFile
    repeated: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """A study, series or instance was deleted; `folder` is its folder in the trash."""

    folder: str


@dataclass(frozen=True, slots=True)
class Decided:
    """An operator merged patients or reassigned a study; `number` is the decision's place in the journal, from 0."""

    number: int


class ArchiveEvents:
    """The events of an archive, in a new file at `path` that the caller removes.

    Every method except `close` raises StorageUnavailable if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent.parent
        self._connection = sqlite3.connect(path, isolation_level=None)
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", _TABLE, "BEGIN"):
            self._execute(statement)
        self.arrivals = 0

    def arrived(self, file: StoredFile, *, in_trash: bool = False) -> None:
        """Note that a file was received."""
        self.arrivals += 1
        instance = file.instance
        self._note(file.received_at, _ARRIVAL, instance.path, instance.uids.sop, _encoded(file), in_trash=in_trash)

    def deleted(self, at: datetime, folder: str) -> None:
        """Note a deletion."""
        self._note(at, _DELETION, folder, None, folder)

    def decided(self, at: datetime, number: int) -> None:
        """Note the decision with that `number`; decisions of one moment keep their order."""
        self._note(at, _DECISION, f"{number:012}", None, str(number))

    def in_order(self) -> Iterator[Arrived | Deleted | Decided]:
        """All events, the oldest first; after this call nothing may be noted any more."""
        for statement in ("COMMIT", _ORDER, _BY_INSTANCE, _REPEATED, _KEY):
            self._execute(statement)
        for at, kind, body, repeated in self._execute(_ALL):
            if kind == _ARRIVAL:
                yield Arrived(_decoded(body, datetime.fromisoformat(at)), bool(repeated))
            else:
                yield Deleted(body) if kind == _DELETION else Decided(int(body))

    def stored(self, sop_instance_uid: str, until: datetime) -> list[StoredFile]:
        """The files of an instance that were received until then and are stored now, the oldest first.

        Can be asked while `in_order` is read.
        """
        found = self._execute(_STORED, (sop_instance_uid, _moment(until)))
        return [_decoded(body, datetime.fromisoformat(at)) for at, body in found]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _note(self, at: datetime, kind: int, place: str, uid: str | None, body: str, *, in_trash: bool = False) -> None:
        self._execute("INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", (_moment(at), kind, place, uid, body, in_trash))

    def _execute(self, statement: str, values: tuple[str | int | None, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StorageUnavailable(
                f"cannot keep notes in {self._folder}: {error}; TMPDIR names another place"
            ) from error


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def _encoded(file: StoredFile) -> str:
    instance, uids, origin = file.instance, file.instance.uids, file.origin
    return json.dumps(
        (
            (uids.study, uids.series, uids.sop),
            (instance.sop_class_uid, instance.transfer_syntax_uid, instance.path, instance.data_set_offset),
            (instance.size, instance.digest, instance.version),
            (origin.calling_ae, origin.peer, origin.move_originator),
            file.header.values,
        )
    )


def _decoded(body: str, received_at: datetime) -> StoredFile:
    named, place, content, sender, values = json.loads(body)
    uids = InstanceUIDs(*named)
    instance = StoredInstance(uids, *place, *content)
    header = Header(uids, instance.sop_class_uid, instance.transfer_syntax_uid, values)
    return StoredFile(instance, header, _origin(*sender), received_at)


def _origin(calling_ae: Any, peer: Any, move_originator: Any) -> Origin:
    return Origin(calling_ae, "", peer, Door.DIMSE, move_originator)
