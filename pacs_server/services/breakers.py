"""Which remotes can be used now: paused ones, times of day, and a breaker for each remote that fails as a whole.

A breaker is closed until a remote has failed so many times in a row: it cannot be reached, ends associations, or does
not answer. Then it is open for a while, which doubles each time, and nothing is sent. After that it is half open:
one process asks the remote whether it is there, and the answer closes the breaker or opens it again.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.config.sections.forwarding import ForwardingConfig
from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.implementations import Implementation
from pacs_server.errors import IndexUnavailable, NotFound
from pacs_server.index.remote_states import RemoteState, RemoteStateIndex
from pacs_server.kit.time_windows import is_open, next_opening
from pacs_server.services.tasks import LEASE_SECONDS

log = logging.getLogger(__name__)

# What another process has changed is noticed after so many seconds.
_KNOWN_SECONDS: Final = 1.0
# A remote that somebody has paused is looked at again after so many seconds.
PAUSED_SECONDS: Final = 60.0
# Nobody else asks a remote that is being asked for so many seconds: as long as whoever asks may take. But a crash costs
# no more time than that of a task; a remote that takes longer to answer is asked twice, which does no harm.
_PROBE_MARGIN: Final = 10.0
_LONGEST_PROBE: Final = LEASE_SECONDS
# The clocks of two processes differ by no more seconds. A moment further ahead than anybody would set it was set before
# the clock was set back.
CLOCKS_APART: Final = 60.0


@dataclass(frozen=True, slots=True)
class Closed:
    """Why a remote cannot be used now, for how many seconds at most, and whether its backups stand in for it."""

    reason: str
    seconds: float
    fails: bool = False


# Asks a remote whether it is there, and returns why not.
Probe = Callable[[RemoteAEConfig], str | None]


class Breakers:
    """The state of all remotes, for those who send. Thread-safe; everything raises IndexUnavailable."""

    def __init__(
        self,
        index: RemoteStateIndex,
        *,
        remotes: Callable[[], Sequence[RemoteAEConfig]],
        settings: Callable[[], ForwardingConfig],
        auditor: Auditor,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`remotes` and `settings` may change while the server runs."""
        self._index = index
        self._remotes = remotes
        self._settings = settings
        self._auditor = auditor
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, Implementation] = {}
        self._known: Mapping[str, RemoteState] | None = None
        self._read = 0.0

    # ---------------------------------------------------------------- who they are

    def seen(self, remote: str, implementation: Implementation) -> None:
        """Keep what a remote says of its software. Raises nothing: whoever calls it has other things to do."""
        if self._seen.get(remote) == implementation:
            return
        try:
            self._index.change(
                remote,
                lambda state: replace(
                    state,
                    implementation_class_uid=implementation.class_uid,
                    implementation_version_name=implementation.version_name,
                ),
                self._clock(),
            )
        except IndexUnavailable as error:
            log.warning("software of a remote not kept", extra={"remote": remote, "reason": str(error)})
        else:
            self._seen[remote] = implementation

    # ---------------------------------------------------------------- asking

    def states(self) -> Mapping[str, RemoteState]:
        """The states of the remotes to which something has happened, as they were a second ago at most."""
        with self._lock:
            if self._known is None or time.monotonic() - self._read > _KNOWN_SECONDS:
                self._known, self._read = self._index.all(), time.monotonic()
            return self._known

    def state(self, remote: str) -> RemoteState:
        """The state of a remote."""
        return self.states().get(remote, RemoteState(remote))

    def remote(self, name: str) -> RemoteAEConfig | None:
        """The settings of a remote."""
        return next((each for each in self._remotes() if each.name == name), None)

    def closed(self, remote: RemoteAEConfig) -> Closed | None:
        """Why a remote cannot be used now; None if it can, or somebody has to find out whether it can."""
        now, state = self._clock(), self.state(remote.name)
        if state.paused:
            return Closed(f"{remote.name} is paused by {state.paused_by}", PAUSED_SECONDS)
        if not is_open(remote.windows, now):
            opens = next_opening(remote.windows, now)
            return Closed(f"{remote.name} is used from {opens:%H:%M} on", (opens - now).total_seconds())
        return self.failing(remote.name)

    def failing(self, name: str) -> Closed | None:
        """Why a remote that has failed as a whole is left alone now, whatever else closes it; None as in `closed`."""
        now, state = self._clock(), self.state(name)
        pauses = ((state.open_until, self._settings().breaker_max), (state.probe_until, _LONGEST_PROBE))
        for until, longest in pauses:
            if until is not None and is_ahead(until, now, longest):
                return Closed(f"{name} fails: {state.last_error}", (until - now).total_seconds(), fails=True)
        return None

    def all_failing(self) -> dict[str, float]:
        """The remotes that have failed as a whole and are left alone now, with the seconds to wait."""
        found = {name: self.failing(name) for name in self.states()}
        return {name: closed.seconds for name, closed in found.items() if closed is not None}

    def standing(self, remote: RemoteAEConfig) -> tuple[str, str, datetime | None]:
        """Whether a remote is ready, paused, failing or closed, why, and until when it is not used."""
        closed, state = self.closed(remote), self.state(remote.name)
        if closed is None:
            # Half open: the next task asks the remote.
            return ("failing" if state.open_until else "ready"), state.last_error if state.failures else "", None
        if state.paused:
            return "paused", closed.reason, None
        name = "failing" if closed.fails else "closed"
        return (
            name,
            state.last_error if closed.fails else closed.reason,
            self._clock() + timedelta(seconds=closed.seconds),
        )

    def unusable(self) -> dict[str, float]:
        """The remotes that cannot be used now and that no backup stands in for, with the seconds to wait."""
        found = {}
        for remote in self._remotes():
            closed = self.closed(remote)
            if closed is not None and not (closed.fails and self._has_backup(remote)):
                found[remote.name] = closed.seconds
        return found

    def _has_backup(self, remote: RemoteAEConfig) -> bool:
        backups = (self.remote(name) for name in remote.backups)
        return any(backup is not None and self.closed(backup) is None for backup in backups)

    # ---------------------------------------------------------------- choosing

    def choose(self, name: str, probe: Probe) -> RemoteAEConfig | Closed:
        """The remote to send to instead of `name`: that one, or the first of its backups that can be used.

        `probe` asks a remote that has failed whether it is there, and says why not.
        """
        remote = self.remote(name)
        if remote is None:
            return Closed(f"{name} is not in remote_aes; if it was added, reload the server", PAUSED_SECONDS)
        first = self._closed_after_probe(remote, probe)
        if first is None:
            return remote
        for backup in (self.remote(each) for each in remote.backups if first.fails):
            if backup is not None and self._closed_after_probe(backup, probe) is None:
                return backup
        return first

    def failing_after_probe(self, remote: RemoteAEConfig, probe: Probe) -> Closed | None:
        """Why a remote that has failed as a whole is left alone; if it is time, `probe` asks whether it is there."""
        closed = self.failing(remote.name)
        if closed is not None or self.state(remote.name).open_until is None:
            return closed
        now = self._clock()
        longest = min(remote.connect_timeout + 2 * remote.response_timeout + _PROBE_MARGIN, _LONGEST_PROBE)
        until, margin = now + timedelta(seconds=longest), timedelta(seconds=CLOCKS_APART)
        opened = now + timedelta(seconds=self._settings().breaker_max) + margin
        asked = now + timedelta(seconds=_LONGEST_PROBE) + margin
        taken = self._index.take_probe(remote.name, secrets.token_hex(8), now, until, ahead=(opened, asked))
        self._forget()
        if not taken:
            # Somebody else asks, or has asked meanwhile.
            return self.failing(remote.name)
        reason = probe(remote)
        if reason is None:
            self.succeeded(remote.name)
            return None
        self.failed(remote.name, reason)
        return self.failing(remote.name) or Closed(f"{remote.name} fails: {reason}", 0.0, fails=True)

    def _closed_after_probe(self, remote: RemoteAEConfig, probe: Probe) -> Closed | None:
        return self.closed(remote) or self.failing_after_probe(remote, probe)

    # ---------------------------------------------------------------- telling

    def failed(self, name: str, reason: str) -> RemoteState:
        """A remote as a whole has failed; after so many times in a row its breaker opens."""
        now, settings = self._clock(), self._settings()
        state = self._index.change(name, lambda known: after_failure(known, reason, now, settings), now)
        self._forget()
        if state.open_until is not None and state.open_until > now:
            fields = {"remote": name, "reason": reason, "until": state.open_until.isoformat(timespec="seconds")}
            log.warning("remote fails", extra=fields)
        return state

    def succeeded(self, name: str) -> None:
        """A remote has answered, whatever it was."""
        if self.state(name).is_clean:
            return
        self._index.succeeded(name, self._clock())
        self._forget()
        log.info("remote is there again", extra={"remote": name})

    def pause(self, name: str, caller: Caller) -> None:
        """Send nothing to a remote until somebody resumes it. Raises NotFound, AuditUnavailable."""
        by = participant_of(caller).user_id or "somebody"
        self._decided(name, caller, "paused")
        self._index.change(name, lambda known: replace(known, paused=True, paused_by=by), self._clock())
        self._forget()

    def resume(self, name: str, caller: Caller) -> None:
        """Send to a remote again, at once even if it has failed. Raises NotFound, AuditUnavailable."""
        self._decided(name, caller, "resumed")
        self._index.change(name, lambda known: RemoteState(known.remote, changed=known.changed), self._clock())
        self._forget()

    def _decided(self, name: str, caller: Caller, what: str) -> None:
        if self.remote(name) is None:
            raise NotFound(f"{name} is not in remote_aes")
        self._auditor.restricted(caller, f"remote {name} {what}")

    def _forget(self) -> None:
        with self._lock:
            self._known = None


def is_ahead(until: datetime, now: datetime, longest: float) -> bool:
    """Whether a moment is still to come that was set at most `longest` seconds ahead, also by another process."""
    return 0.0 < (until - now).total_seconds() <= longest + CLOCKS_APART


def after_failure(state: RemoteState, reason: str, now: datetime, settings: ForwardingConfig) -> RemoteState:
    """The state of a remote after it has failed as a whole."""
    if state.open_until is not None and is_ahead(state.open_until, now, settings.breaker_max):
        # What was under way when the breaker opened tells nothing new.
        return replace(state, last_error=reason)
    failures = state.failures + 1
    failed = replace(state, failures=failures, last_error=reason, probe_owner="", probe_until=None)
    if failures < settings.breaker_failures:
        return failed
    # Sixty doublings are past any maximum.
    pause = min(settings.breaker_max, settings.breaker_first * 2.0 ** min(state.openings, 60))
    return replace(failed, openings=state.openings + 1, open_until=now + timedelta(seconds=pause))
