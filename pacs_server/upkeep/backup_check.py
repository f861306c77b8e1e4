"""Check the files of a backup against their digests, and copy damaged ones again from the archive."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pacs_server.errors import InvalidKey, ObjectNotFound, ObjectUnreadable
from pacs_server.index.copying import IndexedFile, indexed_files
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.contract import pieces
from pacs_server.storage.durable_files import DurableFiles
from pacs_server.upkeep.backup_directory import CHUNK, INSTANCES, SIDE_FILES, BackupDirectory, Snapshot, pieces_of

# Told the number of instances done and of all there are.
OnProgress = Callable[[int, int], None]
# Passes the pieces of a file on, and raises Damaged behind the last one if they are not the expected ones.
DigestCheck = Callable[[Iterator[bytes]], Iterator[bytes]]
# Told the area and the path of a file, where the backup keeps it, and its check; whether the file was copied again.
Renew = Callable[[str, str, Path, DigestCheck], bool]


class Damaged(Exception):
    """A file does not have the expected digest."""


def check_instance(pieces: Iterator[bytes], file: IndexedFile) -> Iterator[bytes]:
    """Pass the pieces of an instance's file on; raises Damaged behind the last one if this is another file."""
    digest, position = hashlib.sha256(), 0
    for piece in pieces:
        skipped = max(0, file.data_set_offset - position)
        digest.update(memoryview(piece)[skipped:])
        position += len(piece)
        yield piece
    if position != file.size or digest.hexdigest() != file.digest:
        raise Damaged


def check_bytes(pieces: Iterator[bytes], expected: str) -> Iterator[bytes]:
    """Pass the pieces of a file on; raises Damaged behind the last one if its SHA-256 is not the expected one."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
        yield piece
    if digest.hexdigest() != expected:
        raise Damaged


def verify(
    directory: BackupDirectory, snapshot: Snapshot, progress: OnProgress, renew: Renew = lambda *_: False
) -> Iterator[str]:
    """Read a whole snapshot back and give what is wrong with it; raises StorageUnavailable if its index is damaged."""

    def problems(area: str, path: str, kept: Path, check: DigestCheck) -> Iterator[str]:
        wrong = _fault(kept, check)
        if wrong is not None:
            yield f"{path}: {wrong}" + ("; copied again" if renew(area, path, kept, check) else "")

    for done, file in enumerate(indexed_files(directory.database_of(snapshot)), 1):
        yield from problems(INSTANCES, file.path, directory.object(file.name), partial(check_instance, file=file))
        progress(done, snapshot.rows["instance"])
    for other in directory.other_files(snapshot):
        check = partial(check_bytes, expected=other.digest)
        yield from problems(other.area, other.path, directory.file(other.name), check)


def verify_and_renew(
    files: ArchiveFiles, directory: BackupDirectory, snapshot: Snapshot, progress: OnProgress
) -> Iterator[str]:
    """Verify a snapshot, and copy damaged files again that the archive still has; raises also StorageFull."""
    storages = {INSTANCES: files.storage, SIDE_FILES: files.side_files}
    with directory.locked(), DurableFiles(directory.partial) as writer:

        def renew(area: str, path: str, kept: Path, check: DigestCheck) -> bool:
            if area not in storages:
                return False
            try:
                with storages[area].open(path) as source:
                    writer.write(kept, check(pieces(source, CHUNK)))
            except (ObjectNotFound, ObjectUnreadable, InvalidKey, Damaged):
                return False
            return True

        yield from verify(directory, snapshot, progress, renew)


def _fault(kept: Path, check: DigestCheck) -> str | None:
    try:
        for _ in check(pieces_of(kept)):
            pass
    except FileNotFoundError:
        return "missing from the backup"
    except OSError as error:
        return f"cannot be read from the backup: {error.strerror}"
    except Damaged:
        return "damaged in the backup"
    return None
