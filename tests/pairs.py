"""Two servers of this project, of which one fetches from the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import schema
from datasets import write_part10
from pydicom.dataset import Dataset
from servers import config, free_port, running

from pacs_server.app.server import PacsServer
from pacs_server.config import DatabaseConfig, PeerRule, RemoteAEConfig
from pacs_server.dicom.caller import Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.origin import Origin
from pacs_server.index.instances import StoredInstance
from pacs_server.index.task_values import Task
from pacs_server.services.fetching import Fetching


@dataclass
class Two:
    """A server that fetches from another one, and has to do so by the services that this allows."""

    here: PacsServer
    there: PacsServer
    directory: Path

    def store(self, study: list[Dataset]) -> None:
        for number, dataset in enumerate(study):
            self.store_file(write_part10(dataset, self.directory / f"{number}.dcm"))

    def store_file(self, path: Path) -> None:
        self.there.archive.store.store_file(path, Origin("CT1", "THERE", "10.0.0.7", Door.DIMSE))

    def fetch(self, study: str) -> int:
        return self.here.archive.fetching.fetch("there", Fetching(study), "tester")

    def task(self, number: int) -> Task:
        found = self.here.archive.tasks.find(number)
        assert found is not None
        return found


def stored(pacs: PacsServer, study: str) -> list[StoredInstance]:
    return pacs.archive.retrieve.select(RetrieveKeys(Level.STUDY, study_instance_uids=(study,)))


@contextmanager
def two(
    tmp_path: Path, url: str | None = None, *, settings: dict[str, Any] | None = None, **rule: object
) -> Iterator[Two]:
    """Both servers; `rule` is what the other one allows this one, `settings` are more of the one that fetches."""
    port = free_port()
    back = RemoteAEConfig(ae_title="HERE", host="127.0.0.1", port=port)
    other = config(tmp_path / "there", ae_title="THERE", remote_aes=[back])
    if rule:
        rules = (PeerRule.model_validate({"ae_title": "HERE", **rule}),)
        other = other.model_copy(update={"access_control": other.access_control.model_copy(update={"peers": rules})})
    with running(other) as there:
        known = RemoteAEConfig(name="there", ae_title="THERE", host="127.0.0.1", port=there.address[1])
        mine = config(tmp_path / "here", ae_title="HERE", port=port, remote_aes=[known]).model_copy(update=settings)
        if url is not None and not url.startswith("sqlite"):
            mine = mine.model_copy(update={"database": DatabaseConfig(url=url)})
        if mine.database.url is None:
            schema.prepare(mine.database.path)
        with PacsServer(mine) as here:
            yield Two(here, there, tmp_path)
