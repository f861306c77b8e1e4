"""Worklist items, performed procedure steps, storage commitment."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def texts(names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, Text, server_default="", nullable=False) for name in names.split()]


def required(names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, Text, nullable=False) for name in names.split()]


def moments(names: str) -> list[sa.Column[object]]:
    return [sa.Column(name, sa.DateTime(timezone=True), nullable=False) for name in names.split()]


def identified(table: str) -> list[sa.schema.SchemaItem]:
    return [sa.Column("id", Key, nullable=False), sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}"))]


def parent(table: str, other: str) -> list[sa.schema.SchemaItem]:
    column = f"{other}_fk"
    key = sa.ForeignKeyConstraint([column], [f"{other}.id"], name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")
    return [sa.Column(column, Key, nullable=False), key]


def unique(table: str, names: str) -> sa.UniqueConstraint:
    columns = names.split()
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def index(table: str, *groups: str) -> None:
    for names in groups:
        columns = names.split()
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns)


def upgrade() -> None:
    create_worklist_item()
    create_worklist_station()
    create_procedure_step()
    create_procedure_step_references()
    create_commitment()


def create_worklist_item() -> None:
    op.create_table(
        "worklist_item",
        *identified("worklist_item"),
        *required("status data_set"),
        *texts("""
            source accession_number requested_procedure_id scheduled_procedure_step_id study_instance_uid
            patient_id issuer_of_patient_id patient_name patient_name_match scheduled_station_ae_title modality
            scheduled_procedure_step_start_date scheduled_procedure_step_start_time
            scheduled_procedure_step_start_time_match scheduled_performing_physician_name
            scheduled_performing_physician_name_match"""),
        *moments("created_at updated_at"),
        unique("worklist_item", "accession_number requested_procedure_id scheduled_procedure_step_id"),
    )
    index("worklist_item", "scheduled_procedure_step_start_date modality", "patient_id", "patient_name_match")
    index("worklist_item", "study_instance_uid", "accession_number")


def create_worklist_station() -> None:
    op.create_table(
        "worklist_station",
        *identified("worklist_station"),
        *parent("worklist_station", "worklist_item"),
        *required("ae_title start_date"),
    )
    index("worklist_station", "worklist_item_fk", "ae_title start_date")


def create_procedure_step() -> None:
    op.create_table(
        "procedure_step",
        *identified("procedure_step"),
        *required("sop_instance_uid status data_set"),
        *texts("""
            performed_procedure_step_id performed_station_ae_title modality patient_id patient_name
            study_instance_uid start_date start_time specific_character_set calling_ae"""),
        *moments("created_at updated_at"),
        unique("procedure_step", "sop_instance_uid"),
    )
    index("procedure_step", "start_date", "study_instance_uid")


def create_procedure_step_references() -> None:
    op.create_table(
        "procedure_step_item",
        *identified("procedure_step_item"),
        *parent("procedure_step_item", "procedure_step"),
        *parent("procedure_step_item", "worklist_item"),
        unique("procedure_step_item", "procedure_step_fk worklist_item_fk"),
    )
    index("procedure_step_item", "procedure_step_fk", "worklist_item_fk")
    op.create_table(
        "procedure_step_instance",
        *identified("procedure_step_instance"),
        *parent("procedure_step_instance", "procedure_step"),
        *texts("series_instance_uid"),
        *required("sop_class_uid sop_instance_uid"),
    )
    index("procedure_step_instance", "procedure_step_fk", "sop_instance_uid")


def create_commitment() -> None:
    op.create_table(
        "commitment",
        *identified("commitment"),
        *required("transaction_uid status calling_ae"),
        *texts("peer last_error"),
        *moments("requested_at next_try_at give_up_at"),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=True),
        unique("commitment", "transaction_uid calling_ae"),
    )
    index("commitment", "status next_try_at")
    op.create_table(
        "commitment_instance",
        *identified("commitment_instance"),
        *parent("commitment_instance", "commitment"),
        *required("sop_class_uid sop_instance_uid"),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
    )
    index("commitment_instance", "commitment_fk")
