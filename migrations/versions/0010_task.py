"""Background work that the server has promised to do, as rows that survive crashes."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "task",
        sa.Column("id", Key, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("target", Text, server_default="", nullable=False),
        sa.Column("priority", Text, nullable=False),
        sa.Column("due", Moment, nullable=False),
        sa.Column("turn", Moment, nullable=False),
        sa.Column("state", Text, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lost_leases", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deadline", Moment, nullable=True),
        sa.Column("claimed_until", Moment, nullable=True),
        sa.Column("owner", Text, server_default="", nullable=False),
        sa.Column("node", Text, server_default="", nullable=False),
        sa.Column("again", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("dedupe_key", Text, nullable=True),
        sa.Column("payload", Text, server_default="{}", nullable=False),
        sa.Column("last_error", Text, server_default="", nullable=False),
        sa.Column("created", Moment, nullable=False),
        sa.Column("created_by", Text, server_default="", nullable=False),
        sa.Column("finished", Moment, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_task_dedupe_key"), "task", ["dedupe_key"])
    live = "state IN ('ready', 'running')"
    partial("uq_task_dedupe_key", live, "dedupe_key", unique=True)
    partial("ix_task_due", "state = 'ready'", "due")
    partial("ix_task_turn", "state = 'ready'", "turn", "id")
    partial("ix_task_target", "state = 'ready'", "target", "kind", "turn", "id")
    partial("ix_task_urgent", "state = 'ready' AND priority = 'urgent'", "turn", "id")
    partial("ix_task_claimed_until", "state = 'running'", "claimed_until")
    partial("ix_task_finished", "state IN ('done', 'cancelled')", "finished")
    partial("ix_task_dead", "state = 'dead'", "kind")


def partial(name: str, condition: str, *columns: str, unique: bool = False) -> None:
    where = sa.text(condition)
    op.create_index(op.f(name), "task", columns, unique=unique, sqlite_where=where, postgresql_where=where)
