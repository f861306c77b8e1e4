"""Users and their passwords: the file of users, and the check of a password with bounded memory and rate.

The file has one line `name:hash` for each user, with an Argon2id hash. No password is kept anywhere.
"""

import fcntl
import logging
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from pacs_server.errors import UserError
from pacs_server.kit.private_files import make_directory

log = logging.getLogger(__name__)

MIN_PASSWORD: Final = 8
_MAX_PASSWORD: Final = 1024
_MAX_BYTES: Final = 4_194_304
_NAME: Final = re.compile(r"[^:#\s][^:]{0,63}")
# OWASP's recommendation since 2023. The one of RFC 9106 would take three times the memory.
_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# The hash for user names that do not exist: checking it takes as long as checking the hash of a user.
_NOBODY: Final = f"$argon2id$v=19$m=19456,t=2,p=1${'A' * 22}${'A' * 43}"
# Limits for hashes that another program made: the memory in KiB, the passes and the lanes that one check may take.
_MOST_MEMORY, _MOST_TIME, _MOST_LANES = 65_536, 16, 8
# How many passwords are checked at the same time, and how long a check may wait for its turn, in seconds.
_AT_ONCE: Final = 2
_TURN_SECONDS: Final = 10.0


class Verdict(Enum):
    """The result of a check: the password is right, wrong, or was not checked because too many were wrong."""

    RIGHT = auto()
    WRONG = auto()
    NOT_NOW = auto()


# ------------------------------------------------------------------------------------ the file


def read_users(path: Path) -> dict[str, str]:
    """The hashes by user name; empty if there is no file. Raises UserError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"the users in {path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES} bytes, which is no file of users")
    users: dict[str, str] = {}
    # surrogateescape turns bytes that are not UTF-8 into characters that no user name has.
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            name, _, hashed = line.strip().partition(":")
            if name in users:
                raise UserError(f"{path} line {number} has the same user name as a line above")
            if not _is_name(name) or not _is_affordable(hashed):
                raise UserError(f"{path} line {number} is not a user name, a colon and an Argon2id hash")
            users[name] = hashed
    return users


def _is_name(name: str) -> bool:
    return bool(_NAME.fullmatch(name)) and name.isprintable() and name == name.strip()


def _is_affordable(hashed: str) -> bool:
    try:
        needs = extract_parameters(hashed)
    except InvalidHashError:
        return False
    return (
        needs.type is Type.ID
        and needs.memory_cost <= _MOST_MEMORY
        and needs.time_cost <= _MOST_TIME
        and needs.parallelism <= _MOST_LANES
    )


def add_user(path: Path, name: str, password: str) -> None:
    """Add a user, and create the file, readable by its owner only, if there is none. Raises UserError."""
    check_name(name)
    hashed = _hashed(password)
    with _changing(path) as users:
        if name in users:
            raise UserError(f"there is a user {name} already")
        users[name] = hashed


def set_password(path: Path, name: str, password: str) -> None:
    """Change the password of a user. Raises UserError."""
    hashed = _hashed(password)
    with _changing(path) as users:
        _check_known(users, name)
        users[name] = hashed


def remove_user(path: Path, name: str) -> None:
    """Remove a user; associations in force stay. Raises UserError."""
    with _changing(path) as users:
        _check_known(users, name)
        del users[name]


def check_name(name: str) -> None:
    """Raise UserError if `name` is not allowed as a user name."""
    if not _is_name(name):
        raise UserError("a user name has 1 to 64 printable characters, no colon, and does not begin with # or a space")


def _check_known(users: dict[str, str], name: str) -> None:
    if name not in users:
        raise UserError(f"there is no user {name if _is_name(name) else 'of that name'}")


def _hashed(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= _MAX_PASSWORD:
        raise UserError(f"a password has {MIN_PASSWORD} to {_MAX_PASSWORD} characters")
    try:
        return _HASHER.hash(password.encode())
    except UnicodeEncodeError:
        raise UserError("the password is not UTF-8 text") from None


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, str]]:
    """The users, to be changed in the block. At its end the file is replaced by them, atomically and durably."""
    try:
        make_directory(path.parent)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Without the lock, of two changes at the same time one would be lost. Closing the descriptor unlocks.
            fcntl.flock(directory, fcntl.LOCK_EX)
            users = read_users(path)
            yield users
            _replace(path, "".join(f"{name}:{users[name]}\n" for name in sorted(users)))
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise UserError(f"the users in {path} cannot be changed: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    # mkstemp creates the file with mode 0600.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if os.geteuid() == 0:
                # The superuser runs the command, but the user of the server has to read the file.
                owner = (path if path.exists() else path.parent).stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ------------------------------------------------------------------------------------ the check


class Failures:
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


class Users:
    """Checks passwords against a file of users, which is read again when it has changed. Thread-safe.

    At most two passwords are checked at the same time, which bounds the memory. After too many wrong passwords the next
    ones are not checked. They are counted for each pair of user name and address, so that one device with an old
    password does not lock out other devices behind the same address, and for each address, so that trying many user
    names does not help.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._turns = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._of_user = Failures(5, 12.0, clock=clock)
        self._of_address = Failures(20, 3.0, clock=clock)
        self._known: dict[str, str] = {}
        self._state: tuple[object, ...] = ()

    def check(self, path: Path, name: str, password: bytes, address: str) -> Verdict:
        """Check the password of a user in the file at `path`. Waits up to 10 seconds for its turn."""
        user, hashed = (name, self._hash_of(path, name)) if _is_name(name) else ("", None)
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

    def _hash_of(self, path: Path, name: str) -> str | None:
        with self._lock:
            state = (path, *_state_of(path))
            if state != self._state:
                self._known = _read_or_none(path)
                self._state = state
            return self._known.get(name)


def _matches(hashed: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def _state_of(path: Path) -> tuple[int, ...]:
    """Changes whenever the content of the file or its mode changes."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def _read_or_none(path: Path) -> dict[str, str]:
    """The users, or no users if the file cannot be read: then no password can be checked."""
    try:
        return read_users(path)
    except UserError as error:
        log.error("users not read", extra={"reason": str(error)})
        return {}
