"""Opens senders to remotes of every kind, and asks remotes whether they are there."""

from collections.abc import Callable

from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.errors import RemoteError
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dicomweb.remote import DICOMwebRemote
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.echo import echo
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.sending import Sender

Remote = RemoteAE | DICOMwebRemote


class Senders:
    """Opens senders; may be shared by all threads."""

    def __init__(self, pool: Pool, web: DICOMwebClients, remotes: Callable[[str], Remote | None]) -> None:
        """`remotes` finds a remote by its name."""
        self._pool = pool
        self._web = web
        self._remotes = remotes

    def open(self, remote: RemoteAEConfig) -> Sender:
        """A sender to a remote, to be used as a context manager. Raises RemoteError if there is no such remote."""
        known = self.known(remote.name)
        return DIMSESender(self._pool, known) if isinstance(known, RemoteAE) else self._web.sender(known)

    def probe(self, remote: RemoteAEConfig) -> None:
        """Return if the remote answers. Raises RemoteError."""
        known = self.known(remote.name)
        if isinstance(known, RemoteAE):
            echo(self._pool, known, wait=0.0)
            return
        # The HTTP client takes long to import, and most servers have no DICOMweb remote.
        from pacs_server.scu.dicomweb.qido import probe

        with self._web.use(known) as client:
            probe(client)

    def stop(self) -> None:
        """End all associations and connections at once, because the server shuts down."""
        self._pool.stop()
        self._web.kill()

    def known(self, name: str) -> Remote:
        """The remote with this name. Raises RemoteError if there is none."""
        remote = self._remotes(name)
        if remote is None:
            raise RemoteError(f"{name} is not in remote_aes")
        return remote
