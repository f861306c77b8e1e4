"""Peers that requested an association."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "peer_seen",
        sa.Column("id", Key, nullable=False),
        sa.Column("calling_ae", Text, nullable=False),
        sa.Column("called_ae", Text, nullable=False),
        sa.Column("address", Text, nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("outcome", Text, nullable=False),
        sa.Column("tls", sa.Boolean(), nullable=False),
        sa.Column("implementation_version_name", Text, server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_peer_seen")),
        sa.UniqueConstraint(
            "calling_ae", "called_ae", "address", name=op.f("uq_peer_seen_calling_ae_called_ae_address")
        ),
    )
