"""The tables of deletions, of the feed of changes, and of the state that background tasks keep between runs."""

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

# What happened to the archive other than the arrival of instances, in the order of the commits.
change = Table(
    "change",
    metadata,
    Column("id", Key, primary_key=True),
    # A `ChangeKind`.
    Column("kind", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    # The highest id of an instance at that time.
    Column("after", BigInteger, nullable=False),
    # Instances from this id to `after` are no arrivals: they were replaced or restored.
    Column("first_new_id", BigInteger, nullable=True),
    Column("study_instance_uid", Text, nullable=False, server_default=""),
    Column("series_instance_uid", Text, nullable=False, server_default=""),
    Column("sop_instance_uid", Text, nullable=False, server_default=""),
    # The id of a worklist item, or the number of a decision of an operator.
    Column("number", BigInteger, nullable=True),
    # The new status of a worklist item or procedure step, or the kind of a finding.
    Column("detail", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

# How far each consumer of the feed has come: it has taken everything up to these two ids.
feed_cursor = Table(
    "feed_cursor",
    metadata,
    Column("consumer", Text, primary_key=True),
    # Counts how often the index was rebuilt under the cursor: ids of different epochs cannot be compared.
    Column("epoch", Integer, nullable=False),
    Column("instance_id", BigInteger, nullable=False),
    Column("change_id", BigInteger, nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False),
)
