"""Which remotes were asked to commit to the storage of what they got, and what they answered."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "remote_commitment",
        sa.Column("transaction_uid", Text, nullable=False),
        sa.Column("remote", Text, nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("asked_at", Moment, nullable=False),
        sa.Column("answered_at", Moment, nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_remote_commitment")),
    )
    op.create_index(op.f("ix_remote_commitment_study_instance_uid"), "remote_commitment", ["study_instance_uid"])
    op.create_table(
        "remote_commitment_instance",
        sa.Column("transaction_uid", Text, nullable=False),
        sa.Column("sop_instance_uid", Text, nullable=False),
        sa.Column("sop_class_uid", Text, nullable=False),
        sa.Column("instance_id", sa.BigInteger(), nullable=False),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", "sop_instance_uid", name=op.f("pk_remote_commitment_instance")),
    )
    op.create_index(op.f("ix_remote_commitment_instance_instance_id"), "remote_commitment_instance", ["instance_id"])
