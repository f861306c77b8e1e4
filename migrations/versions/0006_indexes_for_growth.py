"""Partial indexes of the few rows that matter: names with several component groups, and open worklist items."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_NAMES = (
    ("patient", "patient_name_match"),
    ("study", "referring_physician_name_match"),
    ("worklist_item", "patient_name_match"),
)
_START = "scheduled_procedure_step_start_date"


def upgrade() -> None:
    for table, column in _NAMES:
        several = f"CASE WHEN replace({column}, '=', '') = {column} THEN 0 ELSE 1 END = 1"
        _create_partial(f"ix_{table}_{column}_groups", table, [column], several)
    shown = "status IN ('SCHEDULED', 'IN PROGRESS')"
    _create_partial("ix_worklist_item_shown", "worklist_item", [_START, "modality"], shown)
    op.drop_index(op.f(f"ix_worklist_item_{_START}_modality"), "worklist_item")
    # A query for a modality also gives a day or a study, and their indexes narrow the search better.
    op.drop_index(op.f("ix_series_modality_study_fk"), "series")


def _create_partial(name: str, table: str, columns: list[str], where: str) -> None:
    rows = sa.text(where)
    op.create_index(op.f(name), table, columns, sqlite_where=rows, postgresql_where=rows)
