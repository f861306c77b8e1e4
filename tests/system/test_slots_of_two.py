"""Two processes on one archive that keep instances by slots: an import or a deletion beside a server that stores."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commandline import call_command
from crashes import _connected
from datasets import make_ct, uid
from processes import PacsProcess, run_command, wait_for
from rawpeer import EXPLICIT, Instance, associate, association, store
from servers import CT
from sqlalchemy import text

from pacs_server.index.deletion_document import decode
from pacs_server.net.transport import AssociationEnded

pytestmark = pytest.mark.slow

SENDERS = 2


@pytest.fixture
def pacs(tmp_path: Path, database_url: str) -> PacsProcess:
    return PacsProcess(tmp_path / "pacs", database_url, {"storage": {"fsync": "slots"}})


def rows(pacs: PacsProcess) -> set[str]:
    with _connected(pacs) as connection:
        return {row[0] for row in connection.execute(text("SELECT sop_instance_uid FROM instance"))}


def verify(pacs: PacsProcess) -> None:
    verified = run_command("verify", "--config", pacs.config_file, cwd=pacs.directory)
    assert verified.returncode == 0, verified.stdout


@dataclass
class Pace:
    """The longest pause of senders, in seconds."""

    pause: float = 0.3


@contextmanager
def sending(pacs: PacsProcess, study: str, seed: int, acknowledged: set[str]) -> Iterator[Pace]:
    """Several senders store into a study, a few instances at a time, until the connection breaks or the block ends."""
    over, pace = threading.Event(), Pace()

    def send(number: int) -> None:
        choices, series = random.Random(f"{seed} {number}"), uid()
        link = associate(pacs.port, [(CT, EXPLICIT)])
        with suppress(AssociationEnded, OSError):
            while not over.wait(choices.uniform(0, pace.pause)):
                for _ in range(choices.randint(1, 8)):
                    instance = Instance.of(make_ct(study, series))
                    assert store(link, instance).status == 0
                    acknowledged.add(instance.sop_instance_uid)
        link.transport.close()

    threads = [threading.Thread(target=send, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield pace
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def deleted(pacs: PacsProcess) -> set[str]:
    """The instances in the trash."""
    found: set[str] = set()
    for document in (pacs.archive / "trash").glob("*/deletion.json"):
        found |= {row["sop_instance_uid"] for row in decode(document.read_text(), document.parent.name).rows.instances}
    return found


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_nothing_that_was_deleted_comes_back_after_a_kill(pacs: PacsProcess, rounds: int) -> None:
    study, acknowledged = str(uid()), set[str]()
    deletions = 0
    for number in range(rounds):
        pacs.start()
        try:
            with sending(pacs, study, number, acknowledged) as pace:
                before = len(acknowledged)
                wait_for(lambda n=before: len(acknowledged) > n + 5, "a few acknowledged instances")  # type: ignore[misc]
                # A study that changes while it is deleted is one to be tried again. Where a deletion takes longer than
                # the pauses between the instances, these get longer.
                arguments = ("delete", "study", study, "--reason", "why", "--yes", "--config", pacs.config_file)
                done: Any = None
                for _ in range(10):
                    done = call_command(*arguments, cwd=pacs.directory)
                    if not done.returncode:
                        deletions += 1
                        break
                    assert "changes all the time" in done.stderr, done.stderr
                    pace.pause *= 2
                pacs.kill()
        finally:
            if pacs.running():
                pacs.kill()
        gone = deleted(pacs)
        pacs.start()
        found = rows(pacs)
        assert not found & gone
        assert acknowledged <= found | gone
        pacs.stop()
    assert deletions > 0
    with pacs:
        assert pacs.incoming_files() == 0
        verify(pacs)


def test_an_import_beside_a_server_that_stores(pacs: PacsProcess, tmp_path: Path) -> None:
    study, acknowledged = str(uid()), set[str]()
    folder = tmp_path / "images"
    folder.mkdir()
    imported = [make_ct(study, uid(), rows=4, columns=4) for _ in range(60)]
    for number, ds in enumerate(imported):
        ds.save_as(folder / str(number), enforce_file_format=True)
    expected = {str(ds.SOPInstanceUID) for ds in imported}
    with pacs:
        with sending(pacs, study, 0, acknowledged):
            wait_for(lambda: acknowledged, "an acknowledged instance")
            done = run_command("import", folder, "--config", pacs.config_file, cwd=pacs.directory)
            assert done.returncode == 0, done.stderr
            # They are durable now: none waits for the server.
            assert rows(pacs) >= expected
        wait_for(lambda: pacs.incoming_files() == 0, "a checkpoint")
        assert rows(pacs) == expected | acknowledged
        with association(pacs.port, [(CT, EXPLICIT)]) as link:
            assert store(link, Instance.of(make_ct(study))).status == 0
        verify(pacs)
        pacs.kill()
    with pacs:
        assert rows(pacs) >= expected | acknowledged
        verify(pacs)
