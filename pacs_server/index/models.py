"""The tables of the index, built from the attribute table.

Every indexed attribute is a text column named as `Attribute.column` says, NOT NULL, '' when absent
or empty: decoded Unicode, several values joined by backslash, sequences as DICOM JSON (an array of
items). `..._match` columns hold the form that SQL compares: names folded by
`dicom.matching.fold_name`, times padded by `dicom.matching.time_key`.
"""

from sqlalchemy import (
    BigInteger,
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

# Attributes with a column of their own for matching.
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


patient = Table(
    "patient",
    metadata,
    Column("id", Key, primary_key=True),
    *_attributes(Level.PATIENT),
    _count("number_of_patient_related_studies"),
    _count("number_of_patient_related_series"),
    _count("number_of_patient_related_instances"),
    # An empty Patient ID identifies nobody: such patients are as many as their studies.
    Index(
        "uq_patient_patient_id_issuer_of_patient_id",
        "patient_id",
        "issuer_of_patient_id",
        unique=True,
        sqlite_where=text("patient_id <> ''"),
        postgresql_where=text("patient_id <> ''"),
    ),
    # The partial index above does not serve a search by a bound parameter.
    Index(None, "patient_id"),
    Index(None, "patient_name_match"),
)
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
    UniqueConstraint("study_instance_uid"),
    Index(None, "study_date"),
    Index(None, "accession_number"),
    Index(None, "study_id"),
    Index(None, "referring_physician_name_match"),
)
series = Table(
    "series",
    metadata,
    Column("id", Key, primary_key=True),
    Column("study_fk", Key, ForeignKey("study.id"), nullable=False, index=True),
    *_attributes(Level.SERIES),
    _count("number_of_series_related_instances"),
    UniqueConstraint("series_instance_uid"),
    Index(None, "modality", "study_fk"),
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
    UniqueConstraint("sop_instance_uid"),
)
TABLES = {Level.PATIENT: patient, Level.STUDY: study, Level.SERIES: series, Level.IMAGE: instance}
