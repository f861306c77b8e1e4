"""Links that show one study."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "share_link",
        sa.Column("link", Text, nullable=False),
        sa.Column("token_hash", Text, nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("scope", Text, nullable=False),
        sa.Column("made_by", Text, nullable=False),
        sa.Column("made_at", Moment, nullable=False),
        sa.Column("expires", Moment, nullable=False),
        sa.Column("purpose", Text, server_default="", nullable=False),
        sa.Column("last_opened", Moment, nullable=True),
        sa.PrimaryKeyConstraint("link", name=op.f("pk_share_link")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_share_link_token_hash")),
    )
    op.create_index(op.f("ix_share_link_study_instance_uid"), "share_link", ["study_instance_uid"])
