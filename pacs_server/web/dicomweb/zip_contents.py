"""What goes into a ZIP file: all stored files that were asked for, or those that are there, if the client wants that.

A ZIP file that is sent cannot tell any more that something is missing, so the files are looked for before.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from pacs_server.errors import FilesMissing
from pacs_server.index.instances import StoredInstance
from pacs_server.kit.words import counted
from pacs_server.services.retrieve import RetrieveService
from pacs_server.web.dicomweb.transfers import Transfer

log = logging.getLogger(__name__)

WITHOUT_MISSING: Final = "without_missing"
# The sentence names so many; the members of the answer name all of them.
_MOST_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class ZipContents:
    """The instances whose files are there, and those whose are not."""

    there: Sequence[StoredInstance]
    lost: Sequence[StoredInstance]

    def note(self, transfer: Transfer) -> None:
        """Note in the record of a transfer what cannot be sent."""
        for instance in self.lost:
            transfer.failed(instance)


def zip_contents(
    retrieve: RetrieveService, instances: Sequence[StoredInstance], *, without_missing: bool
) -> ZipContents:
    """What a ZIP file of these instances holds. Raises FilesMissing unless all are there, or some are enough."""
    lost = retrieve.missing(instances)
    gone = {instance.uids.sop for instance in lost}
    if lost and not (without_missing and len(lost) < len(instances)):
        log.warning("download incomplete", extra={"missing": len(lost), "of": len(instances), "path": lost[0].path})
        raise FilesMissing(_sentence([*gone], len(instances)), instances=sorted(gone), of=len(instances))
    return ZipContents([instance for instance in instances if instance.uids.sop not in gone], lost)


def wants_rest(request: Request) -> bool:
    """Whether a request says that what is there is enough."""
    return request.query_params.get(WITHOUT_MISSING, "").lower() in ("1", "true", "yes")


def _sentence(gone: Sequence[str], of: int) -> str:
    named = sorted(gone)[:_MOST_NAMED]
    more = f" and {len(gone) - len(named)} more" if len(gone) > len(named) else ""
    rest = f"; with {WITHOUT_MISSING}=1 the ZIP file holds the other {of - len(gone)}" if len(gone) < of else ""
    be = "is" if len(gone) == 1 else "are"
    return (
        f"{len(gone)} of {counted(of, 'stored file')} {be} missing or incomplete: {', '.join(named)}{more}; "
        f"`pacs-server verify` lists them, and a backup or their sender may have them{rest}"
    )
