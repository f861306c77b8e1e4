"""What goes to which remote and what it answered, the state of remotes, and how far tasks have come."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("task", sa.Column("progress", Text, server_default="{}", nullable=False))
    op.create_table(
        "delivery",
        sa.Column("id", Key, nullable=False),
        sa.Column("remote", Text, nullable=False),
        sa.Column("rule", Text, server_default="", nullable=False),
        sa.Column("instance_id", sa.BigInteger(), nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("series_instance_uid", Text, nullable=False),
        sa.Column("sop_instance_uid", Text, nullable=False),
        sa.Column("state", Text, nullable=False),
        sa.Column("caused_by", Text, server_default="", nullable=False),
        sa.Column("created", Moment, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("answered_by", Text, server_default="", nullable=False),
        sa.Column("answered_at", Moment, nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("detail", Text, server_default="", nullable=False),
        sa.Column("association", Text, server_default="", nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("remote", "rule", "instance_id", name=op.f("uq_delivery_remote_rule_instance_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_delivery_study_instance_uid"), "delivery", ["study_instance_uid"])
    partial("ix_delivery_waiting", "state = 'waiting'", "remote", "rule", "study_instance_uid", "attempts", "id")
    partial("ix_delivery_dead", "state = 'dead'", "remote")
    partial("ix_delivery_task_id", "task_id IS NOT NULL", "task_id")
    op.create_table(
        "remote_state",
        sa.Column("remote", Text, nullable=False),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("paused_by", Text, server_default="", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("last_error", Text, server_default="", nullable=False),
        sa.Column("openings", sa.Integer(), server_default="0", nullable=False),
        sa.Column("open_until", Moment, nullable=True),
        sa.Column("probe_owner", Text, server_default="", nullable=False),
        sa.Column("probe_until", Moment, nullable=True),
        sa.Column("changed", Moment, nullable=False),
        sa.PrimaryKeyConstraint("remote", name=op.f("pk_remote_state")),
    )


def partial(name: str, condition: str, *columns: str) -> None:
    where = sa.text(condition)
    op.create_index(op.f(name), "delivery", columns, sqlite_where=where, postgresql_where=where)
