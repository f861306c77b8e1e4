"""Deletions as values, and as the text of deletion.json: all that restoring them or building the index anew needs."""

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
    """Where a deletion stands: on its way into the trash, in it, or on its way out for good."""

    MOVING = "MOVING"
    KEPT = "KEPT"
    REMOVING = "REMOVING"


@dataclass(frozen=True, slots=True)
class Deletion:
    """What was deleted, by whom and why; `folder` is its directory in the trash, `bytes` what its instances take."""

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
    """Rows of the index, by column and without counters; ids and foreign keys tie them to one another, nothing else."""

    patients: tuple[Row, ...]
    studies: tuple[Row, ...]
    series: tuple[Row, ...]
    instances: tuple[Row, ...]

    def only(self, sop_instance_uids: set[str]) -> "Rows":
        """These instances, and what is above them."""
        instances = tuple(row for row in self.instances if row["sop_instance_uid"] in sop_instance_uids)
        series = _above(instances, "series_fk", self.series)
        studies = _above(series, "study_fk", self.studies)
        return Rows(_above(studies, "patient_fk", self.patients), studies, series, instances)


@dataclass(frozen=True, slots=True)
class Document:
    """What deletion.json holds; `files` are the paths below the archive's root, all versions of all instances."""

    deletion: Deletion
    rows: Rows
    files: tuple[str, ...]

    def only(self, sop_instance_uids: set[str]) -> "Document":
        """The part about these instances."""
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
    """Under which names, without what tells versions apart, the files of an instance lie, the present one first."""
    # Documents of earlier releases know the present one only.
    earlier = row.get("earlier_paths", "").splitlines()
    return list(dict.fromkeys(unversioned(path) for path in (row["path"], *earlier)))


def unversioned(path: str) -> str:
    """The path of an instance's file without what tells its versions apart: no component of a UID begins with v."""
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
    """The document that a deletion.json holds, as one that is kept; raises StorageUnavailable if it is none."""
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
    """The columns of a table that are kept; the counters follow from the instances."""
    counters = COUNTERS.get(table, ())
    return [name for name in table.c.keys() if name not in counters]  # noqa: SIM118 - not a mapping


def in_utc(moment: datetime) -> datetime:
    """A time as either database gives it: SQLite keeps UTC without saying so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _plain(row: Row) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def _rows(table: Table, rows: list[dict[str, Any]]) -> Iterator[Row]:
    known = set(saved_columns(table))
    times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
    for row in rows:
        dated = {name: datetime.fromisoformat(row[name]) for name in times if row.get(name)}
        # What a later schema no longer has is of no use.
        yield {name: value for name, value in (row | dated).items() if name in known}


def _above(rows: tuple[Row, ...], key: str, parents: tuple[Row, ...]) -> tuple[Row, ...]:
    wanted = {row[key] for row in rows}
    return tuple(parent for parent in parents if parent["id"] in wanted)
