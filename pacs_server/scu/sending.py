"""**The** interface by which instances are sent to a remote, whether it speaks DIMSE or DICOMweb."""

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from pacs_server.dicom.status import Status, is_warning
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index.instances import StoredInstance
from pacs_server.services.retrieve import RetrieveService


class OpenDataSet(Protocol):
    """A data set that is open to be read, as it is stored or changed."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer where the data set ends. Raises StorageUnavailable."""

    def close(self) -> None:
        """Close it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An instance to be sent.

    `open` gives its data set in `transfer_syntax_uid`: open as it is stored, to be closed by whoever opened it, or as
    bytes if it was changed. It may be called more than once, and raises what `RetrieveService.open` raises.
    """

    uids: InstanceUIDs
    sop_class_uid: str
    transfer_syntax_uid: str
    open: Callable[[], OpenDataSet | bytes]


def outgoing(retrieve: RetrieveService, instance: StoredInstance) -> Outgoing:
    """A stored instance, to be sent as it is."""
    return Outgoing(
        instance.uids, instance.sop_class_uid, instance.transfer_syntax_uid, lambda: retrieve.open(instance)
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a remote answered about one instance.

    `status` is that of C-STORE (PS3.4 B.2.3); what a DICOMweb remote answers is mapped to it. `permanent` says that
    another try with the same instance would be answered the same. `detail` is a sentence for people, and `association`
    says over what the instance was sent.
    """

    status: int
    permanent: bool = False
    detail: str = ""
    association: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the remote has the instance: success, or a warning (PS3.7 Annex C)."""
        return self.status == Status.SUCCESS or is_warning(self.status)


class Sender(Protocol):
    """Sends instances to one remote until its `with` block ends; for one thread."""

    def send(self, instance: Outgoing, upcoming: Outgoing | None = None) -> Answer:
        """Send one instance and return what the remote answered, or what kept the instance from being sent.

        The `upcoming` one, most likely the next to be sent, may be opened while the remote has not answered.
        Raises RemoteUnreachable or RemoteBusy if the remote as a whole is the problem: then the instance is none the
        worse, and the next one would not be sent either.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
