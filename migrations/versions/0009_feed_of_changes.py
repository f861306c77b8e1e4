"""The feed of changes: ids of instances that are never reused, the table of changes, and the cursors of consumers."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # PostgreSQL's sequences never return an id twice.
        _never_reuse_ids_of_instances()
    op.create_table(
        "change",
        sa.Column("id", Key, nullable=False),
        sa.Column("kind", Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("after", sa.BigInteger(), nullable=False),
        sa.Column("first_new_id", sa.BigInteger(), nullable=True),
        sa.Column("study_instance_uid", Text, server_default="", nullable=False),
        sa.Column("series_instance_uid", Text, server_default="", nullable=False),
        sa.Column("sop_instance_uid", Text, server_default="", nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("detail", Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_change")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "feed_cursor",
        sa.Column("consumer", Text, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.BigInteger(), nullable=False),
        sa.Column("change_id", sa.BigInteger(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("consumer", name=op.f("pk_feed_cursor")),
    )


def _never_reuse_ids_of_instances() -> None:
    """Create the table of instances anew with AUTOINCREMENT, because SQLite cannot add that to an existing table.

    No other table refers to instances, so foreign keys are not affected.
    """
    connection = op.get_bind()
    # Rows are copied in the order of their ids, so the index of the UIDs is filled in random order. A cache of 256 MiB
    # (negative sizes are in KiB) keeps as much of that index in memory as possible.
    before = connection.scalar(sa.text("PRAGMA cache_size"))
    op.execute("PRAGMA cache_size = -262144")
    table = sa.Table("instance", sa.MetaData(), autoload_with=connection, sqlite_autoincrement=True)
    names = ", ".join(table.c.keys())
    indexes = list(table.indexes)
    table.indexes.clear()
    table.name = "instance_new"
    table.create(connection)
    op.execute(f"INSERT INTO instance_new ({names}) SELECT {names} FROM instance ORDER BY id")  # noqa: S608
    op.execute("DROP TABLE instance")
    op.execute("ALTER TABLE instance_new RENAME TO instance")
    for index in indexes:
        op.create_index(index.name, "instance", [column.name for column in index.columns], unique=index.unique)
    op.execute(f"PRAGMA cache_size = {before}")
