"""Delete studies, series and instances: move them to the trash, restore them, and purge them when retention ends.

The order of the steps, in which a crash at any point loses nothing:
    Delete: checkpoint -> deletion.json durable -> files in the trash too, durable -> audit trail -> rows out, one
    transaction -> files out of the storage -> status KEPT.
    Restore: files in the storage again, durable -> audit trail -> rows in, one transaction -> files out of the trash.
    Purge: audit trail -> status REMOVING -> files -> deletion.json -> row of the deletion.
`resume` finishes what was interrupted, or undoes it if nothing was committed.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, Final

from pacs_server.archive.checkpoints import Checkpoints
from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.dicom.levels import Level
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InstanceNotFound, PacsError, StorageUnavailable
from pacs_server.index.decisions import Decision
from pacs_server.index.deletion_document import Deletion, DeletionStatus, Document, Rows, decode, encode, names_of
from pacs_server.index.deletions import DeletionIndex
from pacs_server.kit.words import counted
from pacs_server.services.decisions import DecisionJournal
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.keys import with_version

log = logging.getLogger(__name__)

# How often a deletion looks again at a study that changes while it is looked at.
_ATTEMPTS: Final = 5
# Of so many deletions it is kept whose data they took.
_KNOWN: Final = 2000

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose data a deletion took, and which study: texts as the index had them."""

    patient_name: str
    patient_id: str
    study_date: str
    study_description: str


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a deletion takes; `bytes` is the size of its instances."""

    studies: int
    series: int
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """How many instances were restored, and the UIDs of those that stay in the trash.

    An instance stays if its UID is in the index again (`conflicts`) or its file is not in the trash (`missing`).
    """

    instances: int
    conflicts: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _RestorePlan:
    """What to do with the instances of a deletion, by SOP Instance UID.

    `indexed` instances have their row in the index already: an earlier restore was interrupted after its transaction.
    """

    unindexed: set[str]
    indexed: set[str]
    conflicts: list[str]
    missing: list[str]

    @property
    def restored(self) -> set[str]:
        """The instances that do not stay in the trash."""
        return self.unindexed | self.indexed

    @property
    def staying(self) -> set[str]:
        """The instances that stay in the trash."""
        return {*self.conflicts, *self.missing}


class DeletionService:
    """Deletes, restores and purges, beside a running server and others that do the same; shared by all threads.

    Every method raises IndexUnavailable, StorageUnavailable and StorageFull. A method that changes something raises
    AuditUnavailable before it does so.
    """

    def __init__(
        self,
        index: DeletionIndex,
        files: ArchiveFiles,
        checkpoints: Checkpoints,
        recorder: Recorder,
        *,
        clock: Clock = _now,
    ) -> None:
        self._index = index
        self._checkpoints = checkpoints
        self._storage = files.storage
        self._spool = files.spool
        self._trash = files.trash
        self._journal = DecisionJournal(files.decisions)
        self._recorder = recorder
        self._clock = clock
        self._whose: dict[str, Whose] = {}

    # ---------------------------------------------------------------- delete

    def extent(self, level: Level, uid: str) -> Extent:
        """What `delete` would take. Raises InstanceNotFound."""
        rows = self._index.look_up(level, uid)
        size = sum(row["size"] for row in rows.instances)
        return Extent(len(rows.studies), len(rows.series), len(rows.instances), size)

    def delete(self, level: Level, uid: str, reason: str, by: Participant | None = None) -> Deletion:
        """Move a study, series or instance to the trash, with all versions of its files. Raises InstanceNotFound."""
        who = by or local_user()
        with self.settled():
            for _ in range(_ATTEMPTS):
                # No earlier version is taken for one that is on its way.
                self._checkpoints.take_everywhere()
                document = self._document(level, uid, reason, who)
                # No slot may bring back after a crash what is deleted here. What comes now changes the rows.
                self._checkpoints.take_everywhere()
                folder = document.deletion.folder
                self._trash.write(folder, encode(document))
                self._trash.add(folder, document.files)
                try:
                    done = self._index.take_out(document, lambda d=document: self._record(d, who, "deleted"))  # type: ignore[misc]
                except PacsError:
                    # `resume` finds out whether the transaction was committed, now or later.
                    self._resume_if_possible()
                    raise
                if done:
                    self._take_away(document)
                    log.info("deleted", extra=_fields(document.deletion))
                    return document.deletion
                self._trash.drop(folder)
        raise StorageUnavailable("it changes all the time: try again when nothing more arrives")

    def _document(self, level: Level, uid: str, reason: str, who: Participant) -> Document:
        rows = self._index.look_up(level, uid)
        now = self._clock()
        folder = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        size = sum(row["size"] for row in rows.instances)
        study = rows.studies[0]["study_instance_uid"]
        deletion = Deletion(
            folder, level, uid, study, reason, who.user_id, now, len(rows.instances), size, DeletionStatus.MOVING
        )
        return Document(deletion, rows, tuple(self._files(rows)))

    def _files(self, rows: Rows) -> Iterator[str]:
        """The keys of instances, with those of their earlier versions that are still stored."""
        for row in rows.instances:
            yield row["path"]
            for name, version in product(names_of(row), range(1, row["version"])):
                earlier = with_version(name, version)
                # A file that is on its way in gets a row of its own, and is no earlier version.
                stored = earlier != row["path"] and self._storage.exists(earlier)
                if stored and not self._spool.is_in_flight(earlier):
                    yield earlier

    def _take_away(self, document: Document) -> None:
        """Remove the files from the storage that are in the trash, except those that the index knows again."""
        folder = document.deletion.folder
        known = set(self._index.known([row["sop_instance_uid"] for row in document.rows.instances]).values())
        self._trash.take_away(folder, [key for key in document.files if key not in known])
        self._index.set_status(folder, DeletionStatus.KEPT)

    # ---------------------------------------------------------------- restore

    def restore(self, folder: str, by: Participant | None = None) -> RestoreResult:
        """Restore what a deletion took. Instances that are known again, or have no file, stay in the trash.

        Raises InstanceNotFound if there is no such deletion, or if it is being purged.
        """
        who = by or local_user()
        with self.settled():
            deletion = self._index.get(folder)
            if deletion is None or deletion.status is DeletionStatus.REMOVING:
                raise InstanceNotFound("no deletion of this ID is in the trash")
            for _ in range(_ATTEMPTS):
                result = self._restore(decode(self._trash.read(folder), folder), who)
                if result is not None:
                    log.info("restored", extra=_fields(deletion) | {"restored": result.instances})
                    return result
        raise StorageUnavailable("it changes all the time: try again when nothing more arrives")

    def _restore(self, document: Document, who: Participant) -> RestoreResult | None:
        """Restore a deletion; None, and nothing is changed in the index, if one of its UIDs was stored meanwhile."""
        folder, deleted_at = document.deletion.folder, document.deletion.deleted_at
        files = document.files_of(document.rows)
        plan = self._plan(document, self._index.known(list(files)))
        keys = [key for uid in plan.restored for key in files[uid] if self._can_return(folder, key)]
        self._trash.bring_back(folder, [key for key in keys if self._trash.holds(folder, key)])
        left = document.only(plan.staying) if plan.staying else None
        restored = document.only(plan.restored)
        if not self._index.put_back(
            document.only(plan.unindexed).rows,
            folder,
            left.deletion if left else None,
            lambda: self._record_restored(restored, who),
            lambda: self._decided_after(deleted_at),
        ):
            return None
        self._remove_restored(folder, left, keys)
        return RestoreResult(len(plan.restored), tuple(plan.conflicts), tuple(plan.missing))

    def _plan(self, document: Document, known: dict[str, str]) -> _RestorePlan:
        """Decide about each instance; `known` are the keys of those that are in the index, by SOP Instance UID."""
        folder = document.deletion.folder
        plan = _RestorePlan(set(), set(), [], [])
        for row in document.rows.instances:
            uid, key = row["sop_instance_uid"], row["path"]
            if not self._trash.holds(folder, key):
                plan.missing.append(uid)
            elif not self._can_return(folder, key) or known.get(uid, key) != key:
                plan.conflicts.append(uid)
            elif uid in known:
                plan.indexed.add(uid)
            else:
                plan.unindexed.add(uid)
        return plan

    def _can_return(self, folder: str, key: str) -> bool:
        """Whether nothing is stored under the key of a file in the trash, or that file itself."""
        return not self._storage.exists(key) or self._trash.is_stored(folder, key)

    def _decided_after(self, moment: datetime) -> Iterable[Decision]:
        return (decision for decision in self._journal.read() if decision.at > moment)

    def _remove_restored(self, folder: str, left: Document | None, keys: list[str]) -> None:
        """Remove from the trash what was restored."""
        if left is None:
            if self._trash.is_all_stored(folder):
                self._trash.drop(folder)
            return
        self._trash.write(folder, encode(left))
        self._trash.remove(folder, keys)

    # ---------------------------------------------------------------- purge

    def contents(self) -> list[Deletion]:
        """The deletions in the trash, the oldest first."""
        return self._index.list()

    def page(self, limit: int, after: str | None = None) -> Sequence[Deletion]:
        """The newest deletions in the trash, `limit` at most, or those before the one of the ID `after`."""
        return self._index.page(limit, after)

    def find(self, folder: str) -> Deletion:
        """The deletion of that ID. Raises InstanceNotFound."""
        deletion = self._index.get(folder)
        if deletion is None:
            raise InstanceNotFound("no deletion of this ID is in the trash")
        return deletion

    def subject(self, folder: str) -> Subject:
        """The patient and the study of a deletion, by its document in the trash."""
        return _subjects(decode(self._trash.read(folder), folder))[0]

    def whose(self, folder: str) -> Whose | None:
        """Whose data a deletion took, by its document in the trash; None if that cannot be read."""
        # A document may be long, and says the same of this for ever.
        if (known := self._whose.get(folder)) is not None:
            return known
        try:
            rows = decode(self._trash.read(folder), folder).rows
        except StorageUnavailable:
            return None
        if not (rows.patients and rows.studies):
            return None
        patient, study = rows.patients[0], rows.studies[0]
        found = Whose(
            patient["patient_name"], patient["patient_id"], study["study_date"], study["study_description"]
        )  # fmt: skip
        if len(self._whose) >= _KNOWN:
            self._whose.clear()
        self._whose[folder] = found
        return found

    def empty(
        self, older_than: timedelta, by: Participant | None = None, stopping: Callable[[], bool] = lambda: False
    ) -> list[Deletion]:
        """Purge the deletions that are older than that, until `stopping` says so; returns those that were purged."""
        who = by or local_user()
        purged: list[Deletion] = []
        with self.settled():
            before = self._clock() - older_than
            for deletion in self._index.list():
                if deletion.deleted_at <= before and not stopping():
                    if not purged:
                        self._checkpoints.take_everywhere()
                    self._purge(deletion, who)
                    purged.append(deletion)
        return purged

    def purge(self, folder: str, by: Participant | None = None) -> Deletion:
        """Purge one deletion. Raises InstanceNotFound if it is not in the trash."""
        with self.settled():
            deletion = self.find(folder)
            self._checkpoints.take_everywhere()
            self._purge(deletion, by or local_user())
        return deletion

    def _purge(self, deletion: Deletion, who: Participant) -> None:
        folder = deletion.folder
        if folder in self._trash.folders():
            self._record(decode(self._trash.read(folder), folder), who, "removed from the trash for good")
        self._index.set_status(folder, DeletionStatus.REMOVING)
        self._finish_purge(folder)
        log.info("removed for good", extra=_fields(deletion))

    def _finish_purge(self, folder: str) -> None:
        self._trash.drop(folder)
        self._index.forget(folder)

    # ---------------------------------------------------------------- after an interruption

    @contextmanager
    def settled(self) -> Iterator[None]:
        """As long as the block runs, no deletion is half done and nobody else deletes, restores or purges."""
        with self._trash.locked():
            self._resume()
            yield

    def resume(self) -> None:
        """Finish what was interrupted, unless somebody works on the trash right now."""
        with self._trash.locked(wait=False) as alone:
            if alone:
                self._resume()

    def _resume(self) -> None:
        known = {deletion.folder: deletion for deletion in self._index.list()}
        for folder in self._trash.folders():
            if folder not in known:
                self._settle_unknown(folder)
        for deletion in known.values():
            if deletion.status is DeletionStatus.MOVING:
                self._take_away(decode(self._trash.read(deletion.folder), deletion.folder))
            elif deletion.status is DeletionStatus.REMOVING:
                self._finish_purge(deletion.folder)

    def _settle_unknown(self, folder: str) -> None:
        """Deal with a folder that the index does not know.

        If all its files are stored, the deletion was not committed, or it was restored already: the folder goes.
        Otherwise the index is an older one, and takes the deletion over.
        """
        if self._trash.is_all_stored(folder):
            self._trash.drop(folder)
            return
        try:
            self._index.adopt(decode(self._trash.read(folder), folder).deletion)
        except StorageUnavailable as error:
            log.error("folder in the trash cannot be understood, it stays", extra={"reason": str(error)})
        else:
            log.warning("deletion taken over from the trash", extra={"folder": folder})

    def _resume_if_possible(self) -> None:
        try:
            self._resume()
        except PacsError as error:
            log.warning("deletion left unfinished", extra={"reason": str(error)})

    # ---------------------------------------------------------------- audit

    def _record(self, document: Document, who: Participant, what: str) -> None:
        """Record Study Deleted for a study, and for less Instances Accessed with the action D (PS3.15 A.5.3)."""
        deletion = document.deletion
        whole = deletion.level is Level.STUDY
        event_id = EventID.STUDY_DELETED if whole else EventID.INSTANCES_ACCESSED
        self._write(document, event_id, Action.DELETE, who, f"{what}: {deletion.reason}")

    def _record_restored(self, document: Document, who: Participant) -> None:
        self._write(document, EventID.INSTANCES_ACCESSED, Action.CREATE, who, "restored from the trash")

    def _write(self, document: Document, event_id: EventID, action: Action, who: Participant, what: str) -> None:
        deletion = document.deletion
        size = counted(deletion.instances, "instance")
        detail = f"{what} ({deletion.level.name} {deletion.uid}, {size}, {deletion.folder})"
        participants = (who, self._recorder.own())
        for subject in _subjects(document):
            self._recorder.write(Event(event_id, action, participants, subjects=(subject,), detail=detail))


def _subjects(document: Document) -> list[Subject]:
    """One for each study, with the number of its instances by SOP class."""
    rows = document.rows
    patients = {row["id"]: row for row in rows.patients}
    study_of = {row["id"]: row["study_fk"] for row in rows.series}
    counts: dict[int, Counter[str]] = {}
    for row in rows.instances:
        counts.setdefault(study_of[row["series_fk"]], Counter())[row["sop_class_uid"]] += 1
    return [_subject(row, patients[row["patient_fk"]], counts.get(row["id"], Counter())) for row in rows.studies]


def _subject(study: Any, patient: Any, counts: Counter[str]) -> Subject:
    return Subject(
        patient["patient_id"], patient["issuer_of_patient_id"], study["study_instance_uid"],
        study["accession_number"], dict(counts),
    )  # fmt: skip


def _fields(deletion: Deletion) -> dict[str, object]:
    return {
        "folder": deletion.folder,
        "level": deletion.level.name,
        "uid": deletion.uid,
        "instances": deletion.instances,
        "bytes": deletion.bytes,
    }
