"""Retrieve instances from a remote: by C-GET where it offers that, else by C-MOVE to this server (PS3.4 C.4.2, C.4.3).

C-GET needs no port that the remote can reach and no entry for this server in its configuration.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pynetdicom.presentation import StoragePresentationContexts

from pacs_server.dicom.levels import Level
from pacs_server.dicom.status import Status
from pacs_server.errors import PacsError
from pacs_server.net.association import Association
from pacs_server.net.message import Command
from pacs_server.net.negotiation import ProposedContext
from pacs_server.net.transport import Buffer
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.request import EXPLICIT, IMPLICIT, SYNTAXES

GET: Final = ("1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.2.1.3")
MOVE: Final = ("1.2.840.10008.5.1.4.1.2.2.2", "1.2.840.10008.5.1.4.1.2.1.2")
# PS3.8 9.3.2.2: context ids are odd numbers from 1 to 255.
_CONTEXTS_PER_ASSOCIATION: Final = 128
# The transfer syntaxes in which a remote may send what it has, those that are most in use first. Each is a context of
# its own, because of several the remote accepts one, and that need not be the one in which it keeps an object.
_STORED: Final = (
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.4.103",
    "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.101",
    "1.2.840.10008.1.2.4.107",
    "1.2.840.10008.1.2.4.108",
    "1.2.840.10008.1.2.4.110",
    "1.2.840.10008.1.2.4.111",
    "1.2.840.10008.1.2.4.112",
)

# Stores an instance while it arrives: SOP class, SOP Instance UID, transfer syntax, pieces. Raises PacsError.
Take = Callable[[str, str, str, Iterable[Buffer]], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to retrieve: a study, series of it, or instances of one series.

    `sop_classes` are those of the instances, as far as they are known: an association has room for all transfer
    syntaxes of a few only.
    """

    study: str
    series: tuple[str, ...] = ()
    instances: tuple[str, ...] = ()
    sop_classes: frozenset[str] = frozenset()

    @property
    def level(self) -> Level:
        """The level of the request."""
        return Level.IMAGE if self.instances else Level.SERIES if self.series else Level.STUDY

    def keys(self) -> dict[str, str]:
        """The keys of the request: the unique keys down to its level, of which the last may be a list (C.4.2.1.4)."""
        keys = {"QueryRetrieveLevel": self.level.name, "StudyInstanceUID": self.study}
        keys |= {"SeriesInstanceUID": "\\".join(self.series)} if self.series else {}
        return keys | ({"SOPInstanceUID": "\\".join(self.instances)} if self.instances else {})


@dataclass(slots=True)
class Retrieved:
    """What a retrieval came to: how many instances went through, as both sides count, and why others did not."""

    way: str = ""
    taken: int = 0
    completed: int = 0
    failed: int = 0
    status: int | None = None
    reasons: list[str] = field(default_factory=list)

    def count(self, response: Command) -> None:
        """Take over the numbers of a response."""
        self.completed = response.number_of_completed or self.completed
        self.failed = response.number_of_failed or self.failed


class Progress:
    """What a retrieval asks and tells while it runs."""

    def __init__(
        self, stop: Callable[[], bool] = lambda: False, told: Callable[[Retrieved], None] = lambda so_far: None
    ) -> None:
        """`stop` says whether to cancel the retrieval, `told` hears how far it has come."""
        self.stop = stop
        self.told = told


def contexts_for(sop_classes: Collection[str]) -> tuple[ProposedContext, ...]:
    """The contexts of an association that retrieves: C-GET and C-MOVE, and those of the instances to come."""
    services = [(uid, SYNTAXES) for uid in (*GET, *MOVE)]
    names = sorted(sop_classes) or [str(each.abstract_syntax) for each in StoragePresentationContexts]
    storage: list[tuple[str, tuple[str, ...]]] = [(name, (EXPLICIT, IMPLICIT)) for name in names]
    storage += [(name, (syntax,)) for syntax in _STORED for name in names] if sop_classes else []
    room = _CONTEXTS_PER_ASSOCIATION - len(services)
    return tuple(ProposedContext(2 * n + 1, *each) for n, each in enumerate([*services, *storage[:room]]))


def retrieve(
    pool: Pool, remote: RemoteAE, wanted: Wanted, take: Take, progress: Progress, *, may_get: bool = True
) -> Retrieved:
    """Retrieve by C-GET, or by C-MOVE if the remote offers no C-GET or `may_get` is False.

    What comes by C-GET is given to `take`; what comes by C-MOVE arrives at the DICOM port of this server. Raises
    RemoteError and its kinds.
    """
    from pacs_server.scu.get import get
    from pacs_server.scu.move import move

    contexts = contexts_for(wanted.sop_classes)
    storage = {context.abstract_syntax for context in contexts} - {*GET, *MOVE}
    # PS3.7 D.3.3.4: we are the SCP of the instances that come by C-GET.
    roles: Mapping[str, tuple[bool, bool]] = {name: (False, True) for name in storage}
    with pool.association(remote, contexts, roles) as association:
        if may_get and _offers_get(association):
            return get(association, remote, wanted, take, progress)
        return move(association, remote, wanted, progress)


def _offers_get(association: Association) -> bool:
    accepted = {name for name, _ in association.contexts_as_scu}
    return bool(accepted & set(GET)) and any(context.as_scp for context in association.contexts.values())


def status_of(error: PacsError) -> int:
    """The status of a C-STORE that failed with this error (PS3.4 B.2.3)."""
    from pacs_server.errors import DuplicateInstance, InstanceMismatch, InvalidInstance, StorageFull

    table = {
        StorageFull: Status.OUT_OF_RESOURCES,
        InstanceMismatch: Status.DOES_NOT_MATCH_SOP_CLASS,
        InvalidInstance: Status.CANNOT_UNDERSTAND,
        DuplicateInstance: Status.DUPLICATE_SOP_INSTANCE,
    }
    return table.get(type(error), Status.PROCESSING_FAILURE)
