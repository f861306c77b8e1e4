"""Check passwords against the file of users, with bounded memory and a bounded rate of wrong passwords."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from enum import Enum, auto
from pathlib import Path
from typing import Final

from argon2.exceptions import InvalidHashError, VerificationError

from pacs_server.config.rights import User
from pacs_server.config.users import HASHER, is_name, read_users
from pacs_server.errors import UserError
from pacs_server.kit.addresses import counted_as

log = logging.getLogger(__name__)

# The hash for user names that do not exist: checking it takes as long as checking the hash of a user.
_NOBODY: Final = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
# How many passwords are checked at the same time, and how long a check may wait for its turn, in seconds.
_AT_ONCE: Final = 2
_TURN_SECONDS: Final = 10.0


class Verdict(Enum):
    """The result of a check: the password is right, wrong, or was not checked because too many were wrong."""

    RIGHT = auto()
    WRONG = auto()
    NOT_NOW = auto()


class FailureLimit:
    """Counts wrong passwords by key. Allows `burst` of them at once and then one each `seconds`.

    Only the latest `most` keys are remembered.
    """

    def __init__(
        self, burst: int, seconds: float, *, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst, self._seconds, self._most, self._clock = burst, seconds, most, clock
        # For each key: when all wrong passwords are forgotten, if one is forgotten each `seconds`.
        self._forgotten_at: OrderedDict[Hashable, float] = OrderedDict()

    def too_many(self, key: Hashable) -> bool:
        """Whether the next attempt has to wait."""
        return self._forgotten_at.get(key, 0.0) - self._clock() > (self._burst - 1) * self._seconds

    def add(self, key: Hashable) -> None:
        """Count a wrong password."""
        now = self._clock()
        self._forgotten_at[key] = max(self._forgotten_at.pop(key, now), now) + self._seconds
        if len(self._forgotten_at) > self._most:
            self._forgotten_at.popitem(last=False)


class PasswordChecker:
    """Checks passwords against a file of users, which is read again when it has changed. Thread-safe.

    At most two passwords are checked at the same time, which bounds the memory. After too many wrong passwords the next
    ones are not checked. They are counted for each pair of user name and address, so that one device with an old
    password does not lock out other devices behind the same address, and for each address, so that trying many user
    names does not help.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._of_user = FailureLimit(5, 12.0, clock=clock)
        self._of_address = FailureLimit(20, 3.0, clock=clock)
        self._known: dict[str, User] | None = {}
        self._state: tuple[object, ...] = ()

    def check(self, path: Path, name: str, password: bytes, address: str) -> Verdict:
        """Check the password of a user in the file at `path`. Waits up to 10 seconds for its turn."""
        return self.identify(path, name, password, address)[0]

    def identify(self, path: Path, name: str, password: bytes, address: str) -> tuple[Verdict, User | None]:
        """Check the password as `check` does; also returns the user, None if the password is not right."""
        known = self.find(path, name)
        verdict = self._check(name, known, password, address)
        return verdict, known if verdict is Verdict.RIGHT else None

    def _check(self, name: str, known: User | None, password: bytes, address: str) -> Verdict:
        address = counted_as(address)
        user, hashed = (name if is_name(name) else "", None if known is None else known.hashed)
        if not self._turns.acquire(timeout=_TURN_SECONDS):
            return Verdict.NOT_NOW
        try:
            # Checked only now: of many attempts at the same time, the later ones see that the first ones were wrong.
            with self._lock:
                if self._of_user.too_many((address, user)) or self._of_address.too_many(address):
                    return Verdict.NOT_NOW
            # An unknown user name must not be answered faster than a wrong password.
            if _matches(hashed or _NOBODY, password) and hashed is not None:
                return Verdict.RIGHT
            with self._lock:
                self._of_user.add((address, user))
                self._of_address.add(address)
            return Verdict.WRONG
        finally:
            self._turns.release()

    def find(self, path: Path, name: str) -> User | None:
        """The user of that name in the file at `path`, as it is now; None if there is none."""
        return (self._users(path) or {}).get(name)

    def anybody(self, path: Path) -> bool:
        """Whether the file at `path` has users, or cannot be read, so that there may be some."""
        return self._users(path) != {}

    def _users(self, path: Path) -> dict[str, User] | None:
        """The users of a file, None if it cannot be read."""
        with self._lock:
            state = (path, *_state_of(path))
            if state != self._state:
                self._known = _read_or_none(path)
                self._state = state
            return self._known


def _matches(hashed: str, password: bytes) -> bool:
    try:
        return HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def _state_of(path: Path) -> tuple[int, ...]:
    """Changes whenever the content of the file or its mode changes."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def _read_or_none(path: Path) -> dict[str, User] | None:
    """The users, None if the file cannot be read: then no password can be checked."""
    try:
        return read_users(path)
    except UserError as error:
        log.error("users not read", extra={"reason": str(error)})
        return None
