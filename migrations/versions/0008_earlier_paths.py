"""The paths of earlier versions of replaced instances, where those came with another study or series UID."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("instance", sa.Column("earlier_paths", Text, server_default="", nullable=False))
