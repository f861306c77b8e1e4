"""The tables of deletions, of the feed of changes, of kept metadata, and of the state of background tasks."""

import secrets

from sqlalchemy import BigInteger, Column, DateTime, ForeignKey, Integer, LargeBinary, Table

from pacs_server.index.models import Key, Text, metadata

# Deletions whose files are in the trash, or are being moved. Status: MOVING, KEPT, REMOVING.
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

# Conflicts between patients about which an operator said that they are none.
accepted_conflict = Table(
    "accepted_conflict",
    metadata,
    # A digest of who is in the conflict: others, or the same ones under other names, are another conflict.
    Column("digest", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("accepted_by", Text, nullable=False),
    Column("accepted_at", DateTime(timezone=True), nullable=False),
)

# The state of background tasks such as the scrub: JSON text by a key that the task chooses.
archive_state = Table(
    "archive_state",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# Changes of the archive other than arrivals of instances, in the order of the commits.
change = Table(
    "change",
    metadata,
    Column("id", Key, primary_key=True),
    # A `ChangeKind`.
    Column("kind", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    # The highest instance id at the time of the change.
    Column("after", BigInteger, nullable=False),
    # Instances from this id to `after` are no arrivals: they were replaced or restored.
    Column("first_new_id", BigInteger, nullable=True),
    Column("study_instance_uid", Text, nullable=False, server_default=""),
    Column("series_instance_uid", Text, nullable=False, server_default=""),
    Column("sop_instance_uid", Text, nullable=False, server_default=""),
    # The id of a worklist item, or the number of a decision of an operator.
    Column("number", BigInteger, nullable=True),
    # The new status of a worklist item or procedure step, the kind of a finding, or what marks say.
    Column("detail", Text, nullable=False, server_default=""),
    sqlite_autoincrement=True,
)

# The cursor of each consumer of the feed: the consumer has read everything up to these two ids.
feed_cursor = Table(
    "feed_cursor",
    metadata,
    Column("consumer", Text, primary_key=True),
    # Another number after each rebuild and each restore of the index: ids of different epochs cannot be compared.
    Column("epoch", Integer, nullable=False),
    Column("instance_id", BigInteger, nullable=False),
    Column("change_id", BigInteger, nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False),
)

# What the files of instances say and would take long to read for each request. A row goes with its instance.
instance_metadata = Table(
    "instance_metadata",
    metadata,
    Column("instance_fk", Key, ForeignKey("instance.id", ondelete="CASCADE"), primary_key=True),
    # Rows of another format are made anew.
    Column("format", Integer, nullable=False),
    # The length of `content`, so that nobody has to read that to know it.
    Column("size", Integer, nullable=False),
    # The metadata in the DICOM JSON Model, compressed; `frames` is the map of the frames of an image.
    Column("content", LargeBinary, nullable=False),
    Column("frames", LargeBinary, nullable=True),
)


def new_epoch() -> int:
    """An epoch that no index had before, not even one that was restored from the same backup."""
    return secrets.randbits(31)
