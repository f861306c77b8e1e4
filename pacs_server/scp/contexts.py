"""**The** table of SOP classes with their transfer syntaxes and roles; app/conformance.py reads it too."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pynetdicom import ALL_TRANSFER_SYNTAXES, sop_class

from pacs_server.config.sections.access_control import PeerService
from pacs_server.dicom.levels import InformationModel
from pacs_server.net.negotiation import Support

# Deflated and big endian after the plain ones: preferred for queries in this order.
QUERY_TRANSFER_SYNTAXES = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
)
# SMPTE ST 2110 syntaxes are for live streams, which are never stored (PS3.22).
STORAGE_TRANSFER_SYNTAXES = tuple(
    str(uid) for uid in ALL_TRANSFER_SYNTAXES if not uid.startswith("1.2.840.10008.1.2.7.")
)

STORAGE_SOP_CLASSES: dict[str, str] = {str(uid): name for name, uid in sop_class._STORAGE_CLASSES.items()}
_STANDARD_UIDS = frozenset(str(uid) for group in sop_class._SERVICE_TO_UID_GROUP.values() for uid in group.values())
_STANDARD_ROOT = "1.2.840.10008."
# Retired storage classes are not in the registry; all of them lie here.
_STANDARD_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."


class Service(Enum):
    """The services that presentation contexts are for."""

    VERIFICATION = "Verification"
    STORAGE = "Storage"
    FIND = "Query/Retrieve - FIND"
    MOVE = "Query/Retrieve - MOVE"
    GET = "Query/Retrieve - GET"
    WORKLIST = "Modality Worklist - FIND"
    MPPS = "Modality Performed Procedure Step"
    MPPS_RETRIEVE = "Modality Performed Procedure Step Retrieve"
    COMMITMENT = "Storage Commitment Push Model"


PEER_SERVICES: dict[Service, PeerService] = {
    Service.VERIFICATION: "echo",
    Service.STORAGE: "store",
    Service.FIND: "find",
    Service.MOVE: "move",
    Service.GET: "get",
    Service.WORKLIST: "worklist",
    Service.MPPS: "mpps",
    Service.MPPS_RETRIEVE: "mpps",
    Service.COMMITMENT: "commitment",
}
"""The name of each service in the `allow` list of an access rule."""


@dataclass(frozen=True, slots=True)
class SOPClass:
    """A SOP class that is not a storage class."""

    name: str
    service: Service
    model: InformationModel | None = None


SOP_CLASSES: dict[str, SOPClass] = {
    "1.2.840.10008.1.1": SOPClass("Verification SOP Class", Service.VERIFICATION),
    "1.2.840.10008.5.1.4.1.2.1.1": SOPClass(
        "Patient Root Query/Retrieve Information Model - FIND", Service.FIND, InformationModel.PATIENT_ROOT
    ),
    "1.2.840.10008.5.1.4.1.2.1.2": SOPClass(
        "Patient Root Query/Retrieve Information Model - MOVE", Service.MOVE, InformationModel.PATIENT_ROOT
    ),
    "1.2.840.10008.5.1.4.1.2.1.3": SOPClass(
        "Patient Root Query/Retrieve Information Model - GET", Service.GET, InformationModel.PATIENT_ROOT
    ),
    "1.2.840.10008.5.1.4.1.2.2.1": SOPClass(
        "Study Root Query/Retrieve Information Model - FIND", Service.FIND, InformationModel.STUDY_ROOT
    ),
    "1.2.840.10008.5.1.4.1.2.2.2": SOPClass(
        "Study Root Query/Retrieve Information Model - MOVE", Service.MOVE, InformationModel.STUDY_ROOT
    ),
    "1.2.840.10008.5.1.4.1.2.2.3": SOPClass(
        "Study Root Query/Retrieve Information Model - GET", Service.GET, InformationModel.STUDY_ROOT
    ),
    "1.2.840.10008.5.1.4.31": SOPClass("Modality Worklist Information Model - FIND", Service.WORKLIST),
    "1.2.840.10008.3.1.2.3.3": SOPClass("Modality Performed Procedure Step SOP Class", Service.MPPS),
    "1.2.840.10008.3.1.2.3.4": SOPClass("Modality Performed Procedure Step Retrieve SOP Class", Service.MPPS_RETRIEVE),
    "1.2.840.10008.1.20.1": SOPClass("Storage Commitment Push Model SOP Class", Service.COMMITMENT),
}

# PS3.4 B.3.1: level 2 (full) storage; nothing is coerced.
_STORAGE_EXTENDED = b"\x02\x00\x00\x00\x00\x00"
_EXTENDED = {
    # PS3.4 C.5.1.1: relational queries, combined date-time matching, fuzzy names; not time zone adjustment.
    Service.FIND: b"\x01\x01\x01\x00",
    # PS3.4 C.5.2.1, C.5.3.1: relational retrieval.
    Service.MOVE: b"\x01",
    Service.GET: b"\x01",
}
# How many requests a peer may have outstanding (PS3.7 D.3.3.3). They wait in the socket and are answered in order,
# which saves a far sender the round trips. Other services read from the association while they answer (C-CANCEL,
# responses to our requests), and another request would be in the way.
WINDOW = 32
_WINDOWS = {Service.VERIFICATION: WINDOW, Service.STORAGE: WINDOW}
_STORAGE = Support(
    STORAGE_TRANSFER_SYNTAXES,
    proposer_prefers=True,
    as_scu=True,
    extended=_STORAGE_EXTENDED,
    window=WINDOW,
)
_OTHERS = {
    uid: Support(
        QUERY_TRANSFER_SYNTAXES,
        # Remotes that were asked to commit report on associations of their own, as the SCP (PS3.4 J.3.3.1).
        as_scu=entry.service is Service.COMMITMENT,
        extended=_EXTENDED.get(entry.service),
        window=_WINDOWS.get(entry.service, 1),
    )
    for uid, entry in SOP_CLASSES.items()
}


def service_of(uid: str) -> Service:
    """The service of an accepted abstract syntax; one that is not in the table was accepted for storage."""
    found = SOP_CLASSES.get(uid)
    return Service.STORAGE if found is None else found.service


def is_storage(uid: str, *, accept_unknown: bool) -> bool:
    """Whether objects of SOP class `uid` are stored; private and unknown classes only if `accept_unknown`."""
    if uid in STORAGE_SOP_CLASSES:
        return True
    if not accept_unknown or uid in _STANDARD_UIDS:
        return False
    return uid.startswith(_STANDARD_STORAGE_ROOT) or not uid.startswith(_STANDARD_ROOT)


def supports(*, accept_unknown: bool) -> Callable[[str], Support | None]:
    """A function that tells negotiation what the server supports for an abstract syntax."""

    def support(uid: str) -> Support | None:
        found = _OTHERS.get(uid)
        if found is None and is_storage(uid, accept_unknown=accept_unknown):
            return _STORAGE
        return found

    return support
