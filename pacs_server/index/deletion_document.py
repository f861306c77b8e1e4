"""Deletions as values and as the text of deletion.json, which a restore and a rebuild of the index read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import DateTime, Table

from pacs_server.dicom.levels import Level
from pacs_server.errors import StorageUnavailable
from pacs_server.index.models import TABLES
from pacs_server.index.parents import COUNTERS

_FORMAT: Final = 1
_NAMES: Final = {Level.PATIENT: "patients", Level.STUDY: "studies", Level.SERIES: "series", Level.IMAGE: "instances"}

Row = Mapping[str, Any]


class DeletionStatus(StrEnum):
    """The state of a deletion: being moved into the trash, kept there, or being purged."""

    MOVING = "MOVING"
    KEPT = "KEPT"
    REMOVING = "REMOVING"


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion: what was deleted, by whom and why. `folder` is its directory in the trash, `bytes` its total size."""

    folder: str
    level: Level
    uid: str
    study_instance_uid: str
    reason: str
    deleted_by: str
    deleted_at: datetime
    instances: int
    bytes: int
    status: DeletionStatus


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the index by column, without counters. Ids and foreign keys only connect these rows with each other."""

    patients: tuple[Row, ...]
    studies: tuple[Row, ...]
    series: tuple[Row, ...]
    instances: tuple[Row, ...]

    def only(self, sop_instance_uids: set[str]) -> "Rows":
        """Only these instances, with the series, studies and patients above them."""
        instances = tuple(row for row in self.instances if row["sop_instance_uid"] in sop_instance_uids)
        series = _above(instances, "series_fk", self.series)
        studies = _above(series, "study_fk", self.studies)
        return Rows(_above(studies, "patient_fk", self.patients), studies, series, instances)


@dataclass(frozen=True, slots=True)
class Document:
    """The contents of deletion.json. `files` are paths below the archive's root: all versions of all instances."""

    deletion: Deletion
    rows: Rows
    files: tuple[str, ...]

    def only(self, sop_instance_uids: set[str]) -> "Document":
        """The part of the document that is about these instances."""
        rows = self.rows.only(sop_instance_uids)
        size = sum(row["size"] for row in rows.instances)
        deletion = replace(self.deletion, instances=len(rows.instances), bytes=size)
        files = tuple(path for paths in self.files_of(rows).values() for path in paths)
        return Document(deletion, rows, files)

    def files_of(self, rows: Rows) -> dict[str, tuple[str, ...]]:
        """The files of each of these instances by its SOP Instance UID."""
        by_name: dict[str, list[str]] = {}
        for path in self.files:
            by_name.setdefault(unversioned(path), []).append(path)
        return {
            row["sop_instance_uid"]: tuple(path for name in names_of(row) for path in by_name.get(name, ()))
            for row in rows.instances
        }


def names_of(row: Row) -> list[str]:
    """The paths of an instance's files without version suffixes; the path of the current version comes first."""
    # Documents of earlier releases hold only the current path.
    earlier = row.get("earlier_paths", "").splitlines()
    return list(dict.fromkeys(unversioned(path) for path in (row["path"], *earlier)))


def unversioned(path: str) -> str:
    """The path of a file without its version suffix, such as `.v2`; no component of a UID begins with v."""
    stem = path.removesuffix(".dcm")
    head, _, last = stem.rpartition(".")
    return head if last[:1] == "v" and last[1:].isdigit() else stem


def encode(document: Document) -> str:
    """The text of deletion.json."""
    deletion = document.deletion
    value: dict[str, Any] = {
        "format": _FORMAT,
        "level": deletion.level.name,
        "uid": deletion.uid,
        "study_instance_uid": deletion.study_instance_uid,
        "reason": deletion.reason,
        "deleted_by": deletion.deleted_by,
        "deleted_at": deletion.deleted_at.isoformat(),
        "instances": deletion.instances,
        "bytes": deletion.bytes,
    }
    value["rows"] = {name: [_plain(row) for row in getattr(document.rows, name)] for name in _NAMES.values()}
    return json.dumps(value | {"files": document.files}, ensure_ascii=False, indent=1) + "\n"


def decode(text: str, folder: str) -> Document:
    """Parse the text of a deletion.json; raises StorageUnavailable if it is damaged. The status is KEPT."""
    try:
        value = json.loads(text)
        if value["format"] != _FORMAT:
            raise StorageUnavailable(f"trash/{folder}: deletion.json is of a later version of this program")
        deletion = Deletion(
            folder, Level[value["level"]], value["uid"], value["study_instance_uid"], value["reason"],
            value["deleted_by"], datetime.fromisoformat(value["deleted_at"]), int(value["instances"]),
            int(value["bytes"]), DeletionStatus.KEPT,
        )  # fmt: skip
        rows = Rows(*(tuple(_rows(table, value["rows"][_NAMES[level]])) for level, table in TABLES.items()))
        return Document(deletion, rows, tuple(value["files"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageUnavailable(f"trash/{folder}: deletion.json is damaged") from error


def saved_columns(table: Table) -> list[str]:
    """The columns of a table that a document holds. Counters are left out, because they follow from the instances."""
    counters = COUNTERS.get(table, ())
    return [name for name in table.c.keys() if name not in counters]  # noqa: SIM118 - not a mapping


def in_utc(moment: datetime) -> datetime:
    """A time from either database in UTC: SQLite returns it without a zone, PostgreSQL in the zone of the session."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _plain(row: Row) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _rows(table: Table, rows: list[dict[str, Any]]) -> Iterator[Row]:
    known = set(saved_columns(table))
    times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
    for row in rows:
        dated = {name: datetime.fromisoformat(row[name]) for name in times if row.get(name)}
        # Columns that the schema no longer has are ignored.
        yield {name: value for name, value in (row | dated).items() if name in known}


def _above(rows: tuple[Row, ...], key: str, parents: tuple[Row, ...]) -> tuple[Row, ...]:
    wanted = {row[key] for row in rows}
    return tuple(parent for parent in parents if parent["id"] in wanted)
