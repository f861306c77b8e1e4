"""The directory of an archive: the files of its instances, and everything else that an archive keeps there."""

from pathlib import Path

from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.filesystem.decision_log import FileDecisionLog
from pacs_server.storage.filesystem.directories import Directories
from pacs_server.storage.filesystem.lock import FileSystemLock
from pacs_server.storage.filesystem.mark_log import FileMarkLog
from pacs_server.storage.filesystem.quarantine import FileSystemQuarantine
from pacs_server.storage.filesystem.restoration import FileSystemRestoration
from pacs_server.storage.filesystem.spool import FileSystemSpool
from pacs_server.storage.filesystem.storage import FileSystemSideFiles, FileSystemStorage
from pacs_server.storage.filesystem.trash import FileSystemTrash


def archive_directory(root: Path, *, min_free_space: int = 0, fsync: bool = True, slots: bool = False) -> ArchiveFiles:
    """The files of the archive in the directory `root`, which is neither made nor looked at yet.

    Below `min_free_space` bytes of free space nothing is received; without `fsync` nothing that is received is durable.
    With `slots` files are received in slots (see `spool`), where the file system has hard links.
    """
    directories = Directories(root, fsync=fsync)
    quarantine = FileSystemQuarantine(directories)
    spool = FileSystemSpool(directories, quarantine, min_free_space=min_free_space, slots=slots and fsync)
    restoration = FileSystemRestoration(root)
    return ArchiveFiles(
        name=str(root),
        storage=FileSystemStorage(directories, spool),
        spool=spool,
        quarantine=quarantine,
        trash=FileSystemTrash(directories),
        decisions=FileDecisionLog(root),
        marks=FileMarkLog(root, fsync=fsync),
        side_files=FileSystemSideFiles(directories, spool),
        lock=FileSystemLock(root, restoration),
        restoration=restoration,
    )
