"""Recover from a crash: index or quarantine the files that dead processes left on their way in.

No other file of the archive is looked at, so the time depends on what was under way and not on the size of the archive.
A file that is indexed here was durable and not acknowledged; its sender may send it again.
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
from pacs_server.errors import (
    DuplicateInstance,
    InvalidInstance,
    InvalidKey,
    ObjectNotFound,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.keys import NAMINGS, instance_key
from pacs_server.storage.spool import Leftover

log = logging.getLogger(__name__)

_NOT_FINISHED: Final = "the transfer was not finished"


class RecoveryOutcome(StrEnum):
    """What became of one leftover."""

    INDEXED = "indexed"  # the file was durable and had no row
    COMPLETE = "complete"  # the file had its row
    SUPERSEDED = "superseded"  # a later version has the row, or the instance was deleted
    QUARANTINED = "quarantined"
    EMPTY = "empty"  # no data had been received
    FAILED = "failed"  # the storage failed: tried again at the next start


def recover(
    archive: Archive, files: ArchiveFiles, audit: Recorder, counted: Callable[[str], None] = lambda outcome: None
) -> Counter[RecoveryOutcome]:
    """Deal with every leftover of dead processes; `counted` is told each outcome.

    Raises IndexUnavailable, AuditUnavailable, and StorageUnavailable if the leftovers cannot be listed. Leftovers that
    have not been dealt with then stay for the next time.
    """
    outcomes: Counter[RecoveryOutcome] = Counter()
    arrivals = Arrivals(audit, (audit.own(),), EventID.INSTANCES_TRANSFERRED)
    recovery = _LeftoverRecovery(archive, files, arrivals)
    try:
        for leftover in files.spool.leftovers():
            outcome = recovery.deal_with(leftover)
            outcomes[outcome] += 1
            counted(outcome.value)
    finally:
        arrivals.end()
    if outcomes:
        log.warning("recovered", extra={outcome.value: count for outcome, count in sorted(outcomes.items())})
    return outcomes


class _LeftoverRecovery:
    """Deals with one leftover after the other."""

    def __init__(self, archive: Archive, files: ArchiveFiles, arrivals: Arrivals) -> None:
        self._archive = archive
        self._files = files
        self._arrivals = arrivals

    def deal_with(self, leftover: Leftover) -> RecoveryOutcome:
        try:
            outcome = self._placed(leftover) if leftover.placed else self._received(leftover)
            leftover.remove()
        except (StorageUnavailable, StorageFull) as error:
            log.error("cannot recover", extra={"path": leftover.name, "reason": str(error)})
            return RecoveryOutcome.FAILED
        return outcome

    def _received(self, leftover: Leftover) -> RecoveryOutcome:
        """Deal with a file that was never placed, so that nobody was told of success."""
        if not self._has_data(leftover):
            return RecoveryOutcome.EMPTY
        return _quarantined(leftover.quarantine(_NOT_FINISHED), _NOT_FINISHED)

    def _has_data(self, leftover: Leftover) -> bool:
        """Whether data was received behind the head, which this server writes itself."""
        if leftover.size <= PREFIX_END:
            return False
        with leftover.open() as file:
            start = file.read(0, USUAL_HEAD)
        with suppress(InvalidInstance):
            head = decode_head(start)
            return head is None or leftover.size > head.data_set_offset
        return False

    def _placed(self, leftover: Leftover) -> RecoveryOutcome:
        """Deal with a file that was placed; it is still stored under its key unless it was deleted since."""
        try:
            with leftover.open() as file:
                stored = read_stored(file, leftover.key or leftover.name)
            found = self._under_its_key(leftover, stored) if leftover.key is None else stored
        except (ObjectNotFound, InvalidKey):
            return RecoveryOutcome.EMPTY
        except InvalidInstance as error:
            reason = f"it cannot be read: {error}"
            return _quarantined(leftover.quarantine(reason), reason)
        if found is None:
            # The file is in the trash now, or in quarantine, which a power loss may undo.
            self._files.quarantine.sync()
            return RecoveryOutcome.SUPERSEDED
        self._files.spool.make_durable(found.instance.path)
        return self._adopt(found)

    def _under_its_key(self, leftover: Leftover, stored: StoredFile) -> StoredFile | None:
        """The file under the key where it was placed, even if storage.naming has changed since."""
        known = self._archive.find(stored.instance.uids.sop)
        last = NAMES + (known.version if known else 0)
        for version, naming in product(range(1, last + 1), NAMINGS):
            key = instance_key(stored.header, naming, version)
            if leftover.is_stored_as(key):
                return replace(stored, instance=replace(stored.instance, path=key, version=version))
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
        """Deal with a file of a UID whose row another file has."""
        instance = stored.instance
        known = self._archive.find(instance.uids.sop)
        if known is not None and instance.version < known.version:
            # The file may have been acknowledged before it was replaced: earlier versions are kept.
            return RecoveryOutcome.SUPERSEDED
        same = known is not None and (known.digest, known.transfer_syntax_uid) == (
            instance.digest,
            instance.transfer_syntax_uid,
        )
        reason = "the same bytes are" if same else "other bytes are"
        reason = f"{reason} stored under this SOP Instance UID"
        return _quarantined(self._files.quarantine.add(instance.path, reason), reason)


def _quarantined(name: str, reason: str) -> RecoveryOutcome:
    log.warning("file put into quarantine", extra={"path": name, "reason": reason})
    return RecoveryOutcome.QUARANTINED


def _subject(stored: StoredFile) -> Subject:
    value = stored.header.values.get
    return Subject(
        value("patient_id", ""),
        value("issuer_of_patient_id", ""),
        stored.instance.uids.study,
        value("accession_number", ""),
    )
