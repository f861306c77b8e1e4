"""Opens senders to remotes of every kind, and asks remotes whether they are there."""

from collections.abc import Callable

from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.errors import RemoteError
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.echo import echo
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.sending import Sender


class Senders:
    """Opens senders; may be shared by all threads."""

    def __init__(self, pool: Pool, remotes: Callable[[str], RemoteAE | None]) -> None:
        """`remotes` finds a remote by its name."""
        self._pool = pool
        self._remotes = remotes

    def open(self, remote: RemoteAEConfig) -> Sender:
        """A sender to a remote, to be used as a context manager. Raises RemoteError if there is no such remote."""
        return DIMSESender(self._pool, self._known(remote.name))

    def probe(self, remote: RemoteAEConfig) -> None:
        """Return if the remote answers. Raises RemoteError."""
        echo(self._pool, self._known(remote.name), wait=0.0)

    def stop(self) -> None:
        """End all associations at once, because the server shuts down."""
        self._pool.stop()

    def _known(self, name: str) -> RemoteAE:
        remote = self._remotes(name)
        if remote is None:
            raise RemoteError(f"{name} is not in remote_aes")
        return remote
