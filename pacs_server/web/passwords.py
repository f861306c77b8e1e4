"""Passwords of local users, checked off the event loop; a few at a time, and a right one not again for a while."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pacs_server.config.passwords import PasswordChecker, Verdict
from pacs_server.config.rights import User
from pacs_server.web.lane import Lane

_THREADS: Final = 3
# For so many seconds a program that sends its password with each request pays for one check.
_REMEMBERED: Final = 300.0
_MOST_REMEMBERED: Final = 1000


class Passwords:
    """Checks passwords for the event loop."""

    def __init__(self, users: PasswordChecker, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._users = users
        self._clock = clock
        self._lane = Lane(_THREADS)
        # What was right, by a hash that only this process can compute, until when.
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, float] = OrderedDict()

    async def check(self, path: Path, name: str, password: bytes, address: str) -> tuple[Verdict, User | None]:
        """Check a password against the file of users; the user if it is right. Raises ResourceLimitation."""
        return await self._lane.run(self._users.identify, path, name, password, address)

    async def check_again(
        self, path: Path, name: str, password: bytes, address: str
    ) -> tuple[Verdict, User | None, bool]:
        """The same for a password that comes with each request; also whether it was looked at now."""
        known = self._users.find(path, name)
        if known is not None and self._right.get(self._mark(name, password, known), 0.0) > self._clock():
            return Verdict.RIGHT, known, False
        verdict, user = await self.check(path, name, password, address)
        if user is not None:
            self._right[self._mark(name, password, user)] = self._clock() + _REMEMBERED
            if len(self._right) > _MOST_REMEMBERED:
                self._right.popitem(last=False)
        return verdict, user, True

    def _mark(self, name: str, password: bytes, user: User) -> bytes:
        told = b"\0".join((name.encode(), user.stamp.encode(), password))
        return hmac.digest(self._key, told, hashlib.sha256)
