"""The watched folder: imports worklist files that appear in it, and moves invalid ones aside with the reason."""

import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pacs_server.audit.events import Participant
from pacs_server.errors import AuditUnavailable, IndexUnavailable, InvalidWorklistItem
from pacs_server.intake.worklist_files import MAX_BYTES, READERS, items_of
from pacs_server.kit.private_files import make_directory, opener
from pacs_server.services.worklist import WorklistService

log = logging.getLogger(__name__)

DONE: Final = "done"
REJECTED: Final = "rejected"

# What tells whether a file is still being written.
_Signature = tuple[int, int, int]


class WorklistFolder:
    """Scans a folder every `interval` seconds and imports the files that have not changed since the last scan.

    A file is moved only after its items are committed, and importing the same items again changes nothing. So
    after a stop at any moment, the next start continues correctly.
    """

    def __init__(
        self, folder: Path, worklist: WorklistService, *, interval: float, taken: Callable[[bool], None]
    ) -> None:
        """`taken` is called for each file with whether the file was accepted."""
        self._folder = folder
        self._worklist = worklist
        self._interval = interval
        self._taken = taken
        self._seen: dict[str, _Signature] = {}
        # Files that could not be moved away; they are let alone until they change.
        self._stuck: dict[str, _Signature] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="worklist-folder", daemon=True)

    def start(self) -> None:
        """Make the folder if need be and begin to watch it; raises OSError."""
        for folder in (self._folder, self._folder / DONE, self._folder / REJECTED):
            make_directory(folder)
        self._thread.start()

    def stop(self) -> None:
        """Stop watching. The file that is being imported is finished first."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except OSError as error:
                log.error("worklist folder cannot be read", extra={"reason": error.strerror or str(error)})
            self._stopping.wait(self._interval)

    def look(self) -> None:
        """Take each file that is as it was at the last look; raises OSError if the folder cannot be read."""
        now = self._candidates()
        ready = [name for name in sorted(now) if self._seen.get(name) == now[name] != self._stuck.get(name)]
        self._seen = now
        self._stuck = {name: signature for name, signature in self._stuck.items() if now.get(name) == signature}
        for name in ready:
            if self._stopping.is_set():
                return
            self._take(self._folder / name, now[name])

    def _candidates(self) -> dict[str, _Signature]:
        found = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                # Hidden files and those that begin with ~ are other programs' temporary ones.
                if entry.name.startswith((".", "~")) or Path(entry.name).suffix.lower() not in READERS:
                    continue
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = _signature(status)
        return found

    def _take(self, file: Path, signature: _Signature) -> None:
        try:
            with file.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
                if _signature(os.fstat(opened.fileno())) != signature:
                    return  # written to again; the next look decides
            by = Participant(f"worklist folder: {file.name}", requestor=True)
            result = self._worklist.put(items_of(data, file.suffix, file.name), by)
        except InvalidWorklistItem as error:
            self._reject(file, signature, str(error))
        except (IndexUnavailable, AuditUnavailable) as error:
            log.error("worklist file left for later", extra={"file": file.name, "reason": str(error)})
        except OSError as error:
            log.warning("worklist file cannot be read", extra={"file": file.name, "reason": error.strerror})
            self._stuck[file.name] = signature
        except Exception:
            # The last resort: a fault of this program leaves one file where it is, and not all that are to come.
            log.exception("worklist file failed unexpectedly", extra={"file": file.name})
            self._stuck[file.name] = signature
        else:
            self._taken(True)
            counts = {"added": result.added, "updated": result.updated}
            log.info("worklist file taken", extra={"file": file.name, **counts})
            self._move(file, signature, DONE)

    def _reject(self, file: Path, signature: _Signature, reason: str) -> None:
        self._taken(False)
        log.warning("worklist file rejected", extra={"file": file.name, "reason": reason})
        target = self._move(file, signature, REJECTED)
        if target is not None:
            try:
                note = target.with_name(f"{target.name}.reason.txt")
                with open(note, "w", encoding="utf-8", opener=opener) as written:
                    written.write(f"{reason}\n")
            except OSError as error:
                log.error("reason cannot be written", extra={"file": file.name, "reason": error.strerror})

    def _move(self, file: Path, signature: _Signature, folder: str) -> Path | None:
        """Move the file aside under a name that is free; where it is now, None if it could not be moved."""
        target = file.parent / folder / file.name
        number = 1
        while os.path.lexists(target):
            target = target.with_name(f"{file.stem}.{number}{file.suffix}")
            number += 1
        try:
            file.rename(target)
        except FileNotFoundError:
            return None  # another node has moved it
        except OSError as error:
            log.error("worklist file cannot be moved", extra={"file": file.name, "reason": error.strerror})
            self._stuck[file.name] = signature
            return None
        return target


def _signature(status: os.stat_result) -> _Signature:
    # The change time also tells of new permissions.
    return status.st_size, status.st_ctime_ns, status.st_ino
