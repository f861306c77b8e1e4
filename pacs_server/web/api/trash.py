"""REST: delete into the trash, restore, and purge."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pacs_server.audit.auditor import participant_of
from pacs_server.dicom.caller import Role
from pacs_server.dicom.levels import Level
from pacs_server.index.deletion_document import Deletion
from pacs_server.web.api.binding import paged
from pacs_server.web.api.conflicts import Reason
from pacs_server.web.api.operation import Answer, Body, Call, Limit, Operation, Page, Parameters, unlimited
from pacs_server.web.api.stored import PATIENT_ROOT_FIND
from pacs_server.web.services import WebServices

_TAG: Final = "trash"
_LEVELS: Final = {"study": Level.STUDY, "series": Level.SERIES, "instance": Level.IMAGE}
_NAMES: Final = {level: name for name, level in _LEVELS.items()}
_PARTS: Final = {"deletion": "The `id` of a deletion."}
_GONE: Final = {404: "There is no such deletion in the trash."}

LevelName = Literal["study", "series", "instance"]


class DeletionRow(Answer):
    """What was deleted, by whom and why; it can be restored until it is purged."""

    id: str
    level: LevelName
    uid: Annotated[str, Field(description="The UID at that level.")]
    study_instance_uid: str
    reason: str
    deleted_by: str
    deleted_at: datetime
    kept_until: Annotated[
        datetime | None, Field(description="When it is purged by itself; null if it is kept until somebody purges it.")
    ]
    instances: int
    bytes: int
    status: Annotated[str, Field(description="KEPT, or MOVING or REMOVING while that is not finished.")]


class Whose(Answer):
    """Whose data a deletion took."""

    patient_name: str
    patient_id: str
    study_date: str
    study_description: str


class DeletionOf(DeletionRow):
    """A deletion, with whose data it took."""

    whose: Annotated[Whose | None, Field(description="null if it was not asked for, or cannot be read.")] = None


class TrashPage(Parameters):
    """Which page of the trash."""

    limit: Limit = 100
    whose: Annotated[bool, Field(description="Whether to tell whose data it is; that is recorded.")] = False
    after: Annotated[str | None, Field(description="As in the link `next` of the page before.")] = None


class Delete(Body):
    """What to delete."""

    level: LevelName
    uid: Annotated[str, Field(description="The UID at that level.")]
    reason: Reason


class Purge(Body):
    """What to purge."""

    older_than_days: Annotated[int, Field(ge=0, le=36500, description="Only what was deleted more days ago.")]


class Restored(Answer):
    """What was restored, and the SOP Instance UIDs of what stays in the trash."""

    instances: int
    conflicts: Annotated[list[str], Field(description="Instances that were stored again meanwhile.")]
    missing: Annotated[list[str], Field(description="Instances whose file is not in the trash.")]


class Purged(Answer):
    """What was purged."""

    deletions: list[DeletionRow]


class Trash:
    """The resource trash."""

    def __init__(self, services: WebServices) -> None:
        self._deletions = services.deletions
        self._config = services.config
        self._auditor = services.auditor

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/trash", name="list_trash", tag=_TAG, role=Role.OPERATOR,
                summary="List what is in the trash, the last deleted first.",
                query=TrashPage, answer=Page[DeletionOf], run=self._list,
            ),
            Operation(
                method="POST", path="/trash", name="delete", tag=_TAG, role=Role.OPERATOR,
                summary="Delete a study, a series or an instance into the trash.",
                body=Delete, answer=DeletionRow, status=201, run=self._delete,
                errors={404: "There is nothing of this UID in the archive."},
            ),
            Operation(
                method="GET", path="/trash/{deletion}", name="show_deletion", tag=_TAG, role=Role.OPERATOR,
                summary="Show a deletion.", parts=_PARTS, answer=DeletionRow, run=self._show, errors=_GONE,
            ),
            Operation(
                method="POST", path="/trash/{deletion}/restore", name="restore", tag=_TAG, role=Role.OPERATOR,
                summary="Bring back what a deletion took.", parts=_PARTS, answer=Restored, run=self._restore,
                errors=_GONE,
            ),
            Operation(
                method="DELETE", path="/trash/{deletion}", name="purge_deletion", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Remove what a deletion took for good.", parts=_PARTS, run=self._purge_one, errors=_GONE,
            ),
            Operation(
                method="POST", path="/trash/purge", name="purge", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Remove for good what was deleted long ago.", body=Purge, answer=Purged, run=self._purge,
            ),
        ]  # fmt: skip

    def _list(self, call: Call[TrashPage, None]) -> Answer:
        unlimited(call)
        rows = self._deletions.page(call.query.limit + 1, call.query.after)
        shown, following = paged(call, rows, "folder")
        if not call.query.whose:
            return Page[DeletionOf](items=[DeletionOf(**self._fields(each)) for each in shown], next=following)
        with self._auditor.query(call.caller, PATIENT_ROOT_FIND) as record:
            found = [DeletionOf(**self._fields(each), whose=self._whose(each)) for each in shown]
            record.matched(len(found), complete=following is None)
        return Page[DeletionOf](items=found, next=following)

    def _delete(self, call: Call[Any, Delete]) -> Answer:
        unlimited(call)
        asked = call.body
        done = self._deletions.delete(_LEVELS[asked.level], asked.uid, asked.reason, participant_of(call.caller))
        return self._row(self._deletions.find(done.folder))

    def _show(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return self._row(self._deletions.find(call.path["deletion"]))

    def _restore(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        result = self._deletions.restore(call.path["deletion"], participant_of(call.caller))
        return Restored(
            instances=result.instances, conflicts=list(result.conflicts), missing=list(result.missing)
        )  # fmt: skip

    def _purge_one(self, call: Call[Any, None]) -> None:
        unlimited(call)
        self._deletions.purge(call.path["deletion"], participant_of(call.caller))

    def _purge(self, call: Call[Any, Purge]) -> Answer:
        unlimited(call)
        older = timedelta(days=call.body.older_than_days)
        return Purged(deletions=[self._row(each) for each in self._deletions.empty(older, participant_of(call.caller))])

    def _row(self, deletion: Deletion) -> DeletionRow:
        return DeletionRow(**self._fields(deletion))

    def _whose(self, deletion: Deletion) -> Whose | None:
        found = self._deletions.whose(deletion.folder)
        return None if found is None else Whose(**asdict(found))

    def _fields(self, deletion: Deletion) -> dict[str, Any]:
        days, at = self._config().storage.trash_days, deletion.deleted_at
        return dict(
            id=deletion.folder, level=_NAMES[deletion.level],
            uid=deletion.uid, study_instance_uid=deletion.study_instance_uid, reason=deletion.reason,
            deleted_by=deletion.deleted_by, deleted_at=at, instances=deletion.instances,
            kept_until=None if days is None else at + timedelta(days=days),
            bytes=deletion.bytes, status=deletion.status,
        )  # fmt: skip
