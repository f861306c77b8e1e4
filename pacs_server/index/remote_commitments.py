"""Storage commitment by remotes in SQL: what they were asked for, what they answered, what may be deleted here."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, Connection, Exists, and_, delete, func, insert, select, update

from pacs_server.index.database import Database
from pacs_server.index.deletion_document import in_utc
from pacs_server.index.deliveries import CHANGED_RULE
from pacs_server.index.models import instance, series, study
from pacs_server.index.outgoing_models import delivery, remote_commitment, remote_commitment_instance

_asked, _item = remote_commitment.c, remote_commitment_instance.c
_CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Promised:
    """An instance that a remote is asked to commit to."""

    instance_id: int
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Asked:
    """The last time that a remote was asked for a study: when, whether it has answered, and how many it refused."""

    transaction_uid: str
    asked_at: datetime
    is_answered: bool
    refused: int
    reason: int


class RemoteCommitmentIndex:
    """The commitments of remotes in one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def outstanding(self, remote: str, study_instance_uid: str, except_rules: Collection[str] = ()) -> list[Promised]:
        """The instances of a study that a remote has got as they are here now, and has not committed to.

        What was sent by `except_rules`, or changed by a person, is something else there.
        """
        given = (
            select(delivery.c.instance_id, instance.c.sop_class_uid, instance.c.sop_instance_uid)
            .join(instance, instance.c.id == delivery.c.instance_id)
            .where(
                delivery.c.study_instance_uid == study_instance_uid,
                delivery.c.remote == remote,
                delivery.c.answered_by == remote,
                delivery.c.state == "delivered",
                delivery.c.rule.not_in(except_rules),
                ~delivery.c.rule.startswith(CHANGED_RULE),
                ~_committed(remote, delivery.c.instance_id),
            )
            .distinct()
            .order_by(delivery.c.instance_id)
        )
        with self._database.connect() as connection:
            return [Promised(*row) for row in connection.execute(given)]

    def ask(
        self, transaction_uid: str, remote: str, study_instance_uid: str, promised: Sequence[Promised], now: datetime
    ) -> None:
        """Keep that a remote is about to be asked."""
        with self._database.begin() as connection:
            values = {"remote": remote, "study_instance_uid": study_instance_uid, "asked_at": now}
            connection.execute(insert(remote_commitment).values(transaction_uid=transaction_uid, **values))
            rows = [
                {
                    "transaction_uid": transaction_uid, "instance_id": each.instance_id,
                    "sop_class_uid": each.sop_class_uid, "sop_instance_uid": each.sop_instance_uid,
                }
                for each in promised
            ]  # fmt: skip
            connection.execute(insert(remote_commitment_instance), rows)

    def forget(self, transaction_uid: str) -> None:
        """Forget that a remote was asked, since the question did not reach it."""
        with self._database.begin() as connection:
            connection.execute(delete(remote_commitment_instance).where(_item.transaction_uid == transaction_uid))
            connection.execute(delete(remote_commitment).where(_asked.transaction_uid == transaction_uid))

    def last(self, remote: str, study_instance_uid: str) -> Asked | None:
        """The last time that a remote was asked for a study."""
        newest = (
            select(_asked.transaction_uid, _asked.asked_at, _asked.answered_at)
            .where(_asked.remote == remote, _asked.study_instance_uid == study_instance_uid)
            .order_by(_asked.asked_at.desc())
            .limit(1)
        )
        with self._database.connect() as connection:
            row = connection.execute(newest).one_or_none()
            if row is None:
                return None
            refused = select(func.count(), func.max(_item.failure_reason)).where(
                _item.transaction_uid == row.transaction_uid, _item.failure_reason > 0
            )
            count, reason = connection.execute(refused).one()
        return Asked(row.transaction_uid, in_utc(row.asked_at), row.answered_at is not None, count, reason or 0)

    def is_answered(self, transaction_uid: str) -> bool:
        """Whether the remote that was asked so has reported."""
        answered = select(_asked.answered_at).where(_asked.transaction_uid == transaction_uid)
        with self._database.connect() as connection:
            return connection.scalar(answered) is not None

    def remote_of(self, transaction_uid: str) -> tuple[str, str] | None:
        """The remote and the study of a transaction; None if no remote was asked so."""
        wanted = select(_asked.remote, _asked.study_instance_uid).where(_asked.transaction_uid == transaction_uid)
        with self._database.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else (row.remote, row.study_instance_uid)

    def answer(self, transaction_uid: str, committed: Iterable[str], failed: Mapping[str, int], now: datetime) -> None:
        """Keep what a remote has reported; instances that were not asked for are passed over."""
        reasons = {**dict.fromkeys(committed, 0), **failed}
        by_reason: dict[int, list[str]] = {}
        for uid, reason in reasons.items():
            by_reason.setdefault(reason, []).append(uid)
        with self._database.begin() as connection:
            for reason, uids in by_reason.items():
                for start in range(0, len(uids), _CHUNK):
                    _note(connection, transaction_uid, uids[start : start + _CHUNK], reason)
            answered = update(remote_commitment).where(_asked.transaction_uid == transaction_uid)
            connection.execute(answered.values(answered_at=now))

    def deletable(self, remotes: Sequence[str], before: datetime, limit: int) -> list[tuple[str, int]]:
        """Studies of which nothing came after a moment, and to all of which all these remotes committed.

        Each is a Study Instance UID and the number of its instances, of all patients that it is known with.
        """
        open_ones = [~_committed(remote, instance.c.id) for remote in remotes]
        young = instance.c.received_at >= before
        same = study.alias()
        of_study = instance.join(series, series.c.id == instance.c.series_fk).join(same, same.c.id == series.c.study_fk)
        uid = study.c.study_instance_uid
        kept = select(instance.c.id).select_from(of_study).where(same.c.study_instance_uid == uid)
        asked = select(_asked.transaction_uid).where(_asked.study_instance_uid == uid, _asked.remote == remotes[0])
        conditions = [~kept.where(condition).exists() for condition in (young, *open_ones)]
        count = func.sum(study.c.number_of_study_related_instances)
        wanted = select(uid, count).where(asked.exists(), *conditions).group_by(uid).order_by(uid).limit(limit)
        with self._database.connect() as connection:
            return [(str(row[0]), int(row[1])) for row in connection.execute(wanted)]


def _committed(remote: str, instance_id: ColumnElement[int]) -> Exists:
    """Whether a remote has committed to the storage of an instance."""
    return (
        select(_item.transaction_uid)
        .join(remote_commitment, _asked.transaction_uid == _item.transaction_uid)
        .where(and_(_item.instance_id == instance_id, _item.failure_reason == 0, _asked.remote == remote))
        .exists()
    )


def _note(connection: Connection, transaction_uid: str, uids: Sequence[str], reason: int) -> None:
    rows = update(remote_commitment_instance).where(
        _item.transaction_uid == transaction_uid, _item.sop_instance_uid.in_(uids)
    )
    connection.execute(rows.values(failure_reason=reason))
