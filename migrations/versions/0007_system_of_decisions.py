"""What the archive was called that made a decision, for what comes later and follows it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A migration describes one moment, so nothing here comes from the tables as they are today.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("patient_alias", sa.Column("system", Text, server_default="", nullable=False))
