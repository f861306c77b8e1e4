"""Imports files and folders into the archive in the same way as a C-STORE.

To resume an import, run it again: instances that are already stored count as duplicates.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pacs_server.archive.archive import StoreOutcome
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.errors import AuditUnavailable, ConfigError, IndexUnavailable, PacsError, StorageFull
from pacs_server.kit.logs import escaped
from pacs_server.services.store import StoreService

log = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Called with a line for people about a file; it names the file, which the log does only at level debug."""


@dataclass(slots=True)
class ImportSummary:
    """The result of an import. `corrected` counts files that are stored with other UIDs in their head.

    `stopped` says why the import ended early.
    """

    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    skipped: int = 0
    corrected: int = 0
    stopped: str | None = None
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 if all is in the archive, 1 if something is not, 130 after an interrupt."""
        if self.interrupted:
            return 130
        return 1 if self.rejected or self.stopped is not None else 0

    def __str__(self) -> str:
        text = (
            f"stored {self.stored}, duplicate {self.duplicate}, rejected {self.rejected}, "
            f"skipped {self.skipped} (not DICOM)"
        )
        return f"{text}, corrected {self.corrected}" if self.corrected else text


def check_paths(paths: Sequence[Path]) -> None:
    """Raise ConfigError unless all of `paths` exist."""
    for path in paths:
        if not os.path.exists(path):
            raise ConfigError(f"{escaped(str(path))} does not exist")


def run_import(
    paths: Sequence[Path], store: StoreService, arrivals: Arrivals, *, progress: Callable[[Path], None], tell: Tell
) -> ImportSummary:
    """Store every DICOM file in `paths` and below, and call `progress` after each file.

    `tell` hears of each file that is rejected or corrected. A KeyboardInterrupt, also one from `progress`, ends the
    import with the summary so far. Raises ConfigError if one of `paths` does not exist.
    """
    check_paths(paths)
    importer = _Importer(store, arrivals, tell)
    summary = importer.summary
    try:
        for path in files_below(paths, importer.reject):
            importer.take(path)
            progress(path)
    except KeyboardInterrupt:
        summary.interrupted = True
    except (StorageFull, IndexUnavailable, AuditUnavailable) as error:
        # The next thousand files would fail for the same reason.
        summary.stopped = str(error)
    finally:
        arrivals.end()
    stopped = "interrupted" if summary.interrupted else summary.stopped or "no"
    log.info("import ended", extra={"summary": str(summary), "stopped": stopped})
    return summary


class _Importer:
    """Stores one file after the other, and counts what becomes of them in `summary`."""

    def __init__(self, store: StoreService, arrivals: Arrivals, tell: Tell) -> None:
        self.summary = ImportSummary()
        self._store = store
        self._arrivals = arrivals
        self._tell = tell

    def take(self, path: Path) -> None:
        """Store one file. Raises what would happen to the next file too."""
        try:
            # Opening a pipe or a device could wait for ever.
            regular = stat.S_ISREG(path.stat().st_mode)
            origin = Origin(calling_ae="", called_ae="", peer=escaped(str(path)), via=Door.IMPORT)
            outcome = self._store_file(path, origin) if regular else None
        except (StorageFull, IndexUnavailable, AuditUnavailable) as error:
            self._arrivals.failed(str(error))
            raise
        except (PacsError, OSError) as error:
            self._arrivals.failed(str(error))
            self.reject(path, error)
            return
        if outcome is None:
            self.summary.skipped += 1
            return
        self._arrivals.stored(outcome.value)
        if outcome in (StoreOutcome.STORED, StoreOutcome.REPLACED):
            self.summary.stored += 1
        else:
            self.summary.duplicate += 1

    def _store_file(self, path: Path, origin: Origin) -> StoreOutcome | None:
        return self._store.store_file(path, origin, self._arrivals.begin, lambda note: self._correct(path, note))

    def _correct(self, path: Path, note: str) -> None:
        self.summary.corrected += 1
        self._say("corrected", path, note)

    def reject(self, path: Path, error: Exception) -> None:
        """Count `path` as rejected, and tell people."""
        self.summary.rejected += 1
        self._say("rejected", path, error.strerror if isinstance(error, OSError) and error.strerror else str(error))

    def _say(self, what: str, path: Path, reason: str) -> None:
        self._tell(escaped(f"{what} {path}: {reason}"))
        # The name of a file is often that of a patient, which has no place in the log.
        log.debug("file rejected or corrected", extra={"path": str(path), "reason": reason})


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
