"""Where earlier versions of replaced instances lie that came under another study or series."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# A migration describes one moment, so nothing here comes from the tables as they are today.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("instance", sa.Column("earlier_paths", Text, server_default="", nullable=False))
