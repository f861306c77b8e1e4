"""The files of an archive as the settings describe them."""

from pacs_server.config.sections.storage import StorageConfig
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.filesystem.archive_directory import archive_directory


def files_of(settings: StorageConfig) -> ArchiveFiles:
    """The files of the archive that `settings` describe; nothing is made or looked at yet."""
    return archive_directory(
        settings.directory,
        min_free_space=settings.min_free_space,
        fsync=settings.fsync != "off",
        slots=settings.fsync == "slots",
    )
