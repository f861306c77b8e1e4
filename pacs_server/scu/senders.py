"""Opens senders to remotes of every kind, and asks remotes whether they are there."""

from collections.abc import Callable

from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.remotes import Remote, Remotes
from pacs_server.scu.sending import Sender


class Senders:
    """Opens senders; may be shared by all threads."""

    def __init__(self, pool: Pool, web: DICOMwebClients, remotes: Callable[[str], Remote | None]) -> None:
        """`remotes` finds a remote by its name."""
        self._pool = pool
        self._web = web
        self.remotes = Remotes(pool, web, remotes)

    def open(self, remote: RemoteAEConfig) -> Sender:
        """A sender to a remote, to be used as a context manager. Raises RemoteError if there is no such remote."""
        known = self.remotes.known(remote.name)
        return DIMSESender(self._pool, known) if isinstance(known, RemoteAE) else self._web.sender(known)

    def probe(self, remote: RemoteAEConfig) -> None:
        """Return if the remote answers. Raises RemoteError."""
        self.remotes.echo(remote.name, wait=0.0)

    def stop(self) -> None:
        """End all associations and connections at once, because the server shuts down."""
        self.remotes.stop()
