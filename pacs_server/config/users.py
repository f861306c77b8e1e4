"""The file of users. It has one line for each user; no password is kept anywhere.

A line is `name:hash`, with an Argon2id hash, and for users who are no contributors without limits `name:hash:rights`,
with the rights as a JSON object. Earlier versions knew the first form only, and refuse the second.
"""

import fcntl
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import InvalidHashError

from pacs_server.config.rights import CONTRIBUTOR, Rights, User, check_rights, rights_of
from pacs_server.errors import UserError
from pacs_server.kit.private_files import make_directory

MIN_PASSWORD: Final = 8
_MAX_PASSWORD: Final = 1024
_MAX_BYTES: Final = 4_194_304
_NAME: Final = re.compile(r"[^:#\s][^:]{0,63}")
# OWASP's recommendation since 2023. The one of RFC 9106 would take three times the memory.
HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
# Limits for hashes that another program made: the memory in KiB, the passes and the lanes that one check may take.
_MOST_MEMORY, _MOST_TIME, _MOST_LANES = 65_536, 16, 8


def read_users(path: Path) -> dict[str, User]:
    """The users by name; empty if there is no file. Raises UserError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"the users in {path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES} bytes, which is no file of users")
    users: dict[str, User] = {}
    # surrogateescape turns bytes that are not UTF-8 into characters that no user name has.
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.strip().partition(":")
            hashed, colon, rights = rest.partition(":")
            if name in users:
                raise UserError(f"{path} line {number} has the same user name as a line above")
            if not is_name(name) or not _is_affordable(hashed):
                raise UserError(f"{path} line {number} is not a user name, a colon and an Argon2id hash")
            try:
                users[name] = User(hashed, rights_of(rights) if colon else CONTRIBUTOR)
            except UserError as error:
                raise UserError(f"{path} line {number} has wrong rights: {error}") from None
    return users


def is_name(name: str) -> bool:
    """Whether `name` is allowed as a user name."""
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


def add_user(path: Path, name: str, password: str, rights: Rights = CONTRIBUTOR) -> None:
    """Add a user, and create the file, readable by its owner only, if there is none. Raises UserError."""
    check_name(name)
    check_rights(rights)
    hashed = _hashed(password)
    with _changing(path) as users:
        if name in users:
            raise UserError(f"there is a user {name} already")
        users[name] = User(hashed, rights)


def set_password(path: Path, name: str, password: str) -> None:
    """Change the password of a user. Raises UserError."""
    hashed = _hashed(password)
    _change(path, name, lambda user: replace(user, hashed=hashed))


def set_rights(path: Path, name: str, rights: Rights) -> None:
    """Give a user another role and other limits. Raises UserError."""
    check_rights(rights)
    _change(path, name, lambda user: replace(user, rights=rights))


def remove_user(path: Path, name: str) -> None:
    """Remove a user; associations in force stay. Raises UserError."""
    with _changing(path) as users:
        check_known(users, name)
        del users[name]


def _change(path: Path, name: str, change: Callable[[User], User]) -> None:
    with _changing(path) as users:
        check_known(users, name)
        users[name] = change(users[name])


def check_name(name: str) -> None:
    """Raise UserError if `name` is not allowed as a user name."""
    if not is_name(name):
        raise UserError("a user name has 1 to 64 printable characters, no colon, and does not begin with # or a space")


def check_known(users: dict[str, User], name: str) -> None:
    """Raise UserError if there is no user of this name."""
    if name not in users:
        raise UserError(f"there is no user {name if is_name(name) else 'of that name'}")


def check_password(password: str) -> None:
    """Raise UserError if `password` is not allowed as a password."""
    if not MIN_PASSWORD <= len(password) <= _MAX_PASSWORD:
        raise UserError(f"a password has {MIN_PASSWORD} to {_MAX_PASSWORD} characters")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise UserError("the password is not UTF-8 text") from None


def _hashed(password: str) -> str:
    check_password(password)
    return HASHER.hash(password.encode())


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, User]]:
    """The users, to be changed in the block. At its end the file is replaced by them, atomically and durably."""
    try:
        make_directory(path.parent)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Without the lock, of two changes at the same time one would be lost. Closing the descriptor unlocks.
            fcntl.flock(directory, fcntl.LOCK_EX)
            users = read_users(path)
            yield users
            _replace(path, "".join(f"{name}:{users[name].text()}\n" for name in sorted(users)))
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
