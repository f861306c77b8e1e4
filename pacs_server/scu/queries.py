"""Queries of remotes on behalf of people, each recorded in the audit trail."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pacs_server.audit.events import Role
from pacs_server.audit.outgoing import OutgoingAuditor
from pacs_server.dicom.caller import Caller
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.levels import Level
from pacs_server.errors import PacsError
from pacs_server.kit.words import counted
from pacs_server.scu.echo import Echo
from pacs_server.scu.find import PATIENT_ROOT, STUDY_ROOT, WORKLIST
from pacs_server.scu.inventory import inventory
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.remotes import Remotes, participant
from pacs_server.scu.search import Search

# Searches of PS3.18 have no SOP class.
QIDO: Final = "QIDO-RS"


@dataclass(frozen=True, slots=True)
class LastEcho:
    """What became of an echo: when it was sent, why there was no answer, '' if there was one, and the answer."""

    at: datetime
    failure: str
    answer: Echo | None = None


class RemoteQueries:
    """Asks remotes for callers; may be shared by all threads. Everything raises RemoteError and its kinds."""

    def __init__(self, remotes: Remotes, auditor: OutgoingAuditor) -> None:
        self._remotes = remotes
        self._auditor = auditor
        self._echoes: dict[str, LastEcho] = {}

    def echo(self, name: str) -> Echo:
        """Ask a remote whether it is there."""
        try:
            answer = self._remotes.echo(name)
        except PacsError as error:
            self._echoes[name] = LastEcho(datetime.now(UTC), str(error))
            raise
        self._echoes[name] = LastEcho(datetime.now(UTC), "", answer)
        return answer

    def last_echo(self, name: str) -> "LastEcho | None":
        """What became of the last echo that this process sent to a remote; None if it has sent none."""
        return self._echoes.get(name)

    def find(self, caller: Caller, name: str, search: Search, limit: int | None = None) -> Iterator[DataSet]:
        """The matches of a search at a remote. Raises InvalidIdentifier and AuditUnavailable as well."""
        service = PATIENT_ROOT if search.level is Level.PATIENT else STUDY_ROOT
        return self._recorded(caller, name, service, search.keys, self._remotes.find(name, search, limit))

    def inventory(self, caller: Caller, name: str, study: str) -> dict[str, tuple[str, str]]:
        """What a remote has of a study, see `inventory`; empty if it names no instances.

        Raises AuditUnavailable, and RemoteError and its kinds.
        """
        remote = self._remotes.known(name)
        there = participant(remote, Role.DESTINATION)
        self._auditor.ensure_writable()
        failure, found = "", dict[str, tuple[str, str]]()
        try:
            found = inventory(self._remotes, name, study)
        except PacsError as error:
            failure = str(error)
            raise
        finally:
            service = STUDY_ROOT if isinstance(remote, RemoteAE) else QIDO
            detail = failure or counted(len(found), "instance")
            self._auditor.asked(caller, there, service, {"StudyInstanceUID": study}, detail, failed=bool(failure))
        return found

    def worklist(
        self, caller: Caller, name: str, keys: Mapping[str, str], limit: int | None = None
    ) -> Iterator[DataSet]:
        """The items of the worklist of a remote; raises as `find` does, and InvalidRequest."""
        return self._recorded(caller, name, WORKLIST, keys, self._remotes.worklist(name, keys, limit))

    def _recorded(
        self, caller: Caller, name: str, service: str, keys: Mapping[str, str], matches: Iterator[DataSet]
    ) -> Iterator[DataSet]:
        remote = self._remotes.known(name)
        there = participant(remote, Role.DESTINATION)
        service = service if isinstance(remote, RemoteAE) else QIDO
        self._auditor.ensure_writable()
        count, failure = 0, ""
        try:
            for match in matches:
                count += 1
                yield match
        except PacsError as error:
            failure = str(error)
            raise
        finally:
            detail = failure or counted(count, "match", "matches")
            self._auditor.asked(caller, there, service, keys, detail, failed=bool(failure))
