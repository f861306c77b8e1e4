"""Deletions, and the state of background tasks."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "deletion",
        sa.Column("id", Key, nullable=False),
        sa.Column("level", Text, nullable=False),
        sa.Column("uid", Text, nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("folder", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("deleted_by", Text, nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletion")),
        sa.UniqueConstraint("folder", name=op.f("uq_deletion_folder")),
    )
    op.create_index(op.f("ix_deletion_uid"), "deletion", ["uid"])
    op.create_index(op.f("ix_deletion_study_instance_uid"), "deletion", ["study_instance_uid"])
    op.create_table(
        "archive_state",
        sa.Column("key", Text, nullable=False),
        sa.Column("value", Text, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_archive_state")),
    )
