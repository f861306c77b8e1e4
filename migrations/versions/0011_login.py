"""Logins at the HTTP door: sessions of people, and API keys of programs."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "web_session",
        sa.Column("id", Key, nullable=False),
        sa.Column("token_hash", Text, nullable=False),
        sa.Column("user", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("scope", Text, server_default="", nullable=False),
        sa.Column("way", Text, nullable=False),
        sa.Column("stamp", Text, server_default="", nullable=False),
        sa.Column("address", Text, server_default="", nullable=False),
        sa.Column("created", Moment, nullable=False),
        sa.Column("last_seen", Moment, nullable=False),
        sa.Column("expires", Moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_web_session")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_web_session_token_hash")),
    )
    op.create_index(op.f("ix_web_session_user"), "web_session", ["user"])
    op.create_index(op.f("ix_web_session_expires"), "web_session", ["expires"])
    op.create_table(
        "api_key",
        sa.Column("id", Key, nullable=False),
        sa.Column("token_hash", Text, nullable=False),
        sa.Column("name", Text, nullable=False),
        sa.Column("role", Text, nullable=False),
        sa.Column("scope", Text, server_default="", nullable=False),
        sa.Column("created", Moment, nullable=False),
        sa.Column("created_by", Text, server_default="", nullable=False),
        sa.Column("expires", Moment, nullable=True),
        sa.Column("last_used", Moment, nullable=True),
        sa.Column("revoked", Moment, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_key")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_api_key_token_hash")),
    )
    op.create_index(op.f("ix_api_key_name"), "api_key", ["name"])
