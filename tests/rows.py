"""Rows for every table of the index, with a value in every column, and all rows that there are."""

from collections.abc import Iterable
from typing import Any

from pydicom.uid import CTImageStorage
from sqlalchemy import Connection, MetaData, Table, select, text

from pacs_server.index.database import Database

STUDIES, PER_STUDY = 3, 2
_EXPLICIT = "1.2.840.10008.1.2.1"
_STATUS = {"worklist_item": "SCHEDULED", "procedure_step": "COMPLETED", "commitment": "REPORTED", "deletion": "KEPT"}
_MOMENT = "2026-01-05 09:30:00.123456"


def fill(connection: Connection, tables: Iterable[Table]) -> None:
    """Put rows into these tables, which are empty; those that others refer to come first."""
    for table in tables:
        for number in range(1, _rows_of(table) + 1):
            _insert(connection, table, number)
        if "id" in table.columns and connection.dialect.name == "postgresql":
            sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
            connection.execute(text(f"SELECT setval({sequence}, {_rows_of(table)})"))


def _rows_of(table: Table) -> int:
    return STUDIES * PER_STUDY if table.name == "instance" else STUDIES


def _insert(connection: Any, table: Table, number: int) -> None:
    """A row, past SQLAlchemy's types: what is in the columns is what the SQL of that time would have put there."""
    values = {column.name: _value(table.name, column, number) for column in table.columns}
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(text(f'INSERT INTO "{table.name}" ({names}) VALUES ({places})'), values)


def _value(table: str, column: Any, number: int) -> object:
    parent = (number - 1) // PER_STUDY + 1 if table == "instance" else number
    fixed: dict[str, object] = {
        "study_instance_uid": f"1.2.{number}",
        "series_instance_uid": f"1.3.{number}",
        "sop_instance_uid": f"1.4.{number}",
        "sop_class_uid": str(CTImageStorage),
        "transfer_syntax_uid": _EXPLICIT,
        "path": f"1.2.{parent}/1.3.{parent}/1.4.{number}.dcm",
        "number_of_patient_related_studies": 1,
        "number_of_patient_related_series": 1,
        "number_of_study_related_series": 1,
        "number_of_patient_related_instances": PER_STUDY,
        "number_of_study_related_instances": PER_STUDY,
        "number_of_series_related_instances": PER_STUDY,
    }
    if column.name in fixed:
        return fixed[column.name]
    if column.name in ("status", "level"):
        return _STATUS.get(table, number) if column.name == "status" else "STUDY"
    if column.name == "id":
        return number
    if column.name.endswith("_fk"):
        return parent
    kind = column.type.python_type.__name__
    if kind == "datetime":
        return _MOMENT
    if kind == "bytes":
        return b"\0%d" % number
    if kind in ("int", "bool"):
        return (number % 2 == 0) if kind == "bool" else number
    # Letters of several scripts, and what SQL would stumble over.
    if column.name == "data_set" or column.name.endswith("_sequence"):
        return "{}" if column.name == "data_set" else ""
    return f"{column.name} {number} 'Ä山%_"


def everything(database: Database) -> dict[str, list[dict[str, object]]]:
    """All rows of all tables but the version, in the order of their keys."""
    tables = MetaData()
    with database.connect() as connection:
        tables.reflect(connection)
        return {
            table.name: [dict(row) for row in connection.execute(_ordered(table)).mappings()]
            for table in tables.sorted_tables
            if table.name != "alembic_version"
        }


def _ordered(table: Table) -> Any:
    return select(table).order_by(*table.primary_key.columns)
