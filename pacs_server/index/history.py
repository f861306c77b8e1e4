"""How the instances of a study came, in SQL."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from pacs_server.index.archive_models import deletion
from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.models import instance, series, study


@dataclass(frozen=True, slots=True)
class Reception:
    """Instances that came from one source, `first` and `last` at these moments; `bytes` is their size."""

    calling_ae: str
    address: str
    instances: int
    bytes: int
    first: datetime
    last: datetime


class HistoryIndex:
    """What one database tells of the past of a study; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receptions(self, study_instance_uid: str) -> list[Reception]:
        """What came of a study, by source and series, the first first."""
        key = (instance.c.calling_ae, instance.c.peer, series.c.id)
        first, last = func.min(instance.c.received_at), func.max(instance.c.received_at)
        statement = (
            select(instance.c.calling_ae, instance.c.peer, func.count(), func.sum(instance.c.size), first, last)
            .join(series, series.c.id == instance.c.series_fk)
            .join(study, study.c.id == series.c.study_fk)
            .where(study.c.study_instance_uid == study_instance_uid)
            .group_by(*key)
            .order_by(first, series.c.id)
        )
        with self._database.connect() as connection:
            rows = connection.execute(statement).all()
        return [Reception(ae, peer, n, int(size), in_utc(begin), in_utc(end)) for ae, peer, n, size, begin, end in rows]

    def deletions(self, study_instance_uid: str) -> list[str]:
        """The folders of what is in the trash of a study, the first deleted first."""
        of_study = select(deletion.c.folder).where(deletion.c.study_instance_uid == study_instance_uid)
        with self._database.connect() as connection:
            return list(connection.scalars(of_study.order_by(deletion.c.folder)))
