"""What a rebuild takes over from the old index, since no file tells it."""

from typing import Final

from sqlalchemy.exc import IntegrityError

from pacs_server.errors import IndexUnavailable
from pacs_server.index import workflow_models as workflow
from pacs_server.index.copying import advance_sequences, copy_tables
from pacs_server.index.database import Database

# Those that others refer to come first.
TAKEN_OVER: Final = (
    workflow.worklist_item,
    workflow.worklist_station,
    workflow.procedure_step,
    workflow.procedure_step_item,
    workflow.procedure_step_instance,
    workflow.commitment,
    workflow.commitment_instance,
    workflow.peer_seen,
)


def take_over(old: Database, new: Database) -> list[str]:
    """Copy worklist, procedure steps, storage commitment and the peers seen, table by table as far as they can be read.

    Returns the names of the tables that could not. Raises IndexUnavailable when `new` fails.
    """
    lost = []
    for table in TAKEN_OVER:
        try:
            with old.connect() as source, new.begin() as target:
                copy_tables(source, target, [table])
        except (IndexUnavailable, IntegrityError):
            lost.append(table.name)
    if not new.is_sqlite:
        with new.begin() as target:
            advance_sequences(target)
    return lost
