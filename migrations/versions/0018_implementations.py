"""What remotes said of their software when they were called last."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    for name in ("implementation_class_uid", "implementation_version_name"):
        op.add_column("remote_state", sa.Column(name, Text, server_default="", nullable=False))
