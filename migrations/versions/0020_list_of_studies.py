"""What the list of studies is sorted and filtered by: when studies were received, and indexes."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_RECEIVED = """
    UPDATE study SET received_at = coalesce((
        SELECT {form} FROM instance JOIN series ON series.id = instance.series_fk WHERE series.study_fk = study.id
    ), '')"""
_FORMS = {
    "sqlite": "strftime('%Y%m%d%H%M%S', min(instance.received_at))",
    "postgresql": "to_char(min(instance.received_at) AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS')",
}


def upgrade() -> None:
    text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
    op.add_column("study", sa.Column("received_at", text, nullable=False, server_default=""))
    op.execute(_RECEIVED.format(form=_FORMS[op.get_bind().dialect.name]))
    op.create_index(op.f("ix_study_newest"), "study", ["study_date", "study_time_match", "id"])
    op.create_index(op.f("ix_study_received_at"), "study", ["received_at", "id"])
    op.create_index(op.f("ix_study_study_description"), "study", ["study_description", "id"])
    every = sa.text("id > 0")
    for column in ("modality", "station_name"):
        columns = [column, "study_fk"]
        name = op.f(f"ix_series_{column}_listed")
        op.create_index(name, "series", columns, sqlite_where=every, postgresql_where=every)
