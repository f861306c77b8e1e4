"""`temporary_pacs`: a real server in this process, on free ports and in a directory of its own, for one block."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from pydicom.dataset import Dataset

from pacs_server.app.seams import Seams
from pacs_server.app.server import PacsServer
from pacs_server.errors import ConfigError
from pacs_server.net.transport import Transport
from pacs_server.scp.admission import Admission
from pacs_server.services.associations import PastAssociation
from pacs_server.testing import template
from pacs_server.testing.certificates import Certificates, make_certificates
from pacs_server.testing.contents import Contents, Study
from pacs_server.testing.destination import Destination
from pacs_server.testing.dimse_faults import FaultyAdmission, Operation, around, noted
from pacs_server.testing.faults import Faults
from pacs_server.testing.faulty_transport import FaultyTransport
from pacs_server.testing.http_faults import faulty_app
from pacs_server.testing.orders import Worklist
from pacs_server.testing.preload import Content, preload
from pacs_server.testing.settings import settings
from pacs_server.testing.waiting import described, wait_for

Value = TypeVar("Value")


class TemporaryPacs:
    """A running server, as a test sees it.

    `host`, `port` and `ae_title` are for DIMSE, `url` and `dicomweb_url` for HTTP. `tls_port` is None without TLS, and
    so is `certificates`. `faults` makes it fail on purpose, `worklist` is its worklist, and `destination` is a Storage
    SCP that it knows as a destination of C-MOVE; `destinations` are all of these, by AE title.
    """

    def __init__(self, directory: Path, certificates: Certificates | None, destinations: Sequence[str]) -> None:
        self.directory = directory
        self.certificates = certificates
        self.faults = Faults()
        self.destinations = {title: Destination(title) for title in destinations}
        self._operations = noted()
        self._stopping = threading.Event()
        self._remotes: list[Mapping[str, Any]] = [_remote(each) for each in self.destinations.values()]

    # ---------------------------------------------------------------- where it is

    @property
    def address(self) -> tuple[str, int]:
        """Where it speaks DIMSE."""
        return self.server.address

    @property
    def host(self) -> str:
        """The host of all its ports."""
        return self.server.address[0]

    @property
    def port(self) -> int:
        """The port for DIMSE."""
        return self.server.address[1]

    @property
    def tls_port(self) -> int | None:
        """The port for DIMSE over TLS."""
        return None if self.server.tls_address is None else self.server.tls_address[1]

    @property
    def ae_title(self) -> str:
        """Its AE title."""
        return self.server.config.server.ae_title

    @property
    def url(self) -> str:
        """The address of its HTTP port."""
        assert self.server.web_address is not None
        return "{}://{}:{}".format("https" if self.certificates else "http", *self.server.web_address)

    @property
    def dicomweb_url(self) -> str:
        """The address of its DICOMweb services."""
        return f"{self.url}/dicom-web"

    # ---------------------------------------------------------------- what is there

    @property
    def received(self) -> list[Dataset]:
        """The instances that were stored since the server started, through any door, in the order of their arrival."""
        return self._contents.received()

    @property
    def studies(self) -> list[Study]:
        """All studies that it holds, those that it began with as well."""
        return self._contents.studies()

    @property
    def steps(self) -> list[Dataset]:
        """The performed procedure steps (MPPS) as they are now, in the order in which they were created."""
        return self._contents.steps()

    @property
    def sent(self) -> list[Dataset]:
        """What its destinations got, those of one destination in the order of their arrival."""
        return [each for destination in self.destinations.values() for each in destination.received]

    @property
    def destination(self) -> Destination:
        """The first of its destinations."""
        return next(iter(self.destinations.values()))

    @property
    def associations(self) -> list[PastAssociation]:
        """The associations that have ended or were refused, in that order, and why each of them was."""
        return self.server.recent_associations.list()[::-1]

    @property
    def operations(self) -> list[Operation]:
        """The operations that clients asked for, with the status of each."""
        return list(self._operations)

    def add_destination(self, ae_title: str, port: int, host: str = "127.0.0.1") -> None:
        """Make a Storage SCP of the test known as a destination of C-MOVE. Raises ConfigError."""
        remotes = [each for each in self._remotes if each["ae_title"] != ae_title]
        self._remotes = [*remotes, {"ae_title": ae_title, "host": host, "port": port}]
        if not self.server.reload():
            raise ConfigError(f"{ae_title} {host}:{port} cannot be a destination")

    def wait_for(
        self,
        condition: Callable[[], Value] | None = None,
        *,
        received: int | None = None,
        sent: int | None = None,
        steps: int | None = None,
        operation: str | None = None,
        seconds: float = 10.0,
    ) -> Value | bool:
        """Wait until `condition` is true, and return its value; or until there is as much as the other arguments say.

        `received`, `sent` and `steps` are numbers of instances and steps, `operation` is the name of an operation that
        was answered, such as C-MOVE. Raises WaitFailed, an AssertionError that names all associations and why each
        of them ended.
        """
        __tracebackhide__ = True  # pytest shows the line of the test
        wanted = {"received": received, "sent": sent, "steps": steps}
        numbers = {name: number for name, number in wanted.items() if number is not None}

        def there() -> Value | bool:
            if any(len(getattr(self, name)) < number for name, number in numbers.items()):
                return False
            if operation is not None and all(each.name != operation for each in self.operations):
                return False
            return True if condition is None else condition()

        def report() -> str:
            found = [f"{name}: {len(getattr(self, name))} of {number}" for name, number in numbers.items()]
            found += [f"operation {operation}"] if operation else []
            found += [f"condition {getattr(condition, '__qualname__', condition)}"] if condition else []
            return f"waited for {seconds:g} s in vain: {', '.join(found) or 'nothing'}" + self.described()

        return wait_for(there, seconds, report)

    def described(self) -> str:
        """All associations and why each of them ended, and the operations with their statuses, for people."""
        return described(self.associations, self.server.open_associations(), self.operations)

    # ---------------------------------------------------------------- its life

    def run(self, ae_title: str, studies: Iterable[Content], changes: Mapping[str, Any], resources: ExitStack) -> None:
        """Start the server, which stops with `resources`. Raises a PacsError."""
        for destination in self.destinations.values():
            destination.start()
            resources.callback(destination.stop)
        template.copy_to(self.directory / "pacs.db")
        (self.directory / "archive").mkdir(mode=0o700)

        def config() -> Any:
            return settings(self.directory, ae_title, self._remotes, self.certificates, changes)

        self.server = PacsServer(config(), reload=config, seams=self._seams())
        resources.enter_context(self.server)
        resources.callback(self._stopping.set)
        archive = self.server.archive
        preload(archive.store, studies, ae_title)
        self._contents = Contents(archive, self.directory / "archive")
        self.worklist = Worklist(archive.worklist)

    def _seams(self) -> Seams:
        def admission(given: Admission) -> Admission:
            return cast(Admission, FaultyAdmission(given, self.faults, self._stopping))

        return Seams(
            transport=cast(Callable[..., Transport], partial(FaultyTransport, faults=self.faults)),
            admission=admission,
            handlers=around(self.faults, self._operations),
            web=partial(faulty_app, faults=self.faults, stopping=self._stopping),
        )


@contextmanager
def temporary_pacs(
    *,
    ae_title: str = "PACS",
    studies: Iterable[Content] = (),
    destinations: Sequence[str] = ("DESTINATION",),
    tls: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[TemporaryPacs]:
    """A server that lives until the end of the block, and leaves nothing behind.

    `studies` is what it holds from the start: data sets, files or folders of DICOM files, or `synthetic:ct=2`.
    `destinations` are AE titles of Storage SCPs that take what the server sends. With `tls` there is a port for DICOM
    over TLS as well, and HTTP is HTTPS. `settings` are those of a configuration file, by section, where they are to
    differ. Raises a PacsError if the server cannot start.
    """
    with ExitStack() as resources:
        directory = Path(tempfile.mkdtemp(prefix="pacs-server-"))
        resources.callback(shutil.rmtree, directory, ignore_errors=True)
        pacs = TemporaryPacs(directory, make_certificates(directory) if tls else None, destinations)
        pacs.run(ae_title, studies, settings or {}, resources)
        yield pacs


def _remote(destination: Destination) -> Mapping[str, Any]:
    return {"ae_title": destination.ae_title, "host": destination.host, "port": destination.port}
