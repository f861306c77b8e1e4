"""Tables of logins at the HTTP door: sessions of people, keys of programs, links to one study. None holds a secret."""

from sqlalchemy import Column, DateTime, Index, Table

from pacs_server.index.models import Key, Text, metadata


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


web_session = Table(
    "web_session",
    metadata,
    Column("id", Key, primary_key=True),
    # The SHA-256 of the token in the cookie.
    Column("token_hash", Text, nullable=False, unique=True),
    Column("user", Text, nullable=False, index=True),
    Column("role", Text, nullable=False),
    # The limits as `Scope.as_json` has them.
    _text("scope"),
    # How the user has logged in: password, oidc, share.
    Column("way", Text, nullable=False),
    # Changes when the password or the rights of a user of the file change, which ends the session.
    _text("stamp"),
    _text("address"),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("last_seen", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True), nullable=False, index=True),
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Key, primary_key=True),
    # The SHA-256 of the key.
    Column("token_hash", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    _text("scope"),
    Column("created", DateTime(timezone=True), nullable=False),
    _text("created_by"),
    Column("expires", DateTime(timezone=True), nullable=True),
    # To the hour.
    Column("last_used", DateTime(timezone=True), nullable=True),
    Column("revoked", DateTime(timezone=True), nullable=True),
    Index(None, "name"),
)

share_link = Table(
    "share_link",
    metadata,
    Column("link", Text, primary_key=True),
    # The SHA-256 of the token in the link.
    Column("token_hash", Text, nullable=False, unique=True),
    Column("study_instance_uid", Text, nullable=False, index=True),
    # The limits of those who open it, the study among them.
    Column("scope", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True), nullable=False),
    # For whom it is.
    _text("purpose"),
    Column("last_opened", DateTime(timezone=True), nullable=True),
)
