"""Promise 1: what was answered with success survives kill -9 at any moment, whole and indexed."""

import hashlib
import subprocess
import threading
from pathlib import Path

import dcmtk
import pytest
from datasets import UID_PREFIX, data_set_bytes, make_ct, make_study, write_part10
from processes import PacsProcess, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, associate, association, retrieve, store, study_keys
from sqlalchemy import create_engine, text

from pacs_server.net.transport import AssociationEnded

SENDERS = 8
CT = (str(CTImageStorage), EXPLICIT)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rows(pacs: PacsProcess, database_url: str) -> dict[str, tuple[str, str]]:
    """Path and digest of each row of the index, by SOP Instance UID."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT sop_instance_uid, path, digest FROM instance"))
            return {uid: (path, sha) for uid, path, sha in found}
    finally:
        engine.dispose()


def check(pacs: PacsProcess, database_url: str, acknowledged: dict[str, str]) -> None:
    """Every acknowledged instance (digest by UID) is indexed and whole on disk, and no row lacks its file."""
    indexed = rows(pacs, database_url)
    assert acknowledged.items() <= {uid: sha for uid, (_, sha) in indexed.items()}.items()
    for path, sha in indexed.values():
        assert digest(data_set_bytes(pacs.archive / path)[1]) == sha
    # What was stored a moment ago waits for the next checkpoint.
    wait_for(lambda: not pacs.incoming(), "nothing left on its way in")
    # A crash may leave a file without a row, but only a whole one.
    for path in pacs.files():
        assert len(data_set_bytes(path)[1]) > 0


@pytest.mark.interop
@pytest.mark.slow
@pytest.mark.parametrize("instances", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_many_instances_survive_a_kill_right_after_the_last_answer(
    database_url: str, tmp_path: Path, instances: int
) -> None:
    sent: dict[str, str] = {}
    study = make_ct()
    for number in range(instances):
        folder = tmp_path / "send" / str(number % SENDERS)
        study.SOPInstanceUID = study.file_meta.MediaStorageSOPInstanceUID = f"{UID_PREFIX}3.{number}"
        study.InstanceNumber = number
        path = write_part10(study, folder / f"{number}.dcm")
        sent[study.SOPInstanceUID] = digest(data_set_bytes(path)[1])
    storescu = dcmtk.require("storescu")

    pacs = PacsProcess(tmp_path / "pacs", database_url)
    pacs.start()
    try:
        senders = [
            subprocess.Popen([storescu, "-xe", "-R", "+sd", "127.0.0.1", str(pacs.port), str(folder)])
            for folder in sorted((tmp_path / "send").iterdir())
        ]
        assert [sender.wait(120) for sender in senders] == [0] * SENDERS
    finally:
        pacs.kill()

    with pacs:
        check(pacs, database_url, sent)
        assert pacs.instances() == len(pacs.files()) == instances
        final, received = retrieve(pacs.port, [CT], study_keys(study.StudyInstanceUID))
        assert (final.status, final.number_of_completed) == (0, instances)
        assert {uid: digest(data) for uid, data in received.items()} == sent


def send_until_cut(port: int, instances: list[Instance], acknowledged: dict[str, str]) -> None:
    """Store one after the other and note each success, until the connection breaks."""
    try:
        link = associate(port, [CT])
    except AssociationEnded:
        return
    try:
        for instance in instances:
            if store(link, instance).status == 0:
                acknowledged[instance.sop_instance_uid] = digest(instance.data)
    except AssociationEnded:
        pass
    finally:
        link.transport.close()


def test_what_was_acknowledged_survives_a_kill_in_the_middle(database_url: str, tmp_path: Path) -> None:
    instances = [Instance.of(ds) for ds in make_study(4, 60, rows=64, columns=64)]
    acknowledged: dict[str, str] = {}
    pacs = PacsProcess(tmp_path / "pacs", database_url)
    pacs.start()
    threads = [
        threading.Thread(target=send_until_cut, args=(pacs.port, instances[n::4], acknowledged)) for n in range(4)
    ]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) >= 50, "fifty acknowledged instances")
    finally:
        pacs.kill()
        for thread in threads:
            thread.join(60)
    assert 50 <= len(acknowledged) < len(instances), "the kill did not come in the middle"

    with pacs:
        check(pacs, database_url, acknowledged)
        # A sender that got no answer sends again; then all of it is there, whatever the crash left.
        with association(pacs.port, [CT]) as link:
            assert {store(link, instance).status for instance in instances} == {0}
        assert pacs.instances() == len(pacs.files()) == len(instances)
        check(pacs, database_url, {item.sop_instance_uid: digest(item.data) for item in instances})


def test_everything_is_there_after_a_restart(database_url: str, tmp_path: Path) -> None:
    instances = {str(ds.SOPInstanceUID): ds for ds in make_study(2, 2)}
    study = next(iter(instances.values())).StudyInstanceUID
    pacs = PacsProcess(tmp_path / "pacs", database_url)
    with pacs, association(pacs.port, [CT]) as link:
        assert {store(link, Instance.of(ds)).status for ds in instances.values()} == {0}
        before = pacs.status()["counts"]

    with pacs:
        assert pacs.status()["counts"] == before
        _, received = retrieve(pacs.port, [CT], study_keys(study))
        assert received == {uid: Instance.of(ds).data for uid, ds in instances.items()}
        # The same again is known from the database, not from memory.
        with association(pacs.port, [CT]) as link:
            assert {store(link, Instance.of(ds)).status for ds in instances.values()} == {0}
        assert pacs.status()["counts"] == before
