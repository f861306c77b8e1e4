"""What an index holds, so that two of them can be compared."""

from typing import Any

from sqlalchemy import func, select

from pacs_server.index import archive_models, models
from pacs_server.index.database import Database

_LEVELS = (models.instance, models.series, models.study, models.patient)


def contents(database: Database) -> dict[str, Any]:
    """What an index knows of instances, by column and whatever numbers its rows have, of deletions and of changes."""
    columns = [column.label(f"{table.name}.{column.name}") for table in _LEVELS for column in table.c if _told(column)]
    joined = select(*columns).select_from(
        models.instance.join(models.series, models.series.c.id == models.instance.c.series_fk)
        .join(models.study, models.study.c.id == models.series.c.study_fk)
        .join(models.patient, models.patient.c.id == models.study.c.patient_fk)
    )
    with database.connect() as connection:
        rows = [dict(row) for row in connection.execute(joined).mappings()]
        counts = {table.name: connection.scalar(select(func.count()).select_from(table)) for table in _LEVELS}
        deletions = [_plain(row) for row in connection.execute(select(archive_models.deletion)).mappings()]
        aliases = [_plain(row) for row in connection.execute(select(models.patient_alias)).mappings()]
    return {
        "instances": {row["instance.sop_instance_uid"]: _naive(row) for row in rows},
        "counts": counts,
        "deletions": sorted(deletions, key=lambda row: row["folder"]),
        "aliases": sorted(aliases, key=repr),
    }


def clear(database: Database) -> None:
    """Remove every row."""
    with database.begin() as connection:
        for table in reversed(models.metadata.sorted_tables):
            connection.execute(table.delete())


def _told(column: Any) -> bool:
    # When a study came first stays as it was when its first instance is deleted, which a new index cannot know.
    if column is models.study.c.received_at:
        return False
    return column.name != "id" and not column.name.endswith("_fk")


def _plain(row: Any) -> dict[str, Any]:
    return _naive({name: value for name, value in row.items() if name != "id"})


def _naive(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.replace(tzinfo=None) if hasattr(value, "tzinfo") else value for name, value in row.items()}
