"""What happened to a study, in one list: it came, was sent, merged, given to another patient, and deleted in parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from pacs_server.index.decisions import Decision
from pacs_server.index.deliveries import DeliveryState
from pacs_server.index.delivery_overview import DeliveryFilter, DeliveryGroup
from pacs_server.index.history import HistoryIndex, Reception
from pacs_server.services.deletion import DeletionService
from pacs_server.services.forwarding import ForwardingService
from pacs_server.services.patients import PatientService

# What comes from one source with shorter pauses is told as one.
_PAUSE: Final = timedelta(minutes=10)
_MOST_GROUPS: Final = 1000


class Happened(StrEnum):
    """What happened; a delivery is told by its state."""

    RECEIVED = "received"
    WAITING = "waiting"
    DELIVERED = "delivered"
    DEAD = "dead"
    CANCELLED = "cancelled"
    MERGED = "merged"
    REASSIGNED = "reassigned"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """Something that happened to a study.

    `who` is a user, an AE title or the name of a remote, and `where` its address. `since` is when it began, if that was
    not `at` one moment. `detail` is the reason. `before` and `after` are Patient IDs. `reference` names a deletion.
    """

    what: Happened
    at: datetime
    since: datetime | None = None
    who: str = ""
    where: str = ""
    instances: int = 0
    bytes: int = 0
    detail: str = ""
    before: str = ""
    after: str = ""
    reference: str = ""


class HistoryService:
    """Tells what happened to studies; may be shared by all threads."""

    def __init__(
        self, index: HistoryIndex, forwarding: ForwardingService, patients: PatientService, deletions: DeletionService
    ) -> None:
        self._index = index
        self._forwarding = forwarding
        self._patients = patients
        self._deletions = deletions

    def of(self, study_instance_uid: str) -> list[Occurrence]:
        """What happened to a study, the last first. Raises IndexUnavailable, StorageUnavailable."""
        uid = study_instance_uid
        wanted = DeliveryFilter(tuple(DeliveryState), study_instance_uid=uid)
        found = [
            *map(_received, together(self._index.receptions(uid))),
            *map(_sent, self._forwarding.groups(wanted, _MOST_GROUPS)),
            *map(_decided, self._patients.decisions_about(uid)),
            *self._deleted(uid),
        ]
        return sorted(found, key=lambda each: each.at, reverse=True)

    def _deleted(self, uid: str) -> Iterator[Occurrence]:
        for folder in self._index.deletions(uid):
            each = self._deletions.find(folder)
            yield Occurrence(
                what=Happened.DELETED, at=each.deleted_at, who=each.deleted_by, instances=each.instances,
                bytes=each.bytes, detail=each.reason, reference=each.folder,
            )  # fmt: skip


def together(receptions: Sequence[Reception]) -> list[Reception]:
    """Receptions, in the order of their beginning, with those of one source as one that follow upon each other."""
    joined: dict[tuple[str, str], list[Reception]] = {}
    for each in receptions:
        of_source = joined.setdefault((each.calling_ae, each.address), [])
        if of_source and each.first - of_source[-1].last <= _PAUSE:
            last = of_source[-1]
            of_source[-1] = replace(
                last, instances=last.instances + each.instances, bytes=last.bytes + each.bytes,
                last=max(last.last, each.last),
            )  # fmt: skip
        else:
            of_source.append(each)
    return [each for of_source in joined.values() for each in of_source]


def _received(reception: Reception) -> Occurrence:
    return Occurrence(
        what=Happened.RECEIVED, at=reception.last, since=reception.first, who=reception.calling_ae,
        where=reception.address, instances=reception.instances, bytes=reception.bytes,
    )  # fmt: skip


def _sent(group: DeliveryGroup) -> Occurrence:
    return Occurrence(
        what=Happened(group.state), at=group.last or group.since, since=group.since, who=group.remote,
        instances=group.instances, detail=group.detail,
    )  # fmt: skip


def _decided(decision: Decision) -> Occurrence:
    return Occurrence(
        what=Happened.MERGED if decision.whole else Happened.REASSIGNED, at=decision.at, who=decision.by,
        detail=decision.reason, before=decision.source.get("patient_id", ""),
        after=decision.target.get("patient_id", ""),
    )  # fmt: skip
