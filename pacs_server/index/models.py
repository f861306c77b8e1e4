"""The tables of the index, built from the attribute table.

Every indexed attribute is a text column named as `Attribute.column` says, NOT NULL, '' when absent
or empty: decoded Unicode, several values joined by backslash, sequences as DICOM JSON (an array of
items). `..._match` columns hold the form that SQL compares: names folded by
`dicom.matching.fold_name`, times padded by `dicom.matching.time_key`.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from pacs_server.dicom.attributes import at_level
from pacs_server.dicom.levels import Level

# Code-point order on PostgreSQL too, so that ranges and prefixes mean the same on both databases.
Text = String().with_variant(String(collation="C"), "postgresql")
# SQLite gives 64-bit row ids only to INTEGER PRIMARY KEY.
Key = BigInteger().with_variant(Integer(), "sqlite")

# Attributes with an additional column that is compared in queries.
NAME_MATCH = ("patient_name", "referring_physician_name")
TIME_MATCH = ("study_time",)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


def _attributes(level: Level) -> list[Column[str]]:
    names = [attribute.column for attribute in at_level(level)]
    matched = [f"{name}_match" for name in names if name in NAME_MATCH + TIME_MATCH]
    return [_text(name) for name in names + matched]


def _conflicting(table: str) -> Index:
    """The index of the few rows that are not the first of their kind; conflicts are searched with it."""
    later = text("variant > 0")
    return Index(f"ix_{table}_variant", "variant", sqlite_where=later, postgresql_where=later)


def has_groups(column: str) -> str:
    """The SQL condition that is true for names with several component groups."""
    # With a plain <>, PostgreSQL estimates that nearly all rows match; with this form, nearly none.
    return f"CASE WHEN replace({column}, '=', '') = {column} THEN 0 ELSE 1 END = 1"


def groups_index(table: str, column: str) -> Index:
    """The index for queries with `has_groups`, in the same words: a key may match any component group."""
    several = text(has_groups(column))
    return Index(f"ix_{table}_{column}_groups", column, sqlite_where=several, postgresql_where=several)


patient = Table(
    "patient",
    metadata,
    Column("id", Key, primary_key=True),
    *_attributes(Level.PATIENT),
    _count("number_of_patient_related_studies"),
    _count("number_of_patient_related_series"),
    _count("number_of_patient_related_instances"),
    # 0 for the first patient of this ID and issuer; others are different people, or the same one under another name.
    _count("variant"),
    # An empty Patient ID identifies nobody, so every study without one has its own patient.
    Index(
        "uq_patient_patient_id_issuer_of_patient_id_variant",
        "patient_id",
        "issuer_of_patient_id",
        "variant",
        unique=True,
        sqlite_where=text("patient_id <> ''"),
        postgresql_where=text("patient_id <> ''"),
    ),
    # The partial index above does not serve a search by a bound parameter.
    Index(None, "patient_id"),
    Index(None, "patient_name_match"),
    groups_index("patient", "patient_name_match"),
    _conflicting("patient"),
)


def _series_index(column: str) -> Index:
    """The index for the list of studies, which asks for the series of a modality or a station, and no other query does.

    The condition is true for all rows. Without statistics, SQLite would take such an index for queries that give a day
    or a study as well, whose indexes narrow the search better; so it takes it only where the condition is written.
    """
    every = text("id > 0")
    return Index(f"ix_series_{column}_listed", column, "study_fk", sqlite_where=every, postgresql_where=every)


study = Table(
    "study",
    metadata,
    Column("id", Key, primary_key=True),
    Column("patient_fk", Key, ForeignKey("patient.id"), nullable=False, index=True),
    *_attributes(Level.STUDY),
    _text("modalities_in_study"),
    _text("sop_classes_in_study"),
    _count("number_of_study_related_series"),
    _count("number_of_study_related_instances"),
    # Items of Original Attributes Sequence: the patient attributes as sent, before operators changed them.
    _text("original_attributes_sequence"),
    # 0 for the first study of this UID; others came with other patients.
    _count("variant"),
    # When its first instance was received, YYYYMMDDHHMMSS in UTC.
    _text("received_at"),
    UniqueConstraint("study_instance_uid", "patient_fk"),
    _conflicting("study"),
    Index(None, "study_date"),
    # The list of studies is sorted by these, and by id where they are equal.
    Index("ix_study_newest", "study_date", "study_time_match", "id"),
    Index("ix_study_received_at", "received_at", "id"),
    Index("ix_study_study_description", "study_description", "id"),
    Index("ix_study_modalities_in_study", "modalities_in_study", "id"),
    Index(None, "accession_number"),
    Index(None, "study_id"),
    Index(None, "referring_physician_name_match"),
    groups_index("study", "referring_physician_name_match"),
)
series = Table(
    "series",
    metadata,
    Column("id", Key, primary_key=True),
    Column("study_fk", Key, ForeignKey("study.id"), nullable=False, index=True),
    *_attributes(Level.SERIES),
    _count("number_of_series_related_instances"),
    UniqueConstraint("series_instance_uid", "study_fk"),
    _series_index("modality"),
    _series_index("station_name"),
)
instance = Table(
    "instance",
    metadata,
    Column("id", Key, primary_key=True),
    Column("series_fk", Key, ForeignKey("series.id"), nullable=False, index=True),
    *_attributes(Level.IMAGE),
    _text("transfer_syntax_uid"),
    Column("path", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("data_set_offset", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    _text("calling_ae"),
    _text("peer"),
    # The AE title that had it sent by C-MOVE.
    _text("move_originator"),
    # Paths of earlier versions that came under another study or series, one on each line.
    _text("earlier_paths"),
    UniqueConstraint("sop_instance_uid"),
    # The feed of changes relies on ids that are given in the order of the commits and never reused.
    sqlite_autoincrement=True,
)
# Where later arrivals of a merged or reassigned patient go. An empty study_instance_uid stands for all studies.
patient_alias = Table(
    "patient_alias",
    metadata,
    Column("id", Key, primary_key=True),
    # The source patient, as sent.
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("study_instance_uid", Text, nullable=False, index=True),
    # The attributes of both patients as JSON by column, to find the patients, or to insert them again.
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    # Whether the study was joined with one that the target already had: that cannot be undone.
    Column("joined", Boolean, nullable=False),
    # The AE title of this archive at that time, for Original Attributes Sequence of later arrivals.
    _text("system"),
    Index(None, "patient_id", "issuer_of_patient_id"),
)
TABLES = {Level.PATIENT: patient, Level.STUDY: study, Level.SERIES: series, Level.IMAGE: instance}
