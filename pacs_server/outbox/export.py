"""The handler of export tasks: writes studies with a DICOMDIR into a folder of `web.export_directory`."""

import time
from collections.abc import Sequence
from typing import Final

from pacs_server.errors import Conflict, InvalidRequest, NotFound, StorageFull, StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.task_values import Task
from pacs_server.kit.words import counted
from pacs_server.outbox.handler import Work
from pacs_server.services.directory_exports import DirectoryExport, DirectoryExportService
from pacs_server.services.export import ExportReport, ExportService
from pacs_server.services.export_targets import StagedTarget

# The progress is told, and the task looked at, so often, in seconds.
_TOLD_SECONDS: Final = 2.0


class _Interrupted(Exception):
    """The server stops, or somebody has cancelled the task."""


class ExportHandler:
    """Exports, one task at a time. What is interrupted leaves nothing behind, and begins anew."""

    together: Final = 1

    def __init__(self, exports: ExportService, directory_exports: DirectoryExportService) -> None:
        self._exports = exports
        self._orders = directory_exports

    def at_once(self, target: str) -> int:
        """One: two would only wait for the same disk."""
        return 1

    def stop(self) -> None:
        """Nothing blocks: it is asked between two instances whether it has to stop."""

    def run(self, work: Work) -> None:
        """Export what the task names, and settle it."""
        (task,) = work.tasks
        order = DirectoryExport.of(task)
        try:
            instances = self._orders.instances(order.studies)
            self._orders.room(instances)
            report = self._export(work, task, order, instances)
        except _Interrupted:
            return
        except (Conflict, NotFound, InvalidRequest, StorageFull) as error:
            work.give_up(task, str(error))
        except StorageUnavailable as error:
            work.failed(task, str(error))
        except OSError as error:
            work.failed(task, f"web.export_directory cannot be written: {error.strerror or error}")
        else:
            self._settle(work, task, len(instances), report)

    def _export(
        self, work: Work, task: Task, order: DirectoryExport, instances: Sequence[StoredInstance]
    ) -> ExportReport:
        told = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal told
            if work.is_interrupted():
                raise _Interrupted
            if time.monotonic() - told >= _TOLD_SECONDS:
                told = time.monotonic()
                work.progress(task, folder=order.folder, exported=done, of=total)
                if not work.is_held(task):
                    raise _Interrupted

        target = StagedTarget(self._orders.target(order.folder), str(task.id))
        return self._exports.export(instances, target, order.caller, progress)

    def _settle(self, work: Work, task: Task, total: int, report: ExportReport) -> None:
        told: dict[str, object] = {"folder": DirectoryExport.of(task).folder, "exported": report.exported, "of": total}
        if report.unlisted:
            told["not in the DICOMDIR"] = len(report.unlisted)
        work.progress(task, **told)
        if report.failed:
            work.give_up(
                task, f"{len(report.failed)} of {counted(total, 'instance')} could not be read; the others are exported"
            )
        else:
            work.done(task)
