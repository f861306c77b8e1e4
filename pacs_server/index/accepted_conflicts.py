"""Conflicts between patients about which an operator said that they are none: different people, and all is right."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import delete, insert, select

from pacs_server.index.archive_models import accepted_conflict as table
from pacs_server.index.database import WRITER_LOCK, Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.patients import Conflicts, Person, StudyOf


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What an operator said of a conflict, and who that was."""

    digest: str
    reason: str
    accepted_by: str
    accepted_at: datetime


def digest_of(group: Sequence[Person | StudyOf]) -> str:
    """The digest of a conflict: it changes with who is in it, and not with what they have, nor with a rebuild."""
    people = [each.person if isinstance(each, StudyOf) else each for each in group]
    study = next((each.study_instance_uid for each in group if isinstance(each, StudyOf)), "")
    who = sorted(each.identity for each in people)
    return sha256(json.dumps([study, who]).encode()).hexdigest()


class AcceptedConflictIndex:
    """The accepted conflicts of one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> dict[str, Acceptance]:
        """All acceptances by digest."""
        with self._database.connect() as connection:
            rows = connection.execute(select(table)).all()
        return {
            row.digest: Acceptance(row.digest, row.reason, row.accepted_by, in_utc(row.accepted_at)) for row in rows
        }

    def put(self, acceptance: Acceptance) -> None:
        """Keep an acceptance; it takes the place of an earlier one."""
        values = {name: getattr(acceptance, name) for name in Acceptance.__dataclass_fields__}
        with self._database.begin(lock=WRITER_LOCK) as connection:
            connection.execute(delete(table).where(table.c.digest == acceptance.digest))
            connection.execute(insert(table).values(values))

    def remove(self, digest: str) -> None:
        """Forget an acceptance."""
        with self._database.begin(lock=WRITER_LOCK) as connection:
            connection.execute(delete(table).where(table.c.digest == digest))


def without(found: Conflicts, digests: set[str]) -> Conflicts:
    """The conflicts whose digests are not among these."""
    return Conflicts(
        tuple(group for group in found.patients if digest_of(group) not in digests),
        tuple(group for group in found.studies if digest_of(group) not in digests),
    )
