"""Patients, studies, series and instances."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def texts(names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, Text, server_default="", nullable=False) for name in names.split()]


def counts(names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.Integer(), server_default="0", nullable=False) for name in names.split()]


def upgrade() -> None:
    create_patient()
    create_study()
    create_series()
    create_instance()


def create_patient() -> None:
    op.create_table(
        "patient",
        sa.Column("id", Key, nullable=False),
        *texts("""
            patient_id patient_name issuer_of_patient_id patient_birth_date patient_birth_time patient_sex
            other_patient_ids ethnic_group patient_comments patient_name_match"""),
        *counts("""
            number_of_patient_related_studies number_of_patient_related_series
            number_of_patient_related_instances"""),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient")),
    )
    op.create_index(
        op.f("uq_patient_patient_id_issuer_of_patient_id"),
        "patient",
        ["patient_id", "issuer_of_patient_id"],
        unique=True,
        sqlite_where=sa.text("patient_id <> ''"),
        postgresql_where=sa.text("patient_id <> ''"),
    )
    for column in ("patient_id", "patient_name_match"):
        op.create_index(op.f(f"ix_patient_{column}"), "patient", [column])


def create_study() -> None:
    op.create_table(
        "study",
        sa.Column("id", Key, nullable=False),
        sa.Column("patient_fk", Key, nullable=False),
        *texts("""
            study_instance_uid study_date study_time accession_number study_id study_description
            referring_physician_name name_of_physicians_reading_study admitting_diagnoses_description patient_age
            patient_size patient_weight timezone_offset_from_utc procedure_code_sequence study_time_match
            referring_physician_name_match modalities_in_study sop_classes_in_study"""),
        *counts("number_of_study_related_series number_of_study_related_instances"),
        sa.ForeignKeyConstraint(["patient_fk"], ["patient.id"], name=op.f("fk_study_patient_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    for column in ("patient_fk", "study_date", "accession_number", "study_id", "referring_physician_name_match"):
        op.create_index(op.f(f"ix_study_{column}"), "study", [column])


def create_series() -> None:
    op.create_table(
        "series",
        sa.Column("id", Key, nullable=False),
        sa.Column("study_fk", Key, nullable=False),
        *texts("""
            series_instance_uid modality series_number series_description series_date series_time body_part_examined
            laterality protocol_name station_name institution_name manufacturer manufacturer_model_name
            performing_physician_name operators_name frame_of_reference_uid performed_procedure_step_start_date
            performed_procedure_step_start_time performed_procedure_step_id performed_procedure_step_description
            request_attributes_sequence"""),
        *counts("number_of_series_related_instances"),
        sa.ForeignKeyConstraint(["study_fk"], ["study.id"], name=op.f("fk_series_study_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint("series_instance_uid", name=op.f("uq_series_series_instance_uid")),
    )
    op.create_index(op.f("ix_series_study_fk"), "series", ["study_fk"])
    op.create_index(op.f("ix_series_modality_study_fk"), "series", ["modality", "study_fk"])


def create_instance() -> None:
    op.create_table(
        "instance",
        sa.Column("id", Key, nullable=False),
        sa.Column("series_fk", Key, nullable=False),
        *texts("""
            sop_instance_uid sop_class_uid instance_number image_type acquisition_number acquisition_date
            acquisition_time content_date content_time instance_creation_date instance_creation_time number_of_frames
            rows columns bits_allocated content_label content_description concept_name_code_sequence
            transfer_syntax_uid"""),
        sa.Column("path", Text, nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("data_set_offset", sa.Integer(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", Text, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        *texts("calling_ae peer"),
        sa.ForeignKeyConstraint(["series_fk"], ["series.id"], name=op.f("fk_instance_series_fk")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instance_sop_instance_uid")),
    )
    op.create_index(op.f("ix_instance_series_fk"), "instance", ["series_fk"])


def downgrade() -> None:
    for table in ("instance", "series", "study", "patient"):
        op.drop_table(table)
