"""Studies are found by their reading state."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_study_reading_state"), "study_reading", ["state"])
