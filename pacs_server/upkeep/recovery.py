"""Recover from a crash: index or quarantine the files that dead processes left on their way in.

No other file of the archive is looked at, so the time depends on what was under way and not on the size of the archive.
A file whose seal holds is whole, wherever else it has a name: a power loss may have taken its final name and its row,
and its sender may have been told of success. Such files come first, in the order in which they were sealed. Any other
file was never acknowledged; one that was placed is indexed all the same.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from itertools import product
from typing import Final, NamedTuple

from pacs_server.archive.archive import NAMES, Archive
from pacs_server.archive.stored_file import USUAL_HEAD, StoredFile, read_stored
from pacs_server.audit.events import EventID
from pacs_server.audit.recorder import Recorder
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.part10 import PREFIX_END, Seal, decode_head
from pacs_server.dicom.subject import Subject
from pacs_server.errors import (
    DuplicateInstance,
    InvalidInstance,
    InvalidKey,
    ObjectExists,
    ObjectNotFound,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.index.instances import StoredInstance
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.keys import NAMINGS, instance_key
from pacs_server.storage.spool import Leftover, Spool

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
    with files.spool.leftovers() as left:
        if not left:
            return outcomes
        try:
            # A process that was killed leaves rows that a power loss may still take.
            archive.checkpoints.make_rows_durable()
            # An empty slot is nothing to tell of.
            done = [leftover for leftover in left if _is_empty(leftover)]
            for found in sorted(map(_found, (each for each in left if not _is_empty(each))), key=_turn):
                outcome = recovery.deal_with(found)
                outcomes[outcome] += 1
                counted(outcome.value)
                if outcome is not RecoveryOutcome.FAILED:
                    done.append(found.leftover)
        finally:
            arrivals.end()
        _retire(files.spool, done)
    if outcomes:
        log.warning("recovered", extra={outcome.value: count for outcome, count in sorted(outcomes.items())})
    return outcomes


def _is_empty(leftover: Leftover) -> bool:
    return not leftover.size and leftover.key is None


def _retire(spool: Spool, done: list[Leftover]) -> None:
    try:
        spool.retire(done)
    except (StorageUnavailable, StorageFull) as error:
        # All of it is done again at the next start, and comes to the same.
        log.error("cannot tidy up after recovery", extra={"reason": str(error)})


class _Found(NamedTuple):
    """A leftover with its SOP Instance UID and its seal, if it has one."""

    leftover: Leftover
    uid: str
    seal: Seal | None


def _found(leftover: Leftover) -> _Found:
    with suppress(StorageUnavailable, InvalidInstance, InvalidKey):  # dealing with it finds out again
        with leftover.open() as file:
            head = decode_head(file.read(0, USUAL_HEAD))
        if head is not None:
            return _Found(leftover, head.media_storage_sop_instance_uid, head.seal)
    return _Found(leftover, "", None)


def _turn(found: _Found) -> tuple[bool, int, int]:
    """The order of recovery: what was acknowledged comes before what may stand in its way.

    Two processes may have placed two versions of an instance at one moment: the second one knew of the first.
    """
    if found.seal is None or found.seal.number == 0:
        return True, 0, 0
    return False, -found.seal.version, found.seal.number


class _LeftoverRecovery:
    """Deals with one leftover after the other."""

    def __init__(self, archive: Archive, files: ArchiveFiles, arrivals: Arrivals) -> None:
        self._archive = archive
        self._files = files
        self._arrivals = arrivals

    def deal_with(self, found: _Found) -> RecoveryOutcome:
        leftover = found.leftover
        try:
            if found.seal is not None and (outcome := self._sealed(leftover, found.uid, found.seal)) is not None:
                return outcome
            return self._placed(leftover) if leftover.placed else self._received(leftover)
        except (StorageUnavailable, StorageFull) as error:
            log.error("cannot recover", extra={"path": leftover.name, "reason": str(error)})
            return RecoveryOutcome.FAILED

    def _sealed(self, leftover: Leftover, uid: str, seal: Seal) -> RecoveryOutcome | None:
        """Deal with a sealed file; None if its seal does not hold, so that it was not synced."""
        if leftover.size != seal.size:
            return None
        known = self._archive.find(uid)
        same = known is not None and (known.version, known.digest) == (seal.version, seal.digest)
        if known is not None and same and leftover.is_stored_as(known.path):
            # The row was written when the file had been synced, so the file need not be read.
            self._files.spool.make_durable(known.path)
            return RecoveryOutcome.COMPLETE
        try:
            with leftover.open() as file:
                stored = read_stored(file, leftover.name)
        except InvalidInstance:
            return None
        if stored.instance.digest != seal.digest:
            return None
        stored = replace(stored, instance=replace(stored.instance, version=seal.version))
        if leftover.placed:
            return self._settle(self._under_its_key(leftover, stored))
        return self._settle(self._put_under(leftover, stored, known))

    def _put_under(self, leftover: Leftover, stored: StoredFile, known: StoredInstance | None) -> StoredFile:
        """Give a file the final name again that a power loss has taken."""
        instance = stored.instance
        same = known is not None and (known.version, known.digest) == (instance.version, instance.digest)
        if known is not None and same and not self._files.storage.exists(known.path):
            self._files.spool.put_back(leftover, known.path)
            return replace(stored, instance=replace(instance, path=known.path))
        for version in range(instance.version, instance.version + NAMES):
            key = instance_key(stored.header, self._archive.naming, version)
            with suppress(ObjectExists):
                self._files.spool.put_back(leftover, key)
                return replace(stored, instance=replace(instance, path=key, version=version))
        raise StorageUnavailable("too many files of this instance lie there without a row")

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
        return self._settle(found)

    def _settle(self, found: StoredFile | None) -> RecoveryOutcome:
        """Make a file with its final name durable and index it; None has lost that name by now."""
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
