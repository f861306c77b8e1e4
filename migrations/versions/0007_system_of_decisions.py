"""The name of the archive that decided a merge or reassignment, for instances that arrive later and follow it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("patient_alias", sa.Column("system", Text, server_default="", nullable=False))
