"""Repair what verification finds, as far as possible without removing a byte; each change is an audit event."""

import logging
from dataclasses import replace

from pacs_server.archive.archive import Archive
from pacs_server.archive.stored_file import read_stored
from pacs_server.audit.events import Action, Event, EventID, Outcome
from pacs_server.audit.recorder import Recorder, local_user
from pacs_server.dicom.subject import Subject
from pacs_server.errors import DuplicateInstance, InvalidInstance
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.upkeep.checking import Finding, FindingKind

log = logging.getLogger(__name__)


class RepairService:
    """Indexes or quarantines files without a row, points rows to files that were moved, and corrects counters."""

    def __init__(
        self,
        archive: Archive,
        files: ArchiveFiles,
        index: IntegrityIndex,
        queries: QueryIndex,
        audit: Recorder,
    ) -> None:
        self._archive = archive
        self._files = files
        self._index = index
        self._queries = queries
        self._audit = audit
        self._recounted = False

    def repair(self, found: Finding) -> Finding:
        """Repair what was found and return the finding with what was done: nothing if only a sender or backup can help.

        Raises StorageUnavailable, StorageFull, IndexUnavailable, AuditUnavailable.
        """
        self._audit.ensure_writable()
        match found.kind:
            case FindingKind.ORPHAN:
                done = self._orphan(found)
            case FindingKind.MISPLACED:
                done = self._misplaced(found)
            case FindingKind.COUNTER:
                done = self._counter()
            case _:
                return found
        if done:
            self._record(found, done)
            log.warning("repaired", extra={"uid": found.uid, "path": found.path, "found": found.kind, "done": done})
        return replace(found, repaired=done)

    def _orphan(self, found: Finding) -> str:
        try:
            with self._files.storage.open(found.path) as source:
                stored = read_stored(source, found.path)
            # Whoever put the file there may not have made it durable.
            self._files.spool.make_durable(found.path)
            self._archive.adopt(stored)
        except (InvalidInstance, DuplicateInstance):
            if found.uid and found.uid not in self._index.find([found.uid]):
                # The instance has a damaged row: this file may be all that is left of the instance.
                return ""
            return f"moved to {self._files.quarantine.add(found.path, found.detail)}"
        return "taken into the index"

    def _misplaced(self, found: Finding) -> str:
        row = self._index.find([found.uid]).get(found.uid)
        if row is None or not self._index.move(found.uid, old=row.stored.path, new=found.path):
            return ""
        return f"the index points to it now, and no longer to {row.stored.path}"

    def _counter(self) -> str:
        if not self._recounted:
            self._index.recount()
            self._recounted = True
        return "counted anew"

    def _record(self, found: Finding, done: str) -> None:
        """Record a repair in the audit trail, with the patient if the index knows whose instance it is."""
        subjects: list[Subject] = []
        if found.kind is not FindingKind.COUNTER and found.uid:
            subjects = self._queries.subjects_of([found.uid])
        name = f"{found.uid} {found.path}".strip()
        event = Event(
            EventID.INSTANCES_ACCESSED,
            Action.UPDATE,
            (local_user(), self._audit.own()),
            Outcome.SUCCESS,
            subjects=tuple(subjects),
            detail=f"verify --repair: {found.kind} {name}: {done}",
        )
        self._audit.write(event)
