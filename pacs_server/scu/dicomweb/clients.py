"""The clients of the DICOMweb remotes of this server: one for each remote that is in use, and none for the others."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pacs_server.errors import RemoteUnreachable
from pacs_server.scu.dicomweb.remote import DICOMwebRemote

if TYPE_CHECKING:
    from pacs_server.scu.dicomweb.auth import Login
    from pacs_server.scu.dicomweb.client import DICOMwebClient
    from pacs_server.scu.dicomweb.sender import DICOMwebSender


@dataclass(slots=True)
class _InUse:
    client: "DICOMwebClient"
    users: int = 0


class DICOMwebClients:
    """Hands out the clients; thread-safe.

    Whoever uses a remote at the same time shares its client, so that `max_associations` holds for all of them together.
    A client is closed when its last user is done. Access tokens are kept. A remote that was changed by a reload is
    another remote.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[DICOMwebRemote, _InUse] = {}
        self._logins: dict[str, tuple[DICOMwebRemote, Login]] = {}
        self._killed = False

    @contextmanager
    def use(self, remote: DICOMwebRemote) -> Iterator["DICOMwebClient"]:
        """The client of a remote until the block ends. Raises RemoteUnreachable when the server stops."""
        client = self._begin(remote)
        try:
            yield client
        finally:
            self._end(remote)

    def sender(self, remote: DICOMwebRemote) -> "DICOMwebSender":
        """A sender to a remote, to be closed by its user."""
        from pacs_server.scu.dicomweb.sender import DICOMwebSender

        return DICOMwebSender(self._begin(remote), lambda: self._end(remote))

    def kill(self) -> None:
        """Cut all connections and refuse to open others; whoever waits on one gets RemoteUnreachable."""
        with self._lock:
            self._killed = True
            used = list(self._used.values())
        for each in used:
            each.client.kill()

    def _begin(self, remote: DICOMwebRemote) -> "DICOMwebClient":
        # The HTTP client takes long to import, and most servers have no DICOMweb remote.
        from pacs_server.scu.dicomweb.client import DICOMwebClient

        with self._lock:
            if self._killed:
                raise RemoteUnreachable("the server shuts down")
            used = self._used.get(remote)
            if used is None:
                used = self._used[remote] = _InUse(DICOMwebClient(remote, self._login(remote)))
            used.users += 1
            return used.client

    def _login(self, remote: DICOMwebRemote) -> "Login":
        from pacs_server.scu.dicomweb.auth import login_of

        known = self._logins.get(remote.name)
        if known is None or known[0] != remote:
            known = self._logins[remote.name] = remote, login_of(remote)
        return known[1]

    def _end(self, remote: DICOMwebRemote) -> None:
        with self._lock:
            used = self._used[remote]
            used.users -= 1
            if used.users:
                return
            del self._used[remote]
        used.client.close()
