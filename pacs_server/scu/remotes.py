"""What can be asked of a remote, whatever its kind: whether it is there, what it has, and to send it."""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from urllib.parse import urlsplit

from pacs_server.audit.events import Participant, Role
from pacs_server.dicom.json_model import DataSet
from pacs_server.errors import InstanceNotFound, InvalidRequest, RemoteError
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dicomweb.remote import DICOMwebRemote
from pacs_server.scu.echo import Echo, echo
from pacs_server.scu.find import find, find_worklist
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.retrieving import Progress, Retrieved, Take, Wanted, retrieve
from pacs_server.scu.search import Search

Remote = RemoteAE | DICOMwebRemote


class Remotes:
    """Asks remotes by their names; may be shared by all threads. Everything raises RemoteError and its kinds."""

    def __init__(self, pool: Pool, web: DICOMwebClients, remotes: Callable[[str], Remote | None]) -> None:
        """`remotes` finds a remote by its name."""
        self._pool = pool
        self._web = web
        self._remotes = remotes

    def known(self, name: str) -> Remote:
        """The remote with this name. Raises RemoteError if there is none."""
        remote = self._remotes(name)
        if remote is None:
            raise RemoteError(f"{name} is not in remote_aes; if it was added, reload the server")
        return remote

    def echo(self, name: str, *, wait: float | None = None) -> Echo:
        """Ask a remote whether it is there: by C-ECHO, or by a search for one study."""
        remote = self.known(name)
        if isinstance(remote, RemoteAE):
            return echo(self._pool, remote, wait=wait)
        # The HTTP client takes long to import, and most servers have no DICOMweb remote.
        from pacs_server.scu.dicomweb.qido import probe

        began = time.monotonic()
        with self._web.use(remote) as client:
            probe(client)
        seconds = time.monotonic() - began
        return Echo(seconds, seconds)

    def find(self, name: str, search: Search, limit: int | None = None) -> Iterator[DataSet]:
        """The matches of a search, each in the DICOM JSON Model. Raises InvalidIdentifier as well."""
        remote = self.known(name)
        if isinstance(remote, RemoteAE):
            yield from find(self._pool, remote, search, limit=limit)
            return
        from pacs_server.scu.dicomweb import qido

        with self._web.use(remote) as client:
            yield from islice(qido.find(client, search, page=min(limit or qido.PAGE, qido.PAGE)), limit)

    def worklist(self, name: str, keys: Mapping[str, str], limit: int | None = None) -> Iterator[DataSet]:
        """The items of a modality worklist. Raises InvalidIdentifier, and InvalidRequest for DICOMweb remotes."""
        remote = self.known(name)
        if not isinstance(remote, RemoteAE):
            raise InvalidRequest(f"{name} is a DICOMweb remote, which has no worklist")
        return find_worklist(self._pool, remote, keys, limit=limit)

    def retrieve(self, name: str, wanted: Wanted, take: Take, progress: Progress, *, may_get: bool = True) -> Retrieved:
        """Have instances sent here; what comes by C-MOVE arrives at the DICOM port, all else is given to `take`."""
        remote = self.known(name)
        if isinstance(remote, RemoteAE):
            return retrieve(self._pool, remote, wanted, take, progress, may_get=may_get)
        return self._retrieve_web(remote, wanted, take, progress)

    def stop(self) -> None:
        """End all associations and connections at once."""
        self._pool.stop()
        self._web.kill()

    def _retrieve_web(self, remote: DICOMwebRemote, wanted: Wanted, take: Take, progress: Progress) -> Retrieved:
        from pacs_server.scu.dicomweb import wado

        done = Retrieved("WADO-RS")

        def counted(sop_class: str, uid: str, transfer_syntax: str, pieces: object) -> None:
            take(sop_class, uid, transfer_syntax, pieces)  # type: ignore[arg-type]
            done.taken += 1
            done.completed += 1
            progress.told(done)
            if progress.stop():
                raise RemoteError("the retrieval was stopped")

        paths = [(series, sop) for series in wanted.series or ("",) for sop in wanted.instances or ("",)]
        with self._web.use(remote) as client:
            for series, sop in paths:
                if progress.stop():
                    break
                try:
                    came = wado.retrieve(client, counted, wanted.study, series, sop)
                except InstanceNotFound as error:
                    done.reasons.append(str(error))
                    continue
                done.failed += len(came.failed)
                done.reasons += [f"{uid}: {why}" for uid, why in came.failed[:5]]
                done.reasons += [came.broken] if came.broken else []
        return done


def participant(remote: Remote, role: Role) -> Participant:
    """A remote as a participant of an audit event."""
    if isinstance(remote, RemoteAE):
        return Participant(remote.name, remote.ae_title, remote.host, role)
    # Where AE titles are kept, its name stands for it, which may be longer.
    return Participant(remote.name, remote.name[:16], urlsplit(remote.url).hostname or "", role)
