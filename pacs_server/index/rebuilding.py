"""**The** list of what a rebuild does with each table: rebuild it, take it over from the old index, or lose it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, Table, func, insert, inspect, select, update
from sqlalchemy.exc import IntegrityError

from pacs_server.errors import IndexUnavailable
from pacs_server.index import archive_models as archive
from pacs_server.index import fetching_models, login_models, mark_models, models, task_models
from pacs_server.index import outgoing_models as outgoing
from pacs_server.index import workflow_models as workflow
from pacs_server.index.copying import continue_numbering, copy_tables
from pacs_server.index.database import Database


class Fate(StrEnum):
    """What becomes of a table when the index is rebuilt."""

    # Its rows follow from files: stored instances, deletion.json in the trash, the journals of decisions and marks.
    REBUILT = "rebuilt"
    # No file tells its rows; they are copied from the old index as far as that can be read.
    TAKEN_OVER = "taken over"
    # Background tasks begin again without it.
    LOST = "lost"


# Tables come behind those that they refer to.
FATES: Final[Mapping[Table, Fate]] = {
    models.patient: Fate.REBUILT,
    models.study: Fate.REBUILT,
    models.series: Fate.REBUILT,
    models.instance: Fate.REBUILT,
    models.patient_alias: Fate.REBUILT,
    archive.deletion: Fate.REBUILT,
    mark_models.study_label: Fate.REBUILT,
    mark_models.study_reading: Fate.REBUILT,
    mark_models.study_note: Fate.REBUILT,
    workflow.worklist_item: Fate.TAKEN_OVER,
    workflow.worklist_station: Fate.TAKEN_OVER,
    workflow.procedure_step: Fate.TAKEN_OVER,
    workflow.procedure_step_item: Fate.TAKEN_OVER,
    workflow.procedure_step_instance: Fate.TAKEN_OVER,
    workflow.commitment: Fate.TAKEN_OVER,
    workflow.commitment_instance: Fate.TAKEN_OVER,
    task_models.task: Fate.TAKEN_OVER,
    # The ids of instances are other ones afterwards; who was asked is asked again.
    outgoing.remote_commitment: Fate.LOST,
    outgoing.remote_commitment_instance: Fate.LOST,
    outgoing.delivery: Fate.TAKEN_OVER,
    outgoing.remote_state: Fate.TAKEN_OVER,
    fetching_models.remote_study: Fate.TAKEN_OVER,
    fetching_models.polling_state: Fate.TAKEN_OVER,
    fetching_models.prefetch_item: Fate.TAKEN_OVER,
    fetching_models.prefetch_prior: Fate.TAKEN_OVER,
    workflow.peer_seen: Fate.TAKEN_OVER,
    login_models.api_key: Fate.TAKEN_OVER,
    login_models.share_link: Fate.TAKEN_OVER,
    # People log in again.
    login_models.web_session: Fate.LOST,
    # The consumers are taken over; their cursors go to the end of the new index.
    archive.feed_cursor: Fate.TAKEN_OVER,
    # The files tell it as well, and whoever keeps it begins again.
    archive.instance_metadata: Fate.LOST,
    archive.change: Fate.LOST,
    # It names patients by their identities, which the files tell again.
    archive.accepted_conflict: Fate.TAKEN_OVER,
    archive.archive_state: Fate.LOST,
}
TAKEN_OVER: Final = tuple(table for table, fate in FATES.items() if fate is Fate.TAKEN_OVER)


def take_over(old: Database, new: Database) -> list[str]:
    """Copy the tables that no file tells from the old index, one by one as far as they can be read.

    Returns the names of the tables that could not be read. Raises IndexUnavailable when `new` fails.
    """
    lost = []
    for table in _tables_of(old, new):
        copy = _COPIES.get(table, _copy)
        try:
            with old.connect() as source, new.begin() as target:
                copy(source, target, table)
        except (IndexUnavailable, IntegrityError):
            lost.append(table.name)
    with new.begin() as target:
        continue_numbering(target, TAKEN_OVER)
    return lost


def _tables_of(old: Database, new: Database) -> list[Table]:
    """The tables to take over: an old index of an earlier schema never had those that were added since."""
    try:
        revision = old.revision()
        with old.connect() as source:
            names = inspect(source).get_table_names()
    except IndexUnavailable:
        return list(TAKEN_OVER)
    is_earlier = revision is not None and revision < str(new.revision())
    return [table for table in TAKEN_OVER if table.name in names or not is_earlier]


def _copy(source: Connection, target: Connection, table: Table) -> None:
    copy_tables(source, target, [table])


def _begin_epoch(source: Connection, target: Connection, cursors: Table) -> None:
    """Put the cursors of all consumers to the end of the new index, whose ids have nothing to do with the old ones."""
    end = {
        "instance_id": target.scalar(select(func.coalesce(func.max(models.instance.c.id), 0))),
        "change_id": target.scalar(select(func.coalesce(func.max(archive.change.c.id), 0))),
        "epoch": archive.new_epoch(),
        "moved_at": datetime.now(UTC),
    }
    for consumer in source.scalars(select(cursors.c.consumer)):
        target.execute(insert(cursors).values(consumer=consumer, **end))


def _copy_deliveries(source: Connection, target: Connection, deliveries: Table) -> None:
    """Copy the deliveries with the new ids of their instances, so that none is taken for that of another instance."""
    copy_tables(source, target, [deliveries])
    target.execute(update(deliveries).values(instance_id=-deliveries.c.id))
    # Of several versions of an instance the last one is there.
    last = select(func.max(deliveries.c.id)).group_by(
        deliveries.c.remote, deliveries.c.rule, deliveries.c.sop_instance_uid
    )
    same = models.instance.c.sop_instance_uid == deliveries.c.sop_instance_uid
    new_id = select(models.instance.c.id).where(same).scalar_subquery()
    known = select(models.instance.c.id).where(same).exists()
    target.execute(update(deliveries).where(deliveries.c.id.in_(last), known).values(instance_id=new_id))


_COPIES: Final = {archive.feed_cursor: _begin_epoch, outgoing.delivery: _copy_deliveries}
