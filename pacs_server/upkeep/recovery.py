"""After a crash: what dead processes left in `incoming/` is indexed, put into quarantine, or needs nothing.

No other file of the archive is looked at, so it takes as long as what was under way, not as long as the
archive is large. What is indexed here was durable and not acknowledged; its sender may send it again.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from itertools import product
from typing import Final

from pacs_server.archive.archive import NAMES, Archive
from pacs_server.archive.stored_file import USUAL_HEAD, StoredFile, read_stored
from pacs_server.audit.events import EventID
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.part10 import PREFIX_END, decode_head
from pacs_server.dicom.subject import Subject
from pacs_server.errors import DuplicateInstance, InvalidInstance, StorageFull, StorageUnavailable
from pacs_server.storage.filesystem import FileSystemStorage, Leftover
from pacs_server.storage.paths import NAMINGS, relative_path

log = logging.getLogger(__name__)

_NOT_FINISHED: Final = "the transfer was not finished"


class RecoveryOutcome(StrEnum):
    """What became of one entry."""

    INDEXED = "indexed"  # it was durable and its row was not there
    COMPLETE = "complete"  # its row was there
    SUPERSEDED = "superseded"  # a later version has the row, or it was deleted
    QUARANTINED = "quarantined"
    EMPTY = "empty"  # nothing had come of it
    FAILED = "failed"  # the storage did not give or take it: tried again at the next start


def recover(
    archive: Archive, storage: FileSystemStorage, audit: Recorder, counted: Callable[[str], None] = lambda outcome: None
) -> Counter[RecoveryOutcome]:
    """Deal with every entry of a dead process; `counted` hears of each outcome.

    Raises IndexUnavailable, AuditUnavailable, and StorageUnavailable if `incoming/` cannot be listed; what has
    not been dealt with then stays for the next time.
    """
    outcomes: Counter[RecoveryOutcome] = Counter()
    arrivals = Arrivals(audit, (audit.own(),), EventID.INSTANCES_TRANSFERRED)
    entries = _Entries(archive, storage, arrivals)
    try:
        for leftover in storage.abandoned():
            outcome = entries.deal_with(leftover)
            outcomes[outcome] += 1
            counted(outcome.value)
    finally:
        arrivals.end()
    if outcomes:
        log.warning("recovered", extra={outcome.value: count for outcome, count in sorted(outcomes.items())})
    return outcomes


class _Entries:
    """Deals with one entry after the other."""

    def __init__(self, archive: Archive, storage: FileSystemStorage, arrivals: Arrivals) -> None:
        self._archive = archive
        self._storage = storage
        self._arrivals = arrivals

    def deal_with(self, leftover: Leftover) -> RecoveryOutcome:
        try:
            outcome = self._placed(leftover) if leftover.linked or leftover.moved_to else self._received(leftover)
            self._storage.remove(leftover.path)
        except (StorageUnavailable, StorageFull) as error:
            log.error("cannot recover", extra={"path": leftover.path, "reason": str(error)})
            return RecoveryOutcome.FAILED
        return outcome

    def _received(self, leftover: Leftover) -> RecoveryOutcome:
        """It never got its final name, so nobody was told of success."""
        if not self._has_data(leftover):
            return RecoveryOutcome.EMPTY
        return self._quarantine(leftover.path, _NOT_FINISHED)

    def _has_data(self, leftover: Leftover) -> bool:
        """Whether more has come than the head, which we write ourselves."""
        if leftover.size <= PREFIX_END:
            return False
        with self._storage.open(leftover.path) as file:
            start = file.read(0, USUAL_HEAD)
        with suppress(InvalidInstance):
            head = decode_head(start)
            return head is None or leftover.size > head.data_set_offset
        return False

    def _placed(self, leftover: Leftover) -> RecoveryOutcome:
        """It has another name, which is the final one unless the file was deleted since."""
        source = leftover.moved_to or leftover.path
        if not self._storage.exists(source):
            return RecoveryOutcome.EMPTY
        try:
            with self._storage.open(source) as file:
                stored = read_stored(file, source)
            found = stored if leftover.moved_to else self._under_final_name(stored)
        except InvalidInstance as error:
            return self._quarantine(source, f"it cannot be read: {error}")
        if found is None:
            # What else it is linked to has it now: the trash, or the quarantine, which a power loss may undo.
            self._storage.sync_quarantine()
            return RecoveryOutcome.SUPERSEDED
        self._storage.sync_name(found.instance.path)
        return self._adopt(found)

    def _under_final_name(self, stored: StoredFile) -> StoredFile | None:
        """The file at the path that its entry is linked to, also if storage.naming has changed since."""
        known = self._archive.find(stored.instance.uids.sop)
        last = NAMES + (known.version if known else 0)
        for version, naming in product(range(1, last + 1), NAMINGS):
            path = relative_path(stored.header, naming, version)
            if self._storage.same(stored.instance.path, path):
                return replace(stored, instance=replace(stored.instance, path=path, version=version))
        return None

    def _adopt(self, stored: StoredFile) -> RecoveryOutcome:
        instance = stored.instance
        known = self._archive.find(instance.uids.sop)
        if known is None:
            self._arrivals.begin(_subject(stored), instance.sop_class_uid)
        elif known.path == instance.path:
            return RecoveryOutcome.COMPLETE
        try:
            outcome = self._archive.adopt(stored)
        except DuplicateInstance:
            return self._second(stored)
        self._arrivals.stored(f"{outcome.value} after a crash")
        log.warning("file without a row indexed", extra={"sop_instance_uid": instance.uids.sop, "path": instance.path})
        return RecoveryOutcome.INDEXED

    def _second(self, stored: StoredFile) -> RecoveryOutcome:
        """Another file has the row of this UID."""
        instance = stored.instance
        known = self._archive.find(instance.uids.sop)
        if known is not None and instance.version < known.version:
            # It may have been acknowledged before it was replaced: versions are kept.
            return RecoveryOutcome.SUPERSEDED
        same = known is not None and (known.digest, known.transfer_syntax_uid) == (
            instance.digest,
            instance.transfer_syntax_uid,
        )
        reason = "the same bytes are" if same else "other bytes are"
        return self._quarantine(instance.path, f"{reason} stored under this SOP Instance UID")

    def _quarantine(self, path: str, reason: str) -> RecoveryOutcome:
        kept = self._storage.quarantine(path, reason)
        log.warning("file put into quarantine", extra={"path": kept, "reason": reason})
        return RecoveryOutcome.QUARANTINED


def _subject(stored: StoredFile) -> Subject:
    value = stored.header.values.get
    return Subject(
        value("patient_id", ""),
        value("issuer_of_patient_id", ""),
        stored.instance.uids.study,
        value("accession_number", ""),
    )
