"""The tables of what the archive fetches by itself: studies of remotes, and how the polling of remotes stands."""

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Index, Integer, Table, UniqueConstraint, text

from pacs_server.index.models import Key, Text, metadata


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


# A study that a remote has, and that polling or prefetching has found there.
remote_study = Table(
    "remote_study",
    metadata,
    Column("id", Key, primary_key=True),
    # The name of the remote.
    Column("remote", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False),
    # The AE title by which instances from this remote are known here.
    _text("source_ae"),
    # found, fetching, complete, failed or dropped. analysed and results stored will follow complete.
    Column("state", Text, nullable=False),
    # urgent, high, medium or low.
    Column("priority", Text, nullable=False),
    # What found it, such as "polling WS1".
    _text("found_by"),
    # Whether routing rules apply to what is fetched of it.
    Column("is_routed", Boolean, nullable=False, server_default=text("false")),
    # It may be dropped while the remote has it; nothing of it was here before.
    Column("is_cache", Boolean, nullable=False, server_default=text("false")),
    # What the remote says of it.
    _text("patient_id"),
    _text("study_date"),
    _text("modalities"),
    # How much of it the remote said to have when it was last looked at; NULL if it does not say.
    Column("remote_series", Integer, nullable=True),
    Column("remote_instances", Integer, nullable=True),
    # How many instances the remote named one by one when the study was last complete.
    Column("listed_instances", Integer, nullable=True),
    Column("found_at", DateTime(timezone=True), nullable=False),
    # When the remote last named it, and when the state last changed.
    Column("seen_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
    Column("completed_at", DateTime(timezone=True), nullable=True),
    # Found studies are fetched in this order: when they were found, and later by so much as the priority can wait.
    Column("turn", DateTime(timezone=True), nullable=False),
    # When it should be here, such as the time of an appointment.
    Column("deadline", DateTime(timezone=True), nullable=True),
    # The task that fetches it.
    Column("task_id", BigInteger, nullable=True),
    _text("last_error"),
    UniqueConstraint("remote", "study_instance_uid"),
    Index(None, "study_instance_uid"),
    Index("ix_remote_study_state", "state", "remote"),
    sqlite_autoincrement=True,
)

# How one entry of the polling stands, by its name.
polling_state = Table(
    "polling_state",
    metadata,
    Column("name", Text, primary_key=True),
    # When the remote was last asked, and when it last answered.
    Column("asked_at", DateTime(timezone=True), nullable=True),
    Column("answered_at", DateTime(timezone=True), nullable=True),
    # The studies in the last answer, and those of them that were fetched for it.
    Column("matches", Integer, nullable=False, server_default="0"),
    Column("found", Integer, nullable=False, server_default="0"),
    # How often in a row the remote did not answer, and why at last.
    Column("failures", Integer, nullable=False, server_default="0"),
    _text("last_error"),
)

# An item of the worklist for which earlier studies are fetched.
prefetch_item = Table(
    "prefetch_item",
    metadata,
    Column("item_id", BigInteger, primary_key=True, autoincrement=False),
    # What was asked for: with another patient, time or rule it is asked for again.
    Column("signature", Text, nullable=False),
    Column("asked_at", DateTime(timezone=True), nullable=True),
    _text("last_error"),
)
# One of the earlier studies that were chosen for an item.
prefetch_prior = Table(
    "prefetch_prior",
    metadata,
    Column("item_id", BigInteger, primary_key=True, autoincrement=False),
    Column("study_instance_uid", Text, primary_key=True),
    # The remote that it is fetched from, '' if it was here.
    _text("remote"),
    _text("study_date"),
    _text("modalities"),
)
