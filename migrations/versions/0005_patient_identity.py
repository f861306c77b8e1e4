"""Patients with one ID and studies with one UID that are kept apart; the aliases of merged and reassigned ones."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# A migration keeps the schema of its time, so it does not import the current tables.
Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
Key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _variants_of_patients()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_constraints()
    else:
        op.add_column("study", _original_attributes())
        op.add_column("study", _variant())
        op.drop_constraint(op.f("uq_study_study_instance_uid"), "study", type_="unique")
        _create_unique("study", _study_constraint())
        op.drop_constraint(op.f("uq_series_series_instance_uid"), "series", type_="unique")
        _create_unique("series", _series_constraint())
    _index_variants("study")
    _create_alias()


def _variant() -> sa.Column[int]:
    return sa.Column("variant", sa.Integer(), server_default="0", nullable=False)


def _original_attributes() -> sa.Column[str]:
    return sa.Column("original_attributes_sequence", Text, server_default="", nullable=False)


def _study_constraint() -> tuple[str, list[str]]:
    return op.f("uq_study_study_instance_uid_patient_fk"), ["study_instance_uid", "patient_fk"]


def _series_constraint() -> tuple[str, list[str]]:
    return op.f("uq_series_series_instance_uid_study_fk"), ["series_instance_uid", "study_fk"]


def _create_unique(table: str, constraint: tuple[str, list[str]]) -> None:
    name, columns = constraint
    op.create_unique_constraint(name, table, columns)


def _variants_of_patients() -> None:
    op.add_column("patient", _variant())
    op.drop_index(op.f("uq_patient_patient_id_issuer_of_patient_id"), "patient")
    op.create_index(
        op.f("uq_patient_patient_id_issuer_of_patient_id_variant"),
        "patient",
        ["patient_id", "issuer_of_patient_id", "variant"],
        unique=True,
        sqlite_where=sa.text("patient_id <> ''"),
        postgresql_where=sa.text("patient_id <> ''"),
    )
    _index_variants("patient")


def _index_variants(table: str) -> None:
    later = sa.text("variant > 0")
    op.create_index(op.f(f"ix_{table}_variant"), table, ["variant"], sqlite_where=later, postgresql_where=later)


def _sqlite_constraints() -> None:
    # SQLite cannot drop a constraint of a table, so the table is created anew. Other tables refer to its rows, so
    # foreign keys are checked only at the end.
    op.execute("PRAGMA defer_foreign_keys = ON")
    _remake("study", [_original_attributes(), _variant()], _study_constraint())
    _remake("series", [], _series_constraint())


def _remake(name: str, columns: list[sa.Column[str]], unique: tuple[str, list[str]]) -> None:
    connection = op.get_bind()
    table = sa.Table(name, sa.MetaData(), autoload_with=connection)
    names = ", ".join(table.c.keys())
    for constraint in [each for each in table.constraints if isinstance(each, sa.UniqueConstraint)]:
        table.constraints.remove(constraint)
    for column in columns:
        table.append_column(column)
    table.append_constraint(sa.UniqueConstraint(*unique[1], name=unique[0]))
    op.execute(f"CREATE TABLE {name}_before AS SELECT * FROM {name} ORDER BY id")  # noqa: S608
    op.execute(f"DROP TABLE {name}")
    # The new table gets its final name at once, so that the rows inserted here replace those that others refer to.
    table.create(connection)
    op.execute(f"INSERT INTO {name} ({names}) SELECT {names} FROM {name}_before ORDER BY id")  # noqa: S608
    op.execute(f"DROP TABLE {name}_before")


def _create_alias() -> None:
    op.create_table(
        "patient_alias",
        sa.Column("id", Key, nullable=False),
        sa.Column("patient_id", Text, nullable=False),
        sa.Column("issuer_of_patient_id", Text, nullable=False),
        sa.Column("study_instance_uid", Text, nullable=False),
        sa.Column("source", Text, nullable=False),
        sa.Column("target", Text, nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient_alias")),
    )
    op.create_index(
        op.f("ix_patient_alias_patient_id_issuer_of_patient_id"),
        "patient_alias",
        ["patient_id", "issuer_of_patient_id"],
    )
    op.create_index(op.f("ix_patient_alias_study_instance_uid"), "patient_alias", ["study_instance_uid"])
