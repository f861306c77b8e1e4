"""Deletes here what was fetched as cache, when there is too much of it or it is too old, while its source has it."""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from pacs_server.audit.events import Participant
from pacs_server.config.sections.polling import CacheConfig
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.errors import AuditUnavailable, IndexUnavailable, InvalidIdentifier, PacsError, RemoteError
from pacs_server.index.remote_studies import Cached
from pacs_server.kit.periodic import Periodic
from pacs_server.scu.inventory import inventory
from pacs_server.scu.remotes import Remotes
from pacs_server.services.deletion import DeletionService
from pacs_server.services.polling import PollingService
from pacs_server.services.retrieve import RetrieveService

log = logging.getLogger(__name__)

# How often it is looked what may go, in seconds.
_LOOK_SECONDS: Final = 60.0


class CacheKeeper:
    """Drops studies that are cache. Before it does, it asks the remote whether that has every instance of the study."""

    def __init__(
        self,
        settings: Callable[[], CacheConfig],
        remotes: Remotes,
        polling: PollingService,
        *,
        retrieve: RetrieveService,
        deletions: DeletionService,
        own: Callable[[], Participant],
        clock: Callable[[], datetime],
    ) -> None:
        """`own` is this application in the audit trail."""
        self._settings = settings
        self._remotes = remotes
        self._polling = polling
        self._retrieve = retrieve
        self._deletions = deletions
        self._own = own
        self._clock = clock
        self._looking = Periodic("cache", _LOOK_SECONDS, self.look)

    def start(self) -> None:
        """Begin to look."""
        self._looking.start()

    def stop(self) -> None:
        """Stop looking, after the study at hand."""
        self._looking.stop()

    def look(self) -> None:
        """Drop what the settings do not let stay."""
        settings = self._settings()
        if settings.max_size is None and settings.ttl is None:
            return
        try:
            for cached in to_drop(self._polling.cached(), settings, self._clock()):
                if self._looking.stopping.is_set():
                    return
                self._try_to_drop(cached)
        except PacsError as error:
            log.warning("cache not looked after", extra={"reason": str(error)})

    def _try_to_drop(self, cached: Cached) -> None:
        """Drop a study, or say why it stays, so that the others do not have to stay with it."""
        try:
            self._drop(cached)
        except (IndexUnavailable, AuditUnavailable):
            raise
        except PacsError as error:
            fields = {"study": cached.study_instance_uid, "remote": cached.remote}
            log.warning("cached study kept, it cannot be deleted", extra={**fields, "reason": str(error)})

    def _drop(self, cached: Cached) -> None:
        uid = cached.study_instance_uid
        fields = {"study": uid, "remote": cached.remote}
        keys = RetrieveKeys(Level.STUDY, study_instance_uids=(uid,))
        here = {each.uids.sop for each in self._retrieve.select(keys)}
        try:
            missing = here - inventory(self._remotes, cached.remote, uid).keys()
        except (RemoteError, InvalidIdentifier) as error:
            log.info("cached study kept, its source cannot be asked", extra={**fields, "reason": str(error)})
            return
        if missing:
            log.info("cached study kept, its source has it no more", extra={**fields, "missing": len(missing)})
            return
        # Many studies may have been dropped since the look, and each remote may take long to answer.
        if not self._polling.is_still(cached):
            return
        own = self._own()
        # If the server dies in between, the study is here and no cache any more. The other way round it would be gone
        # and be taken for complete, so that nothing would fetch it when it is needed.
        dropped_at = self._polling.drop(cached)
        try:
            deletion = self._deletions.delete(Level.STUDY, uid, f"cache: {cached.remote} has it", own)
        except PacsError:
            self._polling.keep(cached, dropped_at)
            raise
        if deletion.instances != len(here) or self._polling.is_needed(cached):
            # Something came in between, and the remote was not asked about that; or somebody needs the study after all.
            self._deletions.restore(deletion.folder, own)
            self._polling.keep(cached, dropped_at)
            return
        self._deletions.purge(deletion.folder, own)
        log.info("cached study dropped", extra={**fields, "instances": deletion.instances})


def to_drop(cached: Iterable[Cached], settings: CacheConfig, now: datetime) -> Iterator[Cached]:
    """What is too old, and of the rest what was fetched first until all is small enough; nothing still needed."""
    known = list(cached)
    size = sum(each.bytes for each in known)
    for each in known:
        if each.is_needed or (each.deadline is not None and each.deadline > now):
            continue
        too_old = settings.ttl is not None and (now - each.fetched_at).total_seconds() > settings.ttl
        too_much = settings.max_size is not None and size > settings.max_size
        if too_old or too_much:
            size -= each.bytes
            yield each
