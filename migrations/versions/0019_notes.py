"""What people write about studies."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "study_note",
        sa.Column("note", Text, nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("text", Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("set_by", Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("note", name=op.f("pk_study_note")),
    )
    op.create_index(op.f("ix_study_note_study_instance_uid"), "study_note", ["study_instance_uid"])
