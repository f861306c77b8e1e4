"""The tables of the workflow: worklist items, performed procedure steps, storage commitment; and the peers seen.

The whole data set of an item or step is kept as DICOM JSON text (PS3.18 F.2) in `data_set`; the
columns beside it repeat what is searched for. `..._match` columns are as in `models`.
"""

from sqlalchemy import Boolean, Column, DateTime, ForeignKey, Index, Integer, Table, UniqueConstraint, text

from pacs_server.dicom.worklist import SHOWN
from pacs_server.index.models import Key, Text, groups_index, metadata

# The items that worklist queries find. The partial index is used only by queries with exactly this condition.
IS_SHOWN = f"status IN ({', '.join(repr(str(status)) for status in SHOWN)})"


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


# One Scheduled Procedure Step. Status: SCHEDULED, IN PROGRESS, COMPLETED, DISCONTINUED, CANCELLED.
worklist_item = Table(
    "worklist_item",
    metadata,
    Column("id", Key, primary_key=True),
    Column("status", Text, nullable=False),
    _text("source"),
    _text("accession_number"),
    _text("requested_procedure_id"),
    _text("scheduled_procedure_step_id"),
    _text("study_instance_uid"),
    _text("patient_id"),
    _text("issuer_of_patient_id"),
    _text("patient_name"),
    _text("patient_name_match"),
    # Several values joined by backslash, with a backslash at either end.
    _text("scheduled_station_ae_title"),
    _text("modality"),
    _text("scheduled_procedure_step_start_date"),
    _text("scheduled_procedure_step_start_time"),
    _text("scheduled_procedure_step_start_time_match"),
    _text("scheduled_performing_physician_name"),
    _text("scheduled_performing_physician_name_match"),
    Column("data_set", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("accession_number", "requested_procedure_id", "scheduled_procedure_step_id"),
    # Completed items stay in the table, so their number only grows.
    Index(
        "ix_worklist_item_shown",
        "scheduled_procedure_step_start_date",
        "modality",
        sqlite_where=text(IS_SHOWN),
        postgresql_where=text(IS_SHOWN),
    ),
    Index(None, "patient_id"),
    Index(None, "patient_name_match"),
    groups_index("worklist_item", "patient_name_match"),
    Index(None, "study_instance_uid"),
    Index(None, "accession_number"),
)

# Which worklist items are for which station: one row for each title of an item.
worklist_station = Table(
    "worklist_station",
    metadata,
    Column("id", Key, primary_key=True),
    Column("worklist_item_fk", Key, ForeignKey("worklist_item.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("ae_title", Text, nullable=False),
    Column("start_date", Text, nullable=False),
    Index(None, "ae_title", "start_date"),
)

# One Modality Performed Procedure Step. Status: IN PROGRESS, COMPLETED, DISCONTINUED.
procedure_step = Table(
    "procedure_step",
    metadata,
    Column("id", Key, primary_key=True),
    Column("sop_instance_uid", Text, nullable=False),
    Column("status", Text, nullable=False),
    _text("performed_procedure_step_id"),
    _text("performed_station_ae_title"),
    _text("modality"),
    _text("patient_id"),
    _text("patient_name"),
    _text("study_instance_uid"),
    _text("start_date"),
    _text("start_time"),
    _text("specific_character_set"),
    _text("calling_ae"),
    Column("data_set", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("sop_instance_uid"),
    Index(None, "start_date"),
    Index(None, "study_instance_uid"),
)

# Which items a step refers to by its Scheduled Step Attributes.
procedure_step_item = Table(
    "procedure_step_item",
    metadata,
    Column("id", Key, primary_key=True),
    Column("procedure_step_fk", Key, ForeignKey("procedure_step.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("worklist_item_fk", Key, ForeignKey("worklist_item.id", ondelete="CASCADE"), nullable=False, index=True),
    UniqueConstraint("procedure_step_fk", "worklist_item_fk"),
)

# The instances that a step lists in its Performed Series Sequence.
procedure_step_instance = Table(
    "procedure_step_instance",
    metadata,
    Column("id", Key, primary_key=True),
    Column("procedure_step_fk", Key, ForeignKey("procedure_step.id", ondelete="CASCADE"), nullable=False, index=True),
    _text("series_instance_uid"),
    Column("sop_class_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False, index=True),
)

# One Storage Commitment request. Status: PENDING, REPORTED, GIVEN UP.
commitment = Table(
    "commitment",
    metadata,
    Column("id", Key, primary_key=True),
    Column("transaction_uid", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("calling_ae", Text, nullable=False),
    _text("peer"),
    Column("requested_at", DateTime(timezone=True), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_try_at", DateTime(timezone=True), nullable=False),
    # An attempt that fails after this moment is the last one.
    Column("give_up_at", DateTime(timezone=True), nullable=False),
    # Until then one node works on the report, and no other takes it.
    Column("claimed_until", DateTime(timezone=True), nullable=True),
    Column("reported_at", DateTime(timezone=True), nullable=True),
    _text("last_error"),
    UniqueConstraint("transaction_uid", "calling_ae"),
    Index(None, "status", "next_try_at"),
)

commitment_instance = Table(
    "commitment_instance",
    metadata,
    Column("id", Key, primary_key=True),
    Column("commitment_fk", Key, ForeignKey("commitment.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("sop_class_uid", Text, nullable=False),
    Column("sop_instance_uid", Text, nullable=False),
    # Failure Reason (0008,1197); 0 when it is committed to, NULL while it is not verified.
    Column("failure_reason", Integer, nullable=True),
)

# Peers that requested an association. Outcome: "accepted", or the reason of the last rejection.
peer_seen = Table(
    "peer_seen",
    metadata,
    Column("id", Key, primary_key=True),
    Column("calling_ae", Text, nullable=False),
    Column("called_ae", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("first_seen_at", DateTime(timezone=True), nullable=False),
    Column("last_seen_at", DateTime(timezone=True), nullable=False),
    Column("count", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("tls", Boolean, nullable=False),
    _text("implementation_version_name"),
    UniqueConstraint("calling_ae", "called_ae", "address"),
)
