"""Imports files and folders into the archive in the same way as a C-STORE.

To resume an import, run it again: instances that are already stored count as duplicates.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pacs_server.archive.archive import StoreOutcome
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.errors import AuditUnavailable, ConfigError, IndexUnavailable, PacsError, StorageFull
from pacs_server.kit.logs import escaped
from pacs_server.services.store import StoreService

log = logging.getLogger(__name__)

_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file or folder that could not be imported, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class ImportSummary:
    """The result of an import. `rejections` holds the first 20; `stopped` says why the import ended early."""

    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    skipped: int = 0
    rejections: list[RejectedFile] = field(default_factory=list)
    stopped: str | None = None
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 if all is in the archive, 1 if something is not, 130 after an interrupt."""
        if self.interrupted:
            return 130
        return 1 if self.rejected or self.stopped is not None else 0

    def __str__(self) -> str:
        return (
            f"stored {self.stored}, duplicate {self.duplicate}, rejected {self.rejected}, "
            f"skipped {self.skipped} (not DICOM)"
        )

    def reject(self, path: Path, error: Exception) -> None:
        """Count and log `path` as rejected."""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.rejected += 1
        if len(self.rejections) < _SHOWN:
            self.rejections.append(RejectedFile(escaped(str(path)), escaped(reason)))
        log.warning("file rejected", extra={"path": str(path), "reason": reason})


def check_paths(paths: Sequence[Path]) -> None:
    """Raise ConfigError unless all of `paths` exist."""
    for path in paths:
        if not os.path.exists(path):
            raise ConfigError(f"{escaped(str(path))} does not exist")


def run_import(
    paths: Sequence[Path], store: StoreService, arrivals: Arrivals, *, progress: Callable[[Path], None]
) -> ImportSummary:
    """Store every DICOM file in `paths` and below, and call `progress` after each file.

    A KeyboardInterrupt, also one from `progress`, ends it with the summary so far. Raises ConfigError if one
    of `paths` does not exist.
    """
    check_paths(paths)
    summary = ImportSummary()
    try:
        for path in files_below(paths, summary.reject):
            _import(path, store, arrivals, summary)
            progress(path)
    except KeyboardInterrupt:
        summary.interrupted = True
    except (StorageFull, IndexUnavailable, AuditUnavailable) as error:
        # The next thousand files would fail for the same reason.
        summary.stopped = str(error)
    finally:
        arrivals.end()
    log.info("import ended", extra={"summary": str(summary), "stopped": summary.stopped or "no"})
    return summary


def _import(path: Path, store: StoreService, arrivals: Arrivals, summary: ImportSummary) -> None:
    try:
        # Opening a pipe or a device could wait for ever.
        regular = stat.S_ISREG(path.stat().st_mode)
        origin = Origin(calling_ae="", called_ae="", peer=escaped(str(path)), via=Door.IMPORT)
        outcome = store.store_file(path, origin, arrivals.begin) if regular else None
    except (StorageFull, IndexUnavailable, AuditUnavailable) as error:
        arrivals.failed(str(error))
        raise
    except (PacsError, OSError) as error:
        arrivals.failed(str(error))
        summary.reject(path, error)
        return
    if outcome is None:
        summary.skipped += 1
        return
    arrivals.stored(outcome.value)
    if outcome in (StoreOutcome.STORED, StoreOutcome.REPLACED):
        summary.stored += 1
    else:
        summary.duplicate += 1


def files_below(paths: Sequence[Path], unreadable: Callable[[Path, OSError], None]) -> Iterator[Path]:
    """Every entry of `paths` and below that is no folder, each folder in the order of its names.

    Links to folders are followed once each and never upwards. Memory: the names of the folders being walked.
    """
    followed: set[Path] = set()
    waiting = list(reversed(paths))
    while waiting:
        path = waiting.pop()
        if not os.path.isdir(path):  # unlike Path.is_dir, False for what may not be looked at
            yield path
        elif _enter(path, followed):
            try:
                names = sorted(os.listdir(path), reverse=True)
            except OSError as error:
                unreadable(path, error)
            else:
                waiting.extend(path / name for name in names)


def _enter(folder: Path, followed: set[Path]) -> bool:
    if not folder.is_symlink():
        return True
    target = folder.resolve()
    if target in followed or folder.parent.resolve().is_relative_to(target):
        return False
    followed.add(target)
    return True
