"""The archive held against its index, both ways: every file has its row, every row its file, and they agree.

Files first, in the order of their paths, then rows, in the order of their keys, then counters. Position and
findings are kept in the index, so memory does not grow and a run that was killed goes on. A server may work
meanwhile: at the end every finding is looked at once more, and what is in order then is none.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from pacs_server.archive.stored_file import StoredFile, read_stored
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import InvalidInstance, InvalidKey, ObjectNotFound, ObjectUnreadable, PacsError
from pacs_server.index.integrity import IndexedInstance, IntegrityIndex, Scope
from pacs_server.index.state import StateIndex
from pacs_server.storage.filesystem import FileSystemStorage
from pacs_server.upkeep.checking import Checks, Finding, FindingKind, Spend, check, refuse_shortage

STATE: Final = "verify"
_FINDINGS: Final = "verify.finding."
_FILES_AT_A_TIME: Final = 500
_ROWS_AT_A_TIME: Final = 200
_SAVE_SECONDS: Final = 2.0
_NAME: Final = re.compile(r"([0-9.]{1,64}?)(?:\.v([0-9]{1,9}))?\.dcm")


@dataclass(slots=True)
class VerificationProgress:
    """Where a run is and what it has seen; kept as JSON. `phase` is files, rows, confirm, done."""

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
    """What a run came to; `findings` counts those of each kind, `repaired` those that are mended."""

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
    """What a run works on: the files, the index, where it remembers, and how to keep deletions from running."""

    storage: FileSystemStorage
    index: IntegrityIndex
    state: StateIndex
    settled: Callable[[], AbstractContextManager[None]] = nullcontext


# Mends what was found, or not, and returns it with what was done.
Repair = Callable[[Finding], Finding]


class Verification:
    """One run, begun or gone on with."""

    def __init__(
        self,
        parts: VerificationSources,
        progress: VerificationProgress,
        spend: Spend,
        shown: Callable[[VerificationProgress], None],
    ) -> None:
        """`shown` is told the progress about every two seconds."""
        self._parts = parts
        self._progress = progress
        self._spend = spend
        self._shown = shown
        self._found: dict[str, str] = {}
        self._saved_at = time.monotonic()
        since = None if progress.since is None else datetime.fromisoformat(progress.since)
        self._scope = Scope(since, progress.study)
        self._checks = Checks(digest=progress.digest)

    def run(self, repair: Repair | None = None) -> VerificationReport:
        """Look at everything; raises StorageUnavailable, IndexUnavailable, and PacsError if another run has begun."""
        progress = self._progress
        if progress.phase == "files":
            self._files()
            self._enter("rows")
        if progress.phase == "rows":
            self._rows()
            self._counters()
            self._enter("confirm")
        counts: dict[str, int] = {}
        repaired = 0
        for found in self._confirmed(repair):
            counts[found.kind] = counts.get(found.kind, 0) + 1
            repaired += bool(found.repaired)
        self._enter("done")
        storage = self._parts.storage
        incoming = _count(storage.root / "incoming")
        return VerificationReport(progress, datetime.now(UTC), incoming, storage.quarantined(), counts, repaired)

    def findings(self) -> Iterator[Finding]:
        """What was found, by kind; read page by page."""
        return (_finding(text) for _, text in self._parts.state.items(_FINDINGS))

    def forget(self) -> None:
        """The report has reached whom it is for: nothing of this run has to be kept."""
        self._parts.state.clear(STATE)

    # ---------------------------------------------------------------- files without a row

    def _files(self) -> None:
        progress = self._progress
        walked = self._parts.storage.walk(self._unreadable)
        paths = (path for path in walked if os.fsencode(path) > os.fsencode(progress.path))
        while batch := list(islice(paths, _FILES_AT_A_TIME)):
            wanted = [path for path in batch if self._in_scope(path)]
            names = {path: _named(path) for path in wanted}
            rows = self._parts.index.find([uid for uid, _ in names.values() if uid])
            for path in wanted:
                row = rows.get(names[path][0])
                if row is None or row.stored.path != path:
                    self._keep(self._unindexed(path))
            progress.files += len(wanted)
            progress.path = batch[-1]
            self._save()

    def _in_scope(self, path: str) -> bool:
        scope = self._scope
        if scope.study_instance_uid is not None and scope.study_instance_uid not in PurePosixPath(path).parts[:-1]:
            return False
        if scope.since is None:
            return True
        try:
            return (self._parts.storage.root / path).stat().st_mtime >= scope.since.timestamp()
        except FileNotFoundError:
            return False

    def _unreadable(self, folder: str, error: OSError) -> None:
        """What lies in it is told of row by row; what has no row cannot be told."""
        refuse_shortage(error)
        study = self._scope.study_instance_uid
        if study is None or study in PurePosixPath(folder).parts:
            self._keep(Finding(FindingKind.UNREADABLE, "", folder, error.strerror or str(error)))

    def _unindexed(self, path: str) -> Finding | None:
        """What is wrong with a file that is not the one its instance's row points to."""
        if self._parts.storage.in_flight(path):
            self._progress.in_flight += 1
            return None
        uid, version = _named(path)
        # Whoever placed it has committed the row by now, or never will.
        row = self._row(uid)
        if row is not None and (row.stored.path == path or self._is_older(row, version)):
            return None
        try:
            with self._parts.storage.open(path) as source:
                file = read_stored(source, path)
        except InvalidInstance as error:
            return Finding(FindingKind.ORPHAN, "", path, f"no readable instance: {error}")
        except ObjectNotFound:
            return None
        except (ObjectUnreadable, InvalidKey) as error:
            return Finding(FindingKind.UNREADABLE, "", path, str(error))
        self._spend(file.instance.size)
        return self._explained(path, file)

    def _is_older(self, row: IndexedInstance, version: int) -> bool:
        """Whether it is an earlier version of an instance that was replaced; those are kept."""
        older = version < row.stored.version and self._parts.storage.exists(row.stored.path)
        self._progress.older_versions += older
        return older

    def _explained(self, path: str, file: StoredFile) -> Finding | None:
        stored = file.instance
        row = self._row(stored.uids.sop)
        if row is None:
            return Finding(FindingKind.ORPHAN, stored.uids.sop, path, "not in the index")
        if row.stored.path == path:
            return None
        same = (stored.digest, stored.size) == (row.stored.digest, row.stored.size)
        if same and not self._in_order(row):
            return Finding(FindingKind.MISPLACED, stored.uids.sop, path, f"the index has it at {row.stored.path}")
        if stored.version < row.stored.version:
            # Kept whatever became of the later one: it may be all that is left.
            self._progress.older_versions += 1
            return None
        if self._parts.storage.exists(row.stored.path):
            return Finding(FindingKind.ORPHAN, stored.uids.sop, path, f"its instance is stored at {row.stored.path}")
        return Finding(FindingKind.ORPHAN, stored.uids.sop, path, "not what its instance, whose file is missing, was")

    def _in_order(self, row: IndexedInstance) -> bool:
        """Whether the file that a row points to is the one that was received."""
        return check(self._parts.storage, row, Checks(header=False), self._spend) is None

    def _row(self, uid: str) -> IndexedInstance | None:
        return self._parts.index.find([uid]).get(uid) if uid else None

    # ---------------------------------------------------------------- rows and their files

    def _rows(self) -> None:
        progress = self._progress
        while page := self._parts.index.page(progress.key, _ROWS_AT_A_TIME, self._scope):
            for row in page:
                found = check(self._parts.storage, row, self._checks, self._spend)
                self._keep(found)
                progress.instances += 1
                progress.key = row.key
                self._save()

    def _counters(self) -> None:
        if self._scope != Scope():
            return
        for fault in self._parts.index.counter_faults():
            detail = f"{fault.table}.{fault.column} is {fault.kept or 'empty'} instead of {fault.right or 'empty'}"
            self._keep(Finding(FindingKind.COUNTER, fault.uid, "", detail))

    # ---------------------------------------------------------------- the second look

    def _confirmed(self, repair: Repair | None) -> Iterator[Finding]:
        """The findings that are still true, as they are after the repair."""
        for key, text in self._parts.state.items(_FINDINGS):
            # A deletion that is about to take a file away must not make it an orphan.
            with self._parts.settled():
                found = self._again(_finding(text))
                if found is not None and repair is not None and not found.repaired:
                    found = repair(found)
            if found is None:
                self._parts.state.remove([key])
                continue
            self._parts.state.put({key: _text(found)})
            yield found

    def _again(self, found: Finding) -> Finding | None:
        if found.repaired or found.kind is FindingKind.COUNTER:
            return found
        if found.path.endswith("/"):
            return None if self._parts.storage.listable(found.path) else found
        if found.kind in (FindingKind.ORPHAN, FindingKind.MISPLACED) or not found.uid:
            return self._unindexed(found.path)
        row = self._row(found.uid)
        if row is None:
            return None
        if self._parts.state.get(_key(replace(found, kind=FindingKind.MISPLACED))) is not None:
            # Told as misplaced.
            return None
        return check(self._parts.storage, row, self._checks, self._spend)

    # ---------------------------------------------------------------- what is remembered

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
        kept = self._parts.state.get(STATE)
        if kept is None or json.loads(kept)["run"] != self._progress.run:
            raise PacsError("another verify has begun, this one gives way")
        self._parts.state.put({**self._found, STATE: json.dumps(asdict(self._progress))})
        self._found = {}
        self._saved_at = time.monotonic()
        self._shown(self._progress)


def begin(state: StateIndex, progress: VerificationProgress) -> VerificationProgress:
    """Begin a run; what an earlier one left is forgotten. Raises IndexUnavailable."""
    state.clear(STATE)
    state.put({STATE: json.dumps(asdict(progress))})
    return progress


def unfinished(state: StateIndex) -> VerificationProgress | None:
    """Where the last run was when it was interrupted, None if it came to its end. Raises IndexUnavailable."""
    kept = state.get(STATE)
    return None if kept is None else VerificationProgress(**json.loads(kept))


def _key(found: Finding) -> str:
    """By kind, and by what tells findings of a kind apart."""
    named = found.path if found.kind is FindingKind.ORPHAN or not found.uid else found.uid
    return f"{_FINDINGS}{found.kind}.{named}" + (f" {found.detail}" if found.kind is FindingKind.COUNTER else "")


def _text(found: Finding) -> str:
    return json.dumps(asdict(found))


def _finding(text: str) -> Finding:
    values = json.loads(text)
    return Finding(**values | {"kind": FindingKind(values["kind"])})


def _named(path: str) -> tuple[str, int]:
    """The SOP Instance UID and the version that a file is named after, ('', 1) if it is named otherwise."""
    match = _NAME.fullmatch(path.rpartition("/")[2])
    if match is None or not is_uid(match[1]):
        return "", 1
    return match[1], int(match[2] or 1)


def _count(incoming: Path) -> int:
    """How many files are on their way in, or were left there."""
    with os.scandir(incoming) as entries:
        return sum(not entry.name.endswith(".lock") for entry in entries)
