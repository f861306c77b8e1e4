"""Indexes by which the list of studies is sorted by modalities and by labels."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_study_modalities_in_study"), "study", ["modalities_in_study", "id"])
    op.create_index(op.f("ix_study_label_listed"), "study_label", ["label", "study_instance_uid"])
