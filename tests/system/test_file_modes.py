"""Nobody but the server's own user can read what it writes, whatever the umask it was started with."""

import os
import signal
import stat
from pathlib import Path

import datasets
import pytest
from processes import PacsProcess, run_command, wait_for
from pydicom.dataset import Dataset
from pynetdicom import AE
from servers import CT, EXPLICIT, RawPeer, p_data, pdv, store_request

from pacs_server.net.message import encode_command

# What is piped is a password for those who ask for one. The shell stays and waits for the server.
UMASK = ("sh", "-c", 'umask "$0" && echo "long enough" | "$@"; exit $?')


@pytest.fixture(params=["000", "022"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> PacsProcess:
    data = tmp_path / "data"
    settings = {
        "storage": {"directory": str(data / "images" / "archive"), "min_free_space": 0},
        "database": {"url": None, "path": str(data / "index" / "pacs.db")},
        "audit": {"directory": str(data / "audit")},
        "logging": {"file": str(data / "logs" / "pacs.log")},
        "worklist": {"folder": str(data / "orders"), "folder_interval": 0.1},
        "user_identity": {"mode": "optional", "users_path": str(data / "etc" / "users")},
    }
    (tmp_path / "pacs").mkdir()
    return PacsProcess(tmp_path / "pacs", settings=settings, prefix=(*UMASK, request.param))


def readable_by_others(data: Path) -> list[str]:
    return [
        f"{path.relative_to(data)} {stat.filemode(path.stat().st_mode)}"
        for path in [data, *data.rglob("*")]
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]


def store(pacs: PacsProcess, ds: Dataset) -> None:
    ae = AE("CT1")
    ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
    association = ae.associate(pacs.host, pacs.port)
    assert association.send_c_store(ds).Status == 0
    association.release()


def test_everything_that_is_written(pacs: PacsProcess, tmp_path: Path) -> None:
    data = tmp_path / "data"
    datasets.make_ct().save_as(tmp_path / "one.dcm", enforce_file_format=True)
    for command in (("user", "add", "anna", "--password-stdin"), ("migrate",), ("import", tmp_path / "one.dcm")):
        arguments = ("--config", pacs.config_file, *command)
        done = run_command(*arguments, cwd=tmp_path, prefix=pacs.prefix)
        assert done.returncode == 0, done.stderr
    assert readable_by_others(data) == []
    with pacs:
        store(pacs, datasets.make_ct())
        (data / "orders" / "bad.json").write_text("{}")
        (data / "orders" / "bad.json").chmod(0o600)  # its sender's business
        wait_for((data / "orders" / "rejected" / "bad.json.reason.txt").exists, "the file to be rejected")
        log = data / "logs" / "pacs.log"
        log.rename(log.with_name("pacs.log.1"))
        pacs.send_signal(signal.SIGHUP)
        wait_for(log.exists, "a new log file")
        with RawPeer.associated((pacs.host, pacs.port), (CT, [EXPLICIT])) as peer:
            command = encode_command(store_request("1.2.3", sop_class=CT))
            peer.send(p_data(pdv(1, 3, command)) + p_data(pdv(1, 0, b"\x08\x00")))
            wait_for(lambda: list((data / "images" / "archive" / "incoming").glob("*.part")), "half an object")
            names = {path.name for path in data.rglob("*")}
            assert names >= {"pacs.db-wal", "pacs.db-shm", "pacs.log.1", "pacs.log", "head", "key", "users"}
            assert readable_by_others(data) == []
        assert "every user of this machine" not in pacs.log()
        assert ("running as root" in pacs.log()) == (os.geteuid() == 0)


def test_what_an_older_version_left_open_is_told(pacs: PacsProcess, tmp_path: Path) -> None:
    archive = tmp_path / "data" / "images" / "archive"
    archive.mkdir(parents=True)
    archive.chmod(0o755)
    with pacs:
        wait_for(lambda: f"may look into {archive}:" in pacs.log(), "a warning")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o755
