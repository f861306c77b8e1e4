"""Compare the stored files with the index, in both directions: every file has its row, and every row its file.

Files come first, in the order of their keys, then rows, in the order of their keys, then counters. Position and
findings are kept in the index, so that memory does not grow and a run that was killed can continue. The server may keep
storing while verification runs, so every finding is checked again at the end and dropped if it has resolved itself.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import Final

from pacs_server.archive.stored_file import StoredFile, read_stored
from pacs_server.errors import InvalidInstance, InvalidKey, ObjectNotFound, ObjectUnreadable, PacsError
from pacs_server.index.integrity import IndexedInstance, IntegrityIndex, Scope
from pacs_server.index.state import StateIndex
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import Storage
from pacs_server.storage.keys import named_by
from pacs_server.upkeep.checking import BeforeRead, Checks, Finding, FindingKind, check

STATE: Final = "verify"
_FINDINGS: Final = "verify.finding."
_FILES_AT_A_TIME: Final = 500
_ROWS_AT_A_TIME: Final = 200
_SAVE_SECONDS: Final = 2.0


@dataclass(slots=True)
class VerificationProgress:
    """How far a run is, and what it has counted; kept as JSON.

    `phase` is files, rows, confirm or done. `path` is the last file, and `key` the last row, that was compared.
    """

    run: str
    since: str | None
    study: str | None
    digest: bool
    phase: str = "files"
    path: str = ""
    key: int = 0
    files: int = 0
    instances: int = 0
    older_versions: int = 0
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """How a run ended: `findings` counts the findings of each kind, `repaired` those that were repaired."""

    progress: VerificationProgress
    finished_at: datetime
    incoming: int
    quarantine: int
    findings: dict[str, int] = field(default_factory=dict)
    repaired: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong any more."""
        return sum(self.findings.values()) == self.repaired


@dataclass(frozen=True, slots=True)
class VerificationSources:
    """What a run compares, where it keeps its state, and `settled`: a block in which no deletion runs."""

    files: ArchiveFiles
    index: IntegrityIndex
    state: StateIndex
    settled: Callable[[], AbstractContextManager[None]] = nullcontext


# Repairs what was found, or not, and returns the finding with what was done.
Repair = Callable[[Finding], Finding]


class Verification:
    """One run, new or continued."""

    def __init__(
        self,
        sources: VerificationSources,
        progress: VerificationProgress,
        spend: BeforeRead,
        shown: Callable[[VerificationProgress], None],
    ) -> None:
        """`shown` is told the progress about every two seconds."""
        self._sources = sources
        self._files = sources.files
        self._progress = progress
        self._spend = spend
        self._shown = shown
        self._found: dict[str, str] = {}
        self._saved_at = time.monotonic()
        since = None if progress.since is None else datetime.fromisoformat(progress.since)
        self._scope = Scope(since, progress.study)
        self._checks = Checks(digest=progress.digest)

    def run(self, repair: Repair | None = None) -> VerificationReport:
        """Compare everything. Raises StorageUnavailable, IndexUnavailable, and PacsError if another run has begun."""
        progress = self._progress
        if progress.phase == "files":
            self._compare_files()
            self._enter("rows")
        if progress.phase == "rows":
            self._compare_rows()
            self._compare_counters()
            self._enter("confirm")
        counts: dict[str, int] = {}
        repaired = 0
        for found in self._confirmed(repair):
            counts[found.kind] = counts.get(found.kind, 0) + 1
            repaired += bool(found.repaired)
        self._enter("done")
        incoming, quarantine = self._files.spool.count(), self._files.quarantine.count()
        return VerificationReport(progress, datetime.now(UTC), incoming, quarantine, counts, repaired)

    def findings(self) -> Iterator[Finding]:
        """The findings, by kind; read page by page."""
        return (_finding(text) for _, text in self._sources.state.items(_FINDINGS))

    def forget(self) -> None:
        """Remove all that was kept of the run, whose report has been delivered."""
        self._sources.state.clear(STATE)

    # ---------------------------------------------------------------- files without a row

    def _compare_files(self) -> None:
        progress = self._progress
        keys = self._files.storage.list(after=progress.path, unlistable=self._unlistable)
        while batch := list(islice(keys, _FILES_AT_A_TIME)):
            wanted = [key for key in batch if self._in_scope(key)]
            uids = {key: named_by(key)[0] for key in wanted}
            rows = self._sources.index.find([uid for uid in uids.values() if uid])
            for key in wanted:
                row = rows.get(uids[key])
                if row is None or row.stored.path != key:
                    self._keep(self._unindexed(key))
            progress.files += len(wanted)
            progress.path = batch[-1]
            self._save()

    def _in_scope(self, key: str) -> bool:
        scope = self._scope
        if scope.study_instance_uid is not None and scope.study_instance_uid not in PurePosixPath(key).parts[:-1]:
            return False
        if scope.since is None:
            return True
        try:
            return self._files.storage.info(key).modified_ns >= scope.since.timestamp() * 1e9
        except ObjectNotFound:
            return False
        except ObjectUnreadable:  # it has its finding when it is read
            return True

    def _unlistable(self, prefix: str, error: ObjectUnreadable) -> None:
        """Keep that files cannot be listed. Files with a row are found missing row by row; others are unknown."""
        study = self._scope.study_instance_uid
        if study is None or study in PurePosixPath(prefix).parts:
            self._keep(Finding(FindingKind.UNREADABLE, "", prefix, error.reason))

    def _unindexed(self, key: str) -> Finding | None:
        """What is wrong with a file to which the row of its instance does not point."""
        if self._files.spool.is_in_flight(key):
            self._progress.in_flight += 1
            return None
        uid, version = named_by(key)
        # Whoever placed the file has committed its row by now, or never will.
        row = self._row(uid)
        if row is not None and (row.stored.path == key or self._is_older(row, version)):
            return None
        try:
            with self._files.storage.open(key) as source:
                file = read_stored(source, key)
        except InvalidInstance as error:
            return Finding(FindingKind.ORPHAN, "", key, f"no readable instance: {error}")
        except ObjectNotFound:
            return None
        except (ObjectUnreadable, InvalidKey) as error:
            return Finding(FindingKind.UNREADABLE, "", key, str(error))
        self._spend(file.instance.size)
        return self._explained(key, file)

    def _is_older(self, row: IndexedInstance, version: int) -> bool:
        """Whether a file is an earlier version of a replaced instance; earlier versions are kept."""
        older = version < row.stored.version and self._is_stored(row)
        self._progress.older_versions += older
        return older

    def _explained(self, key: str, file: StoredFile) -> Finding | None:
        stored = file.instance
        row = self._row(stored.uids.sop)
        if row is None:
            return Finding(FindingKind.ORPHAN, stored.uids.sop, key, "not in the index")
        if row.stored.path == key:
            return None
        same = (stored.digest, stored.size) == (row.stored.digest, row.stored.size)
        if same and not self._has_its_file(row):
            return Finding(FindingKind.MISPLACED, stored.uids.sop, key, f"the index has it at {row.stored.path}")
        if stored.version < row.stored.version:
            # Earlier versions are kept whatever became of the later one: this may be all that is left.
            self._progress.older_versions += 1
            return None
        if self._is_stored(row):
            return Finding(FindingKind.ORPHAN, stored.uids.sop, key, f"its instance is stored at {row.stored.path}")
        return Finding(FindingKind.ORPHAN, stored.uids.sop, key, "not what its instance, whose file is missing, was")

    def _is_stored(self, row: IndexedInstance) -> bool:
        """Whether there is a file under the key of a row; one that cannot be read is a finding of its row."""
        try:
            return self._files.storage.exists(row.stored.path)
        except ObjectUnreadable:
            return True

    def _has_its_file(self, row: IndexedInstance) -> bool:
        """Whether the file to which a row points is the one that was received."""
        return check(self._files.storage, row, Checks(header=False), self._spend) is None

    def _row(self, uid: str) -> IndexedInstance | None:
        return self._sources.index.find([uid]).get(uid) if uid else None

    # ---------------------------------------------------------------- rows and their files

    def _compare_rows(self) -> None:
        progress = self._progress
        while page := self._sources.index.page(progress.key, _ROWS_AT_A_TIME, self._scope):
            for row in page:
                self._keep(check(self._files.storage, row, self._checks, self._spend))
                progress.instances += 1
                progress.key = row.key
                self._save()

    def _compare_counters(self) -> None:
        if self._scope != Scope():
            return
        for fault in self._sources.index.counter_faults():
            detail = f"{fault.table}.{fault.column} is {fault.kept or 'empty'} instead of {fault.right or 'empty'}"
            self._keep(Finding(FindingKind.COUNTER, fault.uid, "", detail))

    # ---------------------------------------------------------------- the second check

    def _confirmed(self, repair: Repair | None) -> Iterator[Finding]:
        """The findings that are still true, as they are after the repair."""
        for key, text in self._sources.state.items(_FINDINGS):
            # A deletion that is about to remove a file must not make it an orphan.
            with self._sources.settled():
                found = self._check_again(_finding(text))
                if found is not None and repair is not None and not found.repaired:
                    found = repair(found)
            if found is None:
                self._sources.state.remove([key])
                continue
            self._sources.state.put({key: _text(found)})
            yield found

    def _check_again(self, found: Finding) -> Finding | None:
        if found.repaired or found.kind is FindingKind.COUNTER:
            return found
        if found.path.endswith("/"):
            return None if _is_listable(self._files.storage, found.path) else found
        if found.kind in (FindingKind.ORPHAN, FindingKind.MISPLACED) or not found.uid:
            return self._unindexed(found.path)
        row = self._row(found.uid)
        if row is None:
            return None
        if self._sources.state.get(_key(replace(found, kind=FindingKind.MISPLACED))) is not None:
            # The instance has a finding as misplaced already.
            return None
        return check(self._files.storage, row, self._checks, self._spend)

    # ---------------------------------------------------------------- what is kept in the index

    def _keep(self, found: Finding | None) -> None:
        if found is not None:
            self._found[_key(found)] = _text(found)
            if len(self._found) >= _FILES_AT_A_TIME:
                self._save(now=True)

    def _enter(self, phase: str) -> None:
        self._progress.phase = phase
        self._save(now=True)

    def _save(self, *, now: bool = False) -> None:
        if not now and time.monotonic() - self._saved_at < _SAVE_SECONDS:
            return
        kept = self._sources.state.get(STATE)
        if kept is None or json.loads(kept)["run"] != self._progress.run:
            raise PacsError("another verify has begun, this one gives way")
        self._sources.state.put({**self._found, STATE: json.dumps(asdict(self._progress))})
        self._found = {}
        self._saved_at = time.monotonic()
        self._shown(self._progress)


def begin(state: StateIndex, progress: VerificationProgress) -> VerificationProgress:
    """Begin a run, and forget what an earlier one left. Raises IndexUnavailable."""
    state.clear(STATE)
    state.put({STATE: json.dumps(asdict(progress))})
    return progress


def unfinished(state: StateIndex) -> VerificationProgress | None:
    """How far the last run was when it was interrupted; None if it came to its end. Raises IndexUnavailable."""
    kept = state.get(STATE)
    return None if kept is None else VerificationProgress(**json.loads(kept))


def _is_listable(storage: Storage, prefix: str) -> bool:
    """Whether the objects right below a prefix can be listed, whatever is further down."""
    failed: list[str] = []
    next(storage.list(prefix, unlistable=lambda at, _: failed.append(at)), None)
    return prefix not in failed


def _key(found: Finding) -> str:
    """The name of a finding in the state: the same for two findings of the same fault."""
    named = found.path if found.kind is FindingKind.ORPHAN or not found.uid else found.uid
    return f"{_FINDINGS}{found.kind}.{named}" + (f" {found.detail}" if found.kind is FindingKind.COUNTER else "")


def _text(found: Finding) -> str:
    return json.dumps(asdict(found))


def _finding(text: str) -> Finding:
    values = json.loads(text)
    return Finding(**values | {"kind": FindingKind(values["kind"])})
