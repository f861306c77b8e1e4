"""Studies of remotes that the archive fetches by itself, and how the polling of remotes stands."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, Text, nullable=False, server_default="")


def upgrade() -> None:
    op.create_table(
        "remote_study",
        sa.Column("id", Key, nullable=False),
        sa.Column("remote", Text, nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        _text("source_ae"),
        sa.Column("state", Text, nullable=False),
        sa.Column("priority", Text, nullable=False),
        _text("found_by"),
        sa.Column("is_routed", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("is_cache", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        _text("patient_id"),
        _text("study_date"),
        _text("modalities"),
        sa.Column("remote_series", sa.Integer(), nullable=True),
        sa.Column("remote_instances", sa.Integer(), nullable=True),
        sa.Column("listed_instances", sa.Integer(), nullable=True),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("turn", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("task_id", sa.BigInteger(), nullable=True),
        _text("last_error"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remote_study")),
        sa.UniqueConstraint("remote", "study_instance_uid", name=op.f("uq_remote_study_remote_study_instance_uid")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_remote_study_study_instance_uid"), "remote_study", ["study_instance_uid"])
    op.create_index("ix_remote_study_state", "remote_study", ["state", "remote"])
    op.create_table(
        "polling_state",
        sa.Column("name", Text, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("matches", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("found", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        _text("last_error"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_polling_state")),
    )
