"""An archive on a real file system with a few instances in it, and the ways to damage it."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import schema
from datasets import make_study, write_part10
from pydicom.dataset import Dataset
from sqlalchemy import text

from pacs_server.archive.archive import Archive
from pacs_server.archive.stored_file import StoredFile, read_stored
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.index.database import Database
from pacs_server.index.instances import InstanceIndex, StoredInstance
from pacs_server.index.integrity import IntegrityIndex
from pacs_server.index.queries import QueryIndex
from pacs_server.index.state import StateIndex
from pacs_server.services.store import StoreService
from pacs_server.storage.contract import Storage
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.upkeep.checking import Finding
from pacs_server.upkeep.repair import RepairService
from pacs_server.upkeep.verify import Verification, VerificationProgress, VerificationReport, VerificationSources, begin

ORIGIN = Origin("CT1", "PACS", "127.0.0.1", Door.DIMSE)


def make_empty(root: Path) -> None:
    """Make the directory of an archive without instances, as a server leaves it; the index is made elsewhere."""
    spool = archive_directory(root, fsync=False).spool
    spool.prepare()
    spool.close()


def stored_at(storage: Storage, key: str) -> StoredFile:
    """What the file under a key tells by itself."""
    with storage.open(key) as source:
        return read_stored(source, key)


class SmallArchive:
    """Files below `directory`, the index at `url`; nothing is synced."""

    def __init__(self, directory: Path, url: str, *, policy: str = "replace") -> None:
        self._scratch = directory / "scratch"
        self.root = directory / "archive"
        schema.prepare_at(url)
        self.database = Database(url, fsync=False)
        self.database.migrate()
        self.files = archive_directory(self.root, fsync=False)
        self.storage = self.files.storage
        self.files.spool.prepare()
        self.index = InstanceIndex(self.database)
        self.archive = Archive(
            self.storage, self.files.spool, self.index, naming="hierarchical", duplicate_policy=policy
        )
        self.parts = VerificationSources(self.files, IntegrityIndex(self.database), StateIndex(self.database))

    def close(self) -> None:
        self.files.spool.close()
        self.database.close()

    def store(self, instances: Sequence[Dataset]) -> list[StoredInstance]:
        """Store instances and return where they are."""
        for ds in instances:
            path = write_part10(ds, self._scratch / "one.dcm")
            StoreService(self.archive).store_file(path, ORIGIN)
        return [self.row(str(ds.SOPInstanceUID)) for ds in instances]

    def study(self, count: int, **attributes: object) -> list[StoredInstance]:
        """Store one series of so many instances."""
        return self.store(make_study(1, count, **attributes))

    def row(self, uid: str) -> StoredInstance:
        found = self.index.get(uid)
        assert found is not None
        return found

    def file(self, stored: StoredInstance) -> Path:
        return self.root / stored.path

    def change(self, stored: StoredInstance, offset: int = -1) -> None:
        """Turn one bit of a file, of its last byte by default."""
        data = bytearray(self.file(stored).read_bytes())
        data[offset] ^= 1
        self.file(stored).write_bytes(data)

    def move(self, stored: StoredInstance, to: str) -> str:
        """Move a file elsewhere below the root."""
        target = self.root / to
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(self.file(stored), target)
        return to

    def forget(self, stored: StoredInstance) -> None:
        """Take an instance out of the index and leave its file."""
        self.index.remove(stored.uids.sop)

    def sql(self, statement: str) -> None:
        with self.database.begin() as connection:
            connection.execute(text(statement))

    def progress(self, **scope: object) -> VerificationProgress:
        values = {"since": None, "study": None, "digest": True} | scope
        return begin(self.parts.state, VerificationProgress(datetime.now(UTC).isoformat(), **values))  # type: ignore[arg-type]

    def verify(self, *, repair: bool = False, **scope: object) -> tuple[VerificationReport, list[Finding]]:
        """A whole run: its report and its findings."""
        run = Verification(self.parts, self.progress(**scope), lambda size: None, lambda progress: None)
        report = run.run(self.repairs().repair if repair else None)
        return report, list(run.findings())

    def repairs(self) -> RepairService:
        from trails import silent

        queries = QueryIndex(self.database)
        return RepairService(self.archive, self.files, self.parts.index, queries, silent())
