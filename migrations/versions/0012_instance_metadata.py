"""Metadata of instances, kept so that they need not be read from the files for each request."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "instance_metadata",
        sa.Column("instance_fk", Key, nullable=False),
        sa.Column("format", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("frames", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["instance_fk"],
            ["instance.id"],
            name=op.f("fk_instance_metadata_instance_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("instance_fk", name=op.f("pk_instance_metadata")),
    )
