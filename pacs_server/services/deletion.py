"""Deleting: out of the index and into the trash, back again, and for good when its time is over.

The order, in which a crash at any point loses nothing:
    deletion.json durable -> files linked into the trash, durable -> audit trail -> rows out, one transaction ->
    first names of the files taken away -> kept.
    Back: files linked to where they were, durable -> audit trail -> rows in, one transaction -> out of the trash.
    For good: audit trail -> files -> deletion.json -> forgotten.
What was interrupted is brought to its end by `resume`, or to its beginning if nothing was committed.
"""

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, Final

from pacs_server.audit.events import Action, Event, EventID, Participant
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.dicom.levels import Level
from pacs_server.dicom.subject import Subject
from pacs_server.errors import InstanceNotFound, PacsError, StorageUnavailable
from pacs_server.index.decisions import Decision
from pacs_server.index.deletion_document import Deletion, DeletionStatus, Document, Rows, decode, encode, names_of
from pacs_server.index.deletions import DeletionIndex
from pacs_server.storage.trash import Trash

log = logging.getLogger(__name__)

# How often a deletion looks again at a study that changes while it is looked at.
_ATTEMPTS: Final = 5

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a deletion is about; `bytes` is what its instances take."""

    studies: int
    series: int
    instances: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """How many instances came back; the UIDs of those that stay in the trash: known again, or without a file."""

    instances: int
    conflicts: tuple[str, ...]
    missing: tuple[str, ...]


class DeletionService:
    """Deletes and restores, beside a running server and others that do the same; may be shared by all threads.

    Everything raises IndexUnavailable, StorageUnavailable and StorageFull; what changes something raises
    AuditUnavailable before it does.
    """

    def __init__(
        self,
        index: DeletionIndex,
        trash: Trash,
        recorder: Recorder,
        *,
        in_flight: Callable[[str], bool],
        decided: Callable[[], Iterable[Decision]],
        clock: Clock = _now,
    ) -> None:
        """`in_flight` says whether a file is just being stored, and its row about to be committed.

        `decided` gives what operators decided about whose studies are, all of it, in order.
        """
        self._index = index
        self._in_flight = in_flight
        self._trash = trash
        self._recorder = recorder
        self._decided = decided
        self._clock = clock

    # ---------------------------------------------------------------- out

    def extent(self, level: Level, uid: str) -> Extent:
        """What `delete` would take; raises InstanceNotFound."""
        rows = self._index.look_up(level, uid)
        size = sum(row["size"] for row in rows.instances)
        return Extent(len(rows.studies), len(rows.series), len(rows.instances), size)

    def delete(self, level: Level, uid: str, reason: str, by: Participant | None = None) -> Deletion:
        """Put a study, series or instance into the trash, with every version of its files; raises InstanceNotFound."""
        who = by or local_user()
        with self.settled():
            for _ in range(_ATTEMPTS):
                document = self._document(level, uid, reason, who)
                folder = document.deletion.folder
                self._trash.write(folder, encode(document))
                self._trash.link_in(folder, document.files)
                try:
                    done = self._index.take_out(document, lambda d=document: self._record(d, who, "deleted"))  # type: ignore[misc]
                except PacsError:
                    # Whether it was committed `resume` finds out, now or later.
                    self._resume_if_possible()
                    raise
                if done:
                    self._move(document)
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
        """The files of instances, with those of their earlier versions that are still there."""
        for row in rows.instances:
            yield row["path"]
            for name, version in product(names_of(row), range(1, row["version"])):
                earlier = _version_of(name, version)
                # One that is on its way in gets a row of its own, and is no earlier version.
                if earlier != row["path"] and not self._trash.free(earlier) and not self._in_flight(earlier):
                    yield earlier

    def _move(self, document: Document) -> None:
        """Take the first names away, but for what is in the index again."""
        folder = document.deletion.folder
        known = set(self._index.known([row["sop_instance_uid"] for row in document.rows.instances]).values())
        self._trash.take_away(folder, [path for path in document.files if path not in known])
        self._index.set_status(folder, DeletionStatus.KEPT)

    # ---------------------------------------------------------------- back in

    def restore(self, folder: str, by: Participant | None = None) -> RestoreResult:
        """Bring back what a deletion took; what is known again, or has no file, stays in the trash.

        Raises InstanceNotFound if there is no such deletion, or it is on its way out.
        """
        who = by or local_user()
        with self.settled():
            deletion = self._index.get(folder)
            if deletion is None or deletion.status is DeletionStatus.REMOVING:
                raise InstanceNotFound("no deletion of this ID is in the trash")
            for _ in range(_ATTEMPTS):
                restored = self._restore(decode(self._trash.read(folder), folder), who)
                if restored is not None:
                    log.info("restored", extra=_fields(deletion) | {"restored": restored.instances})
                    return restored
        raise StorageUnavailable("it changes all the time: try again when nothing more arrives")

    def _restore(self, document: Document, who: Participant) -> RestoreResult | None:
        folder = document.deletion.folder
        files = document.files_of(document.rows)
        known = self._index.known(list(files))
        back, conflicts, missing = _Sorted(), [], []
        for row in document.rows.instances:
            uid, path = row["sop_instance_uid"], row["path"]
            if not self._trash.holds(folder, path):
                missing.append(uid)
            elif not self._at_home(folder, path):
                conflicts.append(uid)
            elif uid not in known:
                back.rows.add(uid)
            elif known[uid] == path:
                # The index knows it as it was: it came back before, and only the trash does not know.
                back.there.add(uid)
            else:
                conflicts.append(uid)
        coming = back.rows | back.there
        paths = [path for uid in coming for path in files[uid] if self._at_home(folder, path)]
        self._trash.link_back(folder, [path for path in paths if self._trash.holds(folder, path)])
        left = document.only({*conflicts, *missing}) if conflicts or missing else None
        part = document.only(back.rows)
        told = document.only(coming)
        if not self._index.put_back(
            part.rows,
            folder,
            left.deletion if left else None,
            lambda: self._record_restored(told, who),
            lambda: (decision for decision in self._decided() if decision.at > document.deletion.deleted_at),
        ):
            return None
        self._empty(folder, left, paths)
        return RestoreResult(len(coming), tuple(conflicts), tuple(missing))

    def _at_home(self, folder: str, path: str) -> bool:
        """Whether the place that a file came from is free, or its own."""
        return self._trash.free(path) or self._trash.at_first_name(folder, path)

    def _empty(self, folder: str, left: Document | None, paths: list[str]) -> None:
        """Take out of the trash what has come back."""
        if left is None:
            if self._trash.in_place(folder):
                self._trash.drop(folder)
            return
        self._trash.write(folder, encode(left))
        self._trash.remove(folder, paths)

    # ---------------------------------------------------------------- for good

    def contents(self) -> list[Deletion]:
        """What is in the trash, the oldest first."""
        return self._index.list()

    def subject(self, folder: str) -> Subject:
        """Whose it is, by the document in the trash."""
        return _subjects(decode(self._trash.read(folder), folder))[0]

    def empty(
        self, older_than: timedelta, by: Participant | None = None, stopping: Callable[[], bool] = lambda: False
    ) -> list[Deletion]:
        """Remove for good what was deleted longer ago than that, until `stopping` says so; returns what was removed."""
        who = by or local_user()
        removed = []
        with self.settled():
            before = self._clock() - older_than
            for deletion in self._index.list():
                if deletion.deleted_at <= before and not stopping():
                    self._remove(deletion, who)
                    removed.append(deletion)
        return removed

    def _remove(self, deletion: Deletion, who: Participant) -> None:
        folder = deletion.folder
        if folder in self._trash.folders():
            self._record(decode(self._trash.read(folder), folder), who, "removed from the trash for good")
        self._index.set_status(folder, DeletionStatus.REMOVING)
        self._finish_removal(folder)
        log.info("removed for good", extra=_fields(deletion))

    def _finish_removal(self, folder: str) -> None:
        self._trash.drop(folder)
        self._index.forget(folder)

    # ---------------------------------------------------------------- what was interrupted

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Nothing of the trash is half done and nobody else works on it, for as long as the block runs."""
        with self._trash.locked():
            self._resume()
            yield

    def resume(self) -> None:
        """Bring to its end what was interrupted, unless somebody is at work on it right now."""
        with self._trash.locked(wait=False) as mine:
            if mine:
                self._resume()

    def _resume(self) -> None:
        known = {deletion.folder: deletion for deletion in self._index.list()}
        for folder in self._trash.folders():
            if folder not in known:
                self._settle_unknown(folder)
        for deletion in known.values():
            if deletion.status is DeletionStatus.MOVING:
                self._move(decode(self._trash.read(deletion.folder), deletion.folder))
            elif deletion.status is DeletionStatus.REMOVING:
                self._finish_removal(deletion.folder)

    def _settle_unknown(self, folder: str) -> None:
        """A folder that the index does not know: never committed, come back already, or an index of another day."""
        if self._trash.in_place(folder):
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
        """A study is Study Deleted, less than one is Instances Accessed with the action D (PS3.15 A.5.3)."""
        deletion = document.deletion
        whole = deletion.level is Level.STUDY
        event_id = EventID.STUDY_DELETED if whole else EventID.INSTANCES_ACCESSED
        self._write(document, event_id, Action.DELETE, who, f"{what}: {deletion.reason}")

    def _record_restored(self, document: Document, who: Participant) -> None:
        self._write(document, EventID.INSTANCES_ACCESSED, Action.CREATE, who, "restored from the trash")

    def _write(self, document: Document, event_id: EventID, action: Action, who: Participant, what: str) -> None:
        deletion = document.deletion
        detail = f"{what} ({deletion.level.name} {deletion.uid}, {deletion.instances} instances, {deletion.folder})"
        participants = (who, self._recorder.own())
        for subject in _subjects(document):
            self._recorder.write(Event(event_id, action, participants, subjects=(subject,), detail=detail))


class _Sorted:
    """What comes back: with its row, or with its row there already."""

    def __init__(self) -> None:
        self.rows: set[str] = set()
        self.there: set[str] = set()


def _version_of(name: str, version: int) -> str:
    return f"{name}.dcm" if version == 1 else f"{name}.v{version}.dcm"


def _subjects(document: Document) -> list[Subject]:
    """One for each study, with how many instances of which SOP class."""
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
