"""Earlier studies that are fetched for items of the worklist."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "prefetch_item",
        sa.Column("item_id", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("signature", Text, nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_prefetch_item")),
    )
    op.create_table(
        "prefetch_prior",
        sa.Column("item_id", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("remote", Text, nullable=False, server_default=""),
        sa.Column("study_date", Text, nullable=False, server_default=""),
        sa.Column("modalities", Text, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("item_id", "study_instance_uid", name=op.f("pk_prefetch_prior")),
    )
