"""What is known to be wrong with the archive: what the last `pacs-server verify` and the scrub have found.

`pacs-server verify` keeps its faults here at its end, the first of them if there are very many. Whoever reads the list
gets what is not over: an instance that was deleted, sent again or put back is left out, as far as that can be told
without reading its file.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Final, Literal

from pacs_server.archive.archive import Archive
from pacs_server.errors import StorageUnavailable
from pacs_server.index.integrity import IndexedInstance, IntegrityIndex
from pacs_server.index.state import StateIndex
from pacs_server.storage.contract import Storage
from pacs_server.upkeep.checking import Finding, FindingKind
from pacs_server.upkeep.scrub import SCRUB_FINDINGS
from pacs_server.upkeep.verify import VerificationProgress, VerificationReport

# So many faults of each of the two are kept and listed.
MOST_FAULTS: Final = 1000
_LAST: Final = "faults.last"
_KEPT: Final = "faults.found."
_TOGETHER: Final = 200
# What can be wrong with a file of which the index knows the instance.
_OF_INSTANCES: Final = (
    *(FindingKind.MISSING, FindingKind.SIZE, FindingKind.CHANGED, FindingKind.DAMAGED, FindingKind.UNREADABLE),
    FindingKind.DRIFT,
)

FoundBy = Literal["verify", "scrub"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A finding, the study that it is about, "" if it is about none, and what found it."""

    finding: Finding
    study: str
    found_by: FoundBy


@dataclass(frozen=True, slots=True)
class LastVerification:
    """The last `pacs-server verify` of the whole archive that came to its end.

    `ended` is ISO 8601 in UTC, `digest` says whether every byte was read, `findings` counts what was found and
    `repaired` what of it was repaired.
    """

    ended: str
    digest: bool
    files: int
    instances: int
    findings: int
    repaired: int


class KnownFaults:
    """Keeps and lists faults; may be shared by all threads. Every method raises IndexUnavailable."""

    def __init__(self, archive: Archive, storage: Storage, index: IntegrityIndex, state: StateIndex) -> None:
        self._archive = archive
        self._storage = storage
        self._index = index
        self._state = state

    def keep(self, report: VerificationReport, findings: Iterable[Finding]) -> None:
        """Keep what a verification has found and not repaired, and forget what it would have found and did not."""
        progress = report.progress
        over = [key for key, fault in self._kept() if _covers(progress, fault)]
        if over:
            self._state.remove(over)
        open_ones = (each for each in findings if not each.repaired)
        room = MOST_FAULTS - sum(1 for _ in self._kept())
        found = [*islice(open_ones, max(0, room))]
        for begin in range(0, len(found), _TOGETHER):
            faults = self._with_studies(found[begin : begin + _TOGETHER], "verify")
            self._state.put({_key(fault): _text(fault) for fault in faults})
        if progress.since is None and progress.study is None:
            last = LastVerification(
                report.finished_at.isoformat(timespec="seconds"), progress.digest, progress.files, progress.instances,
                sum(report.findings.values()), report.repaired,
            )  # fmt: skip
            self._state.put({_LAST: json.dumps(asdict(last))})

    def last_verification(self) -> LastVerification | None:
        """The last verification of the whole archive; None if this index knows of none."""
        kept = self._state.get(_LAST)
        try:
            return None if kept is None else LastVerification(**json.loads(kept))
        except (ValueError, TypeError):
            # A later version wrote it, which may tell more.
            return None

    def faults(self) -> list[Fault]:
        """What is wrong as far as anybody knows, each fault once; no more than twice `MOST_FAULTS`.

        While the storage does not answer, what was missing counts as missing still.
        """
        known = [fault for _, fault in self._kept()]
        seen = {(fault.finding.uid, fault.finding.path) for fault in known}
        scrubbed = [_scrubbed(text) for _, text in islice(self._state.items(SCRUB_FINDINGS), MOST_FAULTS)]
        others = [each for each in scrubbed if (each.uid, each.path) not in seen]
        for begin in range(0, len(others), _TOGETHER):
            known += self._with_studies(others[begin : begin + _TOGETHER], "scrub")
        still: list[Fault] = []
        for begin in range(0, len(known), _TOGETHER):
            some = known[begin : begin + _TOGETHER]
            rows = self._index.find([fault.finding.uid for fault in some if fault.finding.uid])
            still += [fault for fault in some if self._is_still(fault.finding, rows.get(fault.finding.uid))]
        return still

    def _kept(self) -> Iterator[tuple[str, Fault]]:
        for key, text in self._state.items(_KEPT):
            values = json.loads(text)
            finding = Finding(**{**values["finding"], "kind": FindingKind(values["finding"]["kind"])})
            yield key, Fault(finding, values["study"], "verify")

    def _with_studies(self, findings: list[Finding], found_by: FoundBy) -> list[Fault]:
        rows = self._index.find([each.uid for each in findings if each.uid])
        return [
            Fault(each, rows[each.uid].stored.uids.study if each.uid in rows else "", found_by) for each in findings
        ]

    def _is_still(self, finding: Finding, row: IndexedInstance | None) -> bool:
        """Whether a fault may be there still."""
        if finding.kind in _OF_INSTANCES and finding.uid:
            return row is not None and row.stored.path == finding.path and not self._is_back(finding, row)
        if finding.kind in (FindingKind.ORPHAN, FindingKind.MISPLACED):
            return (row is None or row.stored.path != finding.path) and self._exists(finding.path)
        return True

    def _is_back(self, finding: Finding, row: IndexedInstance) -> bool:
        if finding.kind not in (FindingKind.MISSING, FindingKind.SIZE):
            return False
        try:
            return self._archive.has_file(row.stored)
        except StorageUnavailable:
            return False

    def _exists(self, path: str) -> bool:
        try:
            return self._storage.exists(path)
        except StorageUnavailable:
            return True


def _covers(progress: VerificationProgress, fault: Fault) -> bool:
    """Whether a verification had found this fault if it were there still."""
    if fault.finding.kind is FindingKind.CHANGED and not progress.digest:
        return False
    if progress.since is not None:
        return False
    folders = PurePosixPath(fault.finding.path).parts[:-1]
    return progress.study is None or progress.study == fault.study or progress.study in folders


def _key(fault: Fault) -> str:
    finding = fault.finding
    return f"{_KEPT}{finding.kind}.{finding.uid or finding.path} {finding.path or finding.detail}"


def _text(fault: Fault) -> str:
    return json.dumps({"finding": asdict(fault.finding), "study": fault.study})


def _scrubbed(text: str) -> Finding:
    values = json.loads(text)
    return Finding(FindingKind(values["kind"]), values["uid"], values["path"], values["detail"])
