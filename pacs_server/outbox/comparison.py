"""Compares studies as a remote names them with what of them is here, instance by instance."""

from dataclasses import dataclass
from typing import Final

from pacs_server.dicom.caller import Caller
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.json_model import DataSet, text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import RemoteBusy, RemoteError, RemoteUnreachable
from pacs_server.scu.queries import RemoteQueries
from pacs_server.services.retrieve import RetrieveService

# What a search whose matches are compared asks for.
RETURNED: Final = ("StudyInstanceUID", "NumberOfStudyRelatedInstances")


@dataclass(frozen=True, slots=True)
class Compared:
    """How many instances of a study a remote has, None if it does not name them, and how many of these are here."""

    study_instance_uid: str
    here: int
    there: int | None


def compare(queries: RemoteQueries, retrieve: RetrieveService, caller: Caller, remote: str, match: DataSet) -> Compared:
    """Compare a study that a remote has named.

    A remote that does not name its instances is believed as to how many it has; then all that is here counts. Raises
    RemoteBusy, RemoteUnreachable, AuditUnavailable, IndexUnavailable.
    """
    uid = text_of(match, "0020000D")
    try:
        named = list(queries.inventory(caller, remote, uid)) if is_uid(uid) else []
    except (RemoteBusy, RemoteUnreachable):
        raise
    except RemoteError:
        named = []
    if named:
        return Compared(uid, len(retrieve.present(named)), len(named))
    told = text_of(match, "00201208")
    here = len(retrieve.select(RetrieveKeys(Level.STUDY, study_instance_uids=(uid,))))
    return Compared(uid, here, int(told) if told.isascii() and told.isdigit() else None)
