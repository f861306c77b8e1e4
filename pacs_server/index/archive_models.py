"""The tables of keeping the archive in order: deletions, and what tasks remember from run to run."""

from sqlalchemy import BigInteger, Column, DateTime, Integer, Table

from pacs_server.index.models import Key, Text, metadata

# What was deleted, as long as it is in the trash or on its way there or back. Status: MOVING, KEPT, REMOVING.
deletion = Table(
    "deletion",
    metadata,
    Column("id", Key, primary_key=True),
    # The query/retrieve level: STUDY, SERIES or IMAGE, and the UID at that level.
    Column("level", Text, nullable=False),
    Column("uid", Text, nullable=False, index=True),
    Column("study_instance_uid", Text, nullable=False, index=True),
    # The directory below trash/ that holds the files and deletion.json.
    Column("folder", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("deleted_by", Text, nullable=False),
    Column("deleted_at", DateTime(timezone=True), nullable=False),
    Column("instances", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

# Where a task such as the scrub is, as JSON text by a name that the task chooses.
archive_state = Table(
    "archive_state",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
