"""The tables of marks: what people and rules say of studies. They are rebuilt from the journal of marks."""

from sqlalchemy import Column, DateTime, Index, Table

from pacs_server.index.models import Text, metadata

study_label = Table(
    "study_label",
    metadata,
    # A study has marks by its UID: they stay when it is merged, deleted and restored, or comes again.
    Column("study_instance_uid", Text, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    # The rule or the person.
    Column("set_by", Text, nullable=False, server_default=""),
    Index(None, "label"),
    # The list of studies is sorted by it.
    Index("ix_study_label_listed", "label", "study_instance_uid"),
)

study_note = Table(
    "study_note",
    metadata,
    # Random, and the same after a rebuild.
    Column("note", Text, primary_key=True),
    Column("study_instance_uid", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("set_by", Text, nullable=False, server_default=""),
    Index(None, "study_instance_uid"),
)

study_reading = Table(
    "study_reading",
    metadata,
    Column("study_instance_uid", Text, primary_key=True),
    # The person or role that is to read the study, '' for nobody.
    Column("assigned_to", Text, nullable=False, server_default=""),
    # unread, reading, read or review.
    Column("state", Text, nullable=False, server_default="unread"),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("set_by", Text, nullable=False, server_default=""),
    Index("ix_study_reading_assigned_to", "assigned_to", "state"),
    Index(None, "state"),
)
