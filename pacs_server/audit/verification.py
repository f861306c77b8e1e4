"""Verify the audit trail of a running server in the background, and remember the result beside the trail."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Final

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.audit.files import unavailable
from pacs_server.audit.verify import InvalidTrail, verify
from pacs_server.config.sections.audit import AuditConfig
from pacs_server.dicom.caller import Caller
from pacs_server.errors import AuditUnavailable, PacsError, ResourceLimitation
from pacs_server.kit.closing import Closing
from pacs_server.kit.private_files import opener

log = logging.getLogger(__name__)

_FILE: Final = "verified"
# After each step of a hundred records, two milliseconds of work, others have the processor for so long, in seconds.
_PAUSE: Final = 0.004


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification that came to its end.

    `ended` is a Unix time. `problem` says where the trail is not as it was written and how, or why it could not be
    read; it is empty if all is in order. What follows it is known then only; `first` and `last` are sequence numbers.
    """

    ended: float
    by: str
    problem: str
    records: int = 0
    files: int = 0
    first: int = 0
    last: int = 0
    mac: str = ""


class _Stopped(Exception):
    """The server stops."""


class TrailVerification(Closing):
    """Verifies a trail in a thread of its own, one at a time; any thread may ask."""

    def __init__(self, settings: Callable[[], AuditConfig], auditor: Auditor) -> None:
        self._settings = settings
        self._auditor = auditor
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._checked = 0

    def start(self, caller: Caller) -> None:
        """Begin a verification unless one runs; that and its result are recorded.

        Raises AuditUnavailable, and ResourceLimitation if the system has no more threads.
        """
        with self._lock:
            if self.running or self._stopping.is_set():
                return
            self._auditor.trail_verified(caller, "verification begins", failed=False)
            self._checked = 0
            thread = threading.Thread(target=self._run, args=(caller,), name="audit-verify", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                raise ResourceLimitation("there can be no more threads") from error
            self._thread = thread

    @property
    def running(self) -> bool:
        """Whether a verification is under way."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def checked(self) -> int:
        """How many records the verification that runs, or ran last, has checked."""
        return self._checked

    def last(self) -> Verification | None:
        """The last verification that was begun here, by this or an earlier process. Raises AuditUnavailable."""
        with unavailable("be read"):
            try:
                kept = (self._settings().directory / _FILE).read_bytes()
            except FileNotFoundError:
                return None
        try:
            return Verification(**json.loads(kept))
        except (ValueError, TypeError):
            return None

    def close(self) -> None:
        """End the verification that runs, without a result."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, caller: Caller) -> None:
        who = participant_of(caller).user_id
        try:
            try:
                found = verify(self._settings(), self._step)
                last = found.last.sequence, found.last.mac
                made = Verification(time.time(), who, "", found.records, found.files, found.first, *last)
            except (InvalidTrail, PacsError) as error:
                log.error("audit trail is not in order", extra={"reason": str(error)})
                made = Verification(time.time(), who, str(error))
            self._keep(made)
            told = made.problem or f"in order: records {made.first} to {made.last}, MAC {made.mac}"
            self._auditor.trail_verified(caller, f"verification: {told}", failed=bool(made.problem))
        except _Stopped:
            pass
        except AuditUnavailable as error:
            log.error("verification of the audit trail not kept", extra={"reason": str(error)})

    def _step(self, checked: int) -> None:
        self._checked = checked
        if self._stopping.wait(_PAUSE):
            raise _Stopped

    def _keep(self, made: Verification) -> None:
        path = self._settings().directory / _FILE
        new = path.with_suffix(".new")
        with unavailable("be written"):
            with open(new, "wb", opener=opener) as file:
                file.write(json.dumps(asdict(made)).encode())
            os.replace(new, path)
