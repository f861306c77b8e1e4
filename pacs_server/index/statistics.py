"""How much is stored by study and by day, counted study after study, so that no query takes long."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from sqlalchemy import func, select

from pacs_server.index.database import Database
from pacs_server.index.matching import Clause
from pacs_server.index.models import patient, study

_DAY: Final = {True: "date(instance.received_at)", False: "CAST(instance.received_at AT TIME ZONE 'UTC' AS date)"}


@dataclass(frozen=True, slots=True)
class StudyDay:
    """What is stored of a study, of what was received on one day (UTC); `study` is the id of its row."""

    study: int
    day: date
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class NamedStudy:
    """A study with its patient; `key` is the id of its row."""

    key: int
    study_instance_uid: str
    study_date: str
    study_description: str
    patient_name: str
    patient_id: str


class StatisticsIndex:
    """Counts in one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last_study(self) -> int:
        """The highest id of a study, 0 if there is none."""
        with self._database.connect() as connection:
            return connection.scalar(select(func.max(study.c.id))) or 0

    def sizes(self, after: int, last: int) -> list[StudyDay]:
        """What is stored of the studies with these ids, behind `after` and up to `last`."""
        day = _DAY[self._database.is_sqlite]
        sql = (
            f"SELECT series.study_fk, {day}, count(*), sum(instance.size) "  # noqa: S608 - numbers of our own
            "FROM series JOIN instance ON instance.series_fk = series.id "
            f"WHERE series.study_fk > {int(after)} AND series.study_fk <= {int(last)} GROUP BY series.study_fk, {day}"
        )
        with self._database.rows(*Clause(sql, ()), few=True) as rows:
            return [
                StudyDay(int(key), on if isinstance(on, date) else date.fromisoformat(on), int(count), int(size))
                for key, on, count, size in rows
            ]

    def named(self, keys: Sequence[int]) -> dict[int, NamedStudy]:
        """The studies of these ids that are still there, by id."""
        columns = (
            study.c.id, study.c.study_instance_uid, study.c.study_date, study.c.study_description,
            patient.c.patient_name, patient.c.patient_id,
        )  # fmt: skip
        statement = select(*columns).join(patient, study.c.patient_fk == patient.c.id).where(study.c.id.in_(keys))
        with self._database.connect() as connection:
            return {row.id: NamedStudy(*row) for row in connection.execute(statement)}
