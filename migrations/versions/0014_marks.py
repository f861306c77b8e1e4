"""What people and rules say of studies: labels, who reads them, and how far that is."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "study_label",
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("label", Text, nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("set_by", Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", "label", name=op.f("pk_study_label")),
    )
    op.create_index(op.f("ix_study_label_label"), "study_label", ["label"])
    op.create_table(
        "study_reading",
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("assigned_to", Text, server_default="", nullable=False),
        sa.Column("state", Text, server_default="unread", nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("set_by", Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_study_reading")),
    )
    op.create_index(op.f("ix_study_reading_assigned_to"), "study_reading", ["assigned_to", "state"])
