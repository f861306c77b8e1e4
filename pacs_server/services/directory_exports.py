"""Exports into a directory of the server: asked for here, and done by a background task (`outbox/export.py`).

Whoever asks names only a folder. `web.export_directory` says where it comes to be; a path from outside is never used.
"""

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from pacs_server.audit.auditor import Auditor, participant_of
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import Conflict, InvalidRequest, NotFound, StorageFull, StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.task_overview import TaskFilter
from pacs_server.index.task_values import NewTask, Priority, Task
from pacs_server.kit.words import counted
from pacs_server.services.retrieve import RetrieveService
from pacs_server.services.tasks import TaskService

EXPORT: Final = "export"
# One name without a slash, that neither begins nor ends with a dot, so that it is never hidden or another directory.
FOLDER: Final = r"[A-Za-z0-9]([A-Za-z0-9_.\-]{0,62}[A-Za-z0-9_\-])?"
MOST_STUDIES: Final = 200
# The instances are listed in memory, some hundred bytes each.
MOST_INSTANCES: Final = 100_000
_MOST_WAITING: Final = 1000


@dataclass(frozen=True, slots=True)
class DirectoryExport:
    """What a task exports, into which folder, and who asked for it from where."""

    studies: Sequence[str]
    folder: str
    user: str | None
    address: str

    @classmethod
    def of(cls, task: Task) -> Self:
        """What a task is to export."""
        payload: dict[str, Any] = dict(task.payload)
        return cls(payload["studies"], payload["folder"], payload["user"], payload["address"])

    @property
    def caller(self) -> Caller:
        """Whoever asked, for the audit trail."""
        return Caller(Door.WEB, self.address, user=self.user)


class DirectoryExportService:
    """Takes orders to export studies into a folder of `web.export_directory`. Thread-safe."""

    def __init__(
        self,
        tasks: TaskService,
        retrieve: RetrieveService,
        auditor: Auditor,
        directory: Callable[[], Path | None],
        kept_free: Callable[[], int],
    ) -> None:
        """`directory` is `web.export_directory` as it is now; `kept_free` bytes of its disk stay free."""
        self._tasks = tasks
        self._retrieve = retrieve
        self._auditor = auditor
        self._directory = directory
        self._kept_free = kept_free
        # So that no two orders find the same folder free.
        self._adding = threading.Lock()

    def request(self, caller: Caller, studies: Sequence[str], folder: str) -> int:
        """Add the task that exports the studies, and return its number.

        Raises InvalidRequest, NotFound, Conflict if the folder is there or an export into it waits, StorageFull,
        StorageUnavailable, AuditUnavailable, IndexUnavailable.
        """
        target = self.target(folder)
        uids = tuple(dict.fromkeys(uid for uid in studies if is_uid(uid)))
        self.room(self.instances(uids))
        wanted = DirectoryExport(uids, folder, caller.user, caller.address)
        with self._adding:
            waiting = self._tasks.tasks(TaskFilter(kind=EXPORT), _MOST_WAITING)
            if any(DirectoryExport.of(task).folder == folder for task in waiting):
                raise Conflict("another task exports into a folder of this name")
            self._auditor.restricted(
                caller, f"export of {counted(len(uids), 'study', 'studies')} to {target} asked for"
            )
            # The folder is not the target of the task, which is in the log: people may name it after a patient. Nor is
            # it a key by which another order would become the same task: that may be about other studies.
            return self._tasks.add(NewTask(EXPORT, participant_of(caller).user_id, "", asdict(wanted), Priority.LOW))

    def target(self, folder: str) -> Path:
        """The path of a folder that is not there yet.

        Raises InvalidRequest, NotFound if exporting is switched off, StorageUnavailable, and Conflict.
        """
        root = self._directory()
        if root is None:
            raise NotFound("exporting is switched off (web.export_directory)")
        if not re.fullmatch(FOLDER, folder):
            raise InvalidRequest(
                "the name of a folder has up to 64 letters, digits, dots, - and _, and no dot at its ends"
            )
        if not root.is_dir():
            raise StorageUnavailable("web.export_directory is not there, or no directory")
        path = root / folder
        if path.is_symlink() or path.exists():
            raise Conflict("a folder of this name is there already, and nothing is overwritten")
        return path

    def instances(self, studies: Sequence[str]) -> Sequence[StoredInstance]:
        """The instances of studies. Raises NotFound if there are none, and InvalidRequest if these are too many."""
        keys = RetrieveKeys(Level.STUDY, study_instance_uids=tuple(studies))
        found = self._retrieve.select(keys) if studies else []
        if not found:
            raise NotFound("there is no study of these UIDs")
        if len(found) > MOST_INSTANCES:
            raise InvalidRequest(f"these are {len(found)} instances, and one export has {MOST_INSTANCES} at most")
        return found

    def room(self, instances: Sequence[StoredInstance]) -> None:
        """Raise StorageFull unless the disk has room for these instances, and StorageUnavailable."""
        root, needed = self._directory(), sum(instance.size for instance in instances)
        try:
            free = 0 if root is None else shutil.disk_usage(root).free
        except OSError as error:
            raise StorageUnavailable(f"web.export_directory cannot be used: {error.strerror}") from None
        if free - needed < self._kept_free():
            raise StorageFull(f"the disk of web.export_directory has {free} bytes free, and {needed} are needed")
