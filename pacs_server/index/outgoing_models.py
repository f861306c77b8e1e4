"""The tables of what goes to remotes: deliveries, and the state of each remote."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, Table, UniqueConstraint, text

from pacs_server.index.models import Key, Text, metadata

# The conditions of the partial indexes. A query uses such an index only if it says the condition in the same words.
IS_WAITING = "state = 'waiting'"
IS_DEAD = "state = 'dead'"
HAS_TASK = "task_id IS NOT NULL"


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _index(name: str, condition: str, *columns: str) -> Index:
    where = text(condition)
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


# One instance that is to go to one remote; afterwards the note of what the remote answered.
delivery = Table(
    "delivery",
    metadata,
    Column("id", Key, primary_key=True),
    # The name of the remote that it is for; a backup may have taken it, see `answered_by`.
    Column("remote", Text, nullable=False),
    # The rule that it follows from, '' if a person wanted it.
    _text("rule"),
    # The id that the instance had then. After a rebuild of the index it is negative unless that is known.
    Column("instance_id", BigInteger, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    Column("series_instance_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    # waiting, delivered, dead or cancelled.
    Column("state", Text, nullable=False),
    # The rule or the person.
    _text("caused_by"),
    Column("created", DateTime(timezone=True), nullable=False),
    # How often it was sent and answered, or broke the association.
    Column("attempts", Integer, nullable=False, server_default="0"),
    # The last answer: which remote, when, the DIMSE status (of HTTP the one that it means), in words, and over what.
    _text("answered_by"),
    Column("answered_at", DateTime(timezone=True), nullable=True),
    Column("status", Integer, nullable=True),
    _text("detail"),
    _text("association"),
    # The task that gave it up or cancelled it, and that makes it wait again when it is retried.
    Column("task_id", BigInteger, nullable=True),
    UniqueConstraint("remote", "rule", "instance_id"),
    Index(None, "study_instance_uid"),
    _index("ix_delivery_waiting", IS_WAITING, "remote", "rule", "study_instance_uid", "attempts", "id"),
    _index("ix_delivery_dead", IS_DEAD, "remote"),
    _index("ix_delivery_task_id", HAS_TASK, "task_id"),
    # Numbers are written down and asked for later, so none is given twice.
    sqlite_autoincrement=True,
)

# What is known of a remote apart from its settings. It has no row until something happens.
remote_state = Table(
    "remote_state",
    metadata,
    Column("remote", Text, primary_key=True),
    # Somebody has stopped all sending to it.
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    _text("paused_by"),
    # How often in a row the remote as a whole failed, and why at last.
    Column("failures", Integer, nullable=False, server_default="0"),
    _text("last_error"),
    # The breaker is open until this moment, the how manyth time in a row; NULL if it is closed.
    Column("openings", Integer, nullable=False, server_default="0"),
    Column("open_until", DateTime(timezone=True), nullable=True),
    # Who finds out whether the remote is there again, and until when nobody else does.
    _text("probe_owner"),
    Column("probe_until", DateTime(timezone=True), nullable=True),
    # What it said of its software when it was called last.
    _text("implementation_class_uid"),
    _text("implementation_version_name"),
    Column("changed", DateTime(timezone=True), nullable=False),
)

# A remote was asked to commit to the storage of instances of a study that it has got (PS3.4 J.3).
remote_commitment = Table(
    "remote_commitment",
    metadata,
    Column("transaction_uid", Text, primary_key=True),
    Column("remote", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False, index=True),
    Column("asked_at", DateTime(timezone=True), nullable=False),
    # NULL until the remote has reported.
    Column("answered_at", DateTime(timezone=True), nullable=True),
)
remote_commitment_instance = Table(
    "remote_commitment_instance",
    metadata,
    Column("transaction_uid", Text, primary_key=True),
    Column("sop_instance_uid", Text, primary_key=True),
    Column("sop_class_uid", Text, nullable=False),
    # The id that the instance had then: another version of it is another promise.
    Column("instance_id", BigInteger, nullable=False, index=True),
    # Failure Reason (0008,1197); 0 if the remote has committed to it, NULL while it has said nothing.
    Column("failure_reason", Integer, nullable=True),
)
