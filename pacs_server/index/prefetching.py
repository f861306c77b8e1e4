"""Prefetching in SQL: for which items of the worklist earlier studies are fetched, and which of these are here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import case, delete, exists, func, insert, literal, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.dicom.worklist import SHOWN
from pacs_server.index.database import Database
from pacs_server.index.fetching_models import prefetch_item, prefetch_prior, remote_study
from pacs_server.index.models import study
from pacs_server.index.workflow_models import worklist_item

_item, _prior, _planned = prefetch_item.c, prefetch_prior.c, worklist_item.c
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Planned:
    """An examination that is planned: the id of its worklist item, and what is asked for because of it."""

    item_id: int
    patient_id: str
    modality: str
    date: str
    time: str
    asked_for: str


@dataclass(frozen=True, slots=True)
class Prior:
    """An earlier study of a patient; `remote` is where it is fetched from, '' if it was here."""

    study_instance_uid: str
    remote: str = ""
    study_date: str = ""
    modalities: str = ""
    is_here: bool = False


@dataclass(frozen=True, slots=True)
class Priors:
    """How many earlier studies of an item are to be here, how many are, and why a remote could not be asked."""

    wanted: int
    here: int
    last_error: str


class PrefetchIndex:
    """What is prefetched, in one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = (sqlite if database.is_sqlite else postgresql).insert

    def planned(self, first_day: str, limit: int) -> list[Planned]:
        """The examinations that are planned from a day on (YYYYMMDD), the next ones first."""
        day = _planned.scheduled_procedure_step_start_date
        rows = (
            select(
                *(_planned.id, _planned.patient_id, _planned.modality, day),
                *(_planned.scheduled_procedure_step_start_time, func.coalesce(_item.signature, "")),
            )
            .select_from(worklist_item.outerjoin(prefetch_item, _item.item_id == _planned.id))
            .where(_planned.status.in_(SHOWN), day >= first_day, _planned.patient_id != "")
            .order_by(day, _planned.id)
            .limit(limit)
        )
        with self._database.connect() as connection:
            return [Planned(*row) for row in connection.execute(rows)]

    def ask(self, item_id: int, signature: str) -> None:
        """Keep what is being asked for because of an item."""
        new: Any = self._insert(prefetch_item).values(item_id=item_id, signature=signature)
        upsert = new.on_conflict_do_update(index_elements=["item_id"], set_={"signature": signature})
        with self._database.begin() as connection:
            connection.execute(upsert)

    def answer(self, item_id: int, priors: Sequence[Prior], now: datetime, last_error: str) -> None:
        """Keep which earlier studies were chosen for an item."""
        names = ("study_instance_uid", "remote", "study_date", "modalities")
        rows = [{"item_id": item_id, **{name: getattr(each, name) for name in names}} for each in priors]
        with self._database.begin() as connection:
            connection.execute(
                prefetch_item.update().where(_item.item_id == item_id).values(asked_at=now, last_error=last_error)
            )
            connection.execute(delete(prefetch_prior).where(_prior.item_id == item_id))
            if rows:
                connection.execute(insert(prefetch_prior), rows)

    def forget(self, item_id: int) -> None:
        """Forget an item that is planned no more."""
        with self._database.begin() as connection:
            connection.execute(delete(prefetch_prior).where(_prior.item_id == item_id))
            connection.execute(delete(prefetch_item).where(_item.item_id == item_id))

    def counts(self, items: Collection[int]) -> dict[int, Priors]:
        """How many earlier studies are wanted and here, by item; items that nobody was asked for are left out."""
        here = func.sum(case((_is_here(), 1), else_=0))
        rows = (
            select(_item.item_id, func.count(_prior.study_instance_uid), func.coalesce(here, 0), _item.last_error)
            .select_from(prefetch_item.outerjoin(prefetch_prior, _prior.item_id == _item.item_id))
            .where(_item.asked_at.is_not(None))
            .group_by(_item.item_id, _item.last_error)
        )
        wanted, found = list(items), dict[int, Priors]()
        with self._database.connect() as connection:
            for start in range(0, len(wanted), _CHUNK):
                some = rows.where(_item.item_id.in_(wanted[start : start + _CHUNK]))
                found |= {
                    key: Priors(count, int(there), error) for key, count, there, error in connection.execute(some)
                }
        return found

    def priors(self, item_id: int) -> list[Prior]:
        """The earlier studies that were chosen for an item, the newest first."""
        rows = (
            select(_prior.study_instance_uid, _prior.remote, _prior.study_date, _prior.modalities, _is_here())
            .where(_prior.item_id == item_id)
            .order_by(_prior.study_date.desc(), _prior.study_instance_uid)
        )
        with self._database.connect() as connection:
            return [Prior(*row[:4], bool(row[4])) for row in connection.execute(rows)]


def _is_here() -> Any:
    """Whether an earlier study is here: something of it, and all of it that its remote has named."""
    uid = _prior.study_instance_uid
    stored = exists(select(literal(1)).where(study.c.study_instance_uid == uid))
    open_ = exists(
        select(literal(1)).where(
            remote_study.c.remote == _prior.remote,
            remote_study.c.study_instance_uid == uid,
            remote_study.c.state != "complete",
        )
    )
    return stored & or_(_prior.remote == "", ~open_)
