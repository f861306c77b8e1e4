"""Backup beside a server that stores, kills at any moment, and what DCMTK fetches from a restored archive."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dcmtk
import pytest
from commandline import call_command
from datasets import data_set_bytes, make_study, write_part10
from processes import PacsProcess, clean_environment, run_command, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, association, store
from warm import WarmProcess

from pacs_server.upkeep.backup_check import verify
from pacs_server.upkeep.backup_directory import BackupDirectory, Snapshot

CT = (str(CTImageStorage), EXPLICIT)


def digests(archive: Path) -> dict[str, str]:
    """The digest of each whole file of an archive, by its path."""
    files = (path for path in archive.rglob("*.dcm") if path.is_file())
    return {path.relative_to(archive).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def backup(pacs: PacsProcess, directory: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return call_command("--config", pacs.config_file, "backup", directory, *options, cwd=pacs.directory)


def restore(pacs: PacsProcess, directory: Path, *options: object) -> subprocess.CompletedProcess[str]:
    return call_command("--config", pacs.config_file, "restore", directory, *options, cwd=pacs.directory)


def assert_restored(pacs: PacsProcess, done: subprocess.CompletedProcess[str]) -> None:
    """All went well, and nothing is said but where it went, and that the file of users is not there."""
    assert done.returncode == 0, done.stderr
    said = rf"restoring \S+ into the index \S+ \(.+\) and the storage {re.escape(str(pacs.archive))} \(.+\)\n"
    assert re.fullmatch(rf"{said}WARNING: there is no file of users at \S+/users, [^\n]+\n", done.stderr), done.stderr


def whole(directory: Path, snapshot: Snapshot) -> bool:
    backups = BackupDirectory(directory)
    return snapshot.problems == 0 and list(verify(backups, snapshot, lambda done, total: None)) == []


@contextmanager
def storing(port: int) -> Iterator[list[str]]:
    """Store one instance after the other until the end of the block; the UIDs that were answered with success."""
    acknowledged: list[str] = []
    stop = threading.Event()

    def run() -> None:
        with association(port, [CT]) as link:
            while not stop.is_set():
                for ds in make_study(1, 5):
                    if store(link, Instance.of(ds)).status == 0:
                        acknowledged.append(ds.SOPInstanceUID)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        thread.join(60)


def test_storing_goes_on_during_the_backup(database_url: str, tmp_path: Path) -> None:
    directory = tmp_path / "backup"
    expected: list[set[str]] = []
    with PacsProcess(tmp_path / "pacs", database_url) as pacs:
        with storing(pacs.port) as acknowledged:
            for _ in range(2):
                before = set(acknowledged)
                done = backup(pacs, directory)
                assert (done.returncode, done.stderr) == (0, "")
                expected.append(before)
        assert len(acknowledged) > len(expected[-1]) > 0  # it did go on
        noted = pacs.status()["backup"]["snapshot"]
    snapshots = BackupDirectory(directory).snapshots()
    assert noted in {snapshot.name for snapshot in snapshots}
    assert len(snapshots) == 2
    for number, snapshot in enumerate(snapshots):
        assert whole(directory, snapshot)
        assert snapshot.instances == snapshot.rows["instance"]
        copy = PacsProcess(tmp_path / f"copy{number}")
        assert_restored(copy, restore(copy, directory, "--snapshot", snapshot.name))
        restored = {Path(path).stem for path in digests(copy.archive)}
        assert expected[number] <= restored
        assert digests(copy.archive).items() <= digests(pacs.archive).items()
        assert len(restored) == snapshot.instances


def start(pacs: PacsProcess, *arguments: object) -> WarmProcess:
    command = ["--config", str(pacs.config_file), *map(str, arguments)]
    with open(os.devnull, "w") as nothing:
        return WarmProcess(
            command, cwd=pacs.directory, env=clean_environment(), stdout=nothing.fileno(), stderr=nothing.fileno()
        )


def kill_at(process: WarmProcess, folder: Path, files: int, chance: random.Random) -> bool:
    """Kill -9 the process some milliseconds after so many files are below `folder`; False if it came to its end."""
    wait_for(lambda: process.poll() is not None or count(folder) >= files, "files", 120)
    try:
        process.wait(chance.uniform(0, 0.05))
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
    return process.wait(60) == -signal.SIGKILL


def count(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def often(*moments: int) -> Any:
    """More moments than the tests have time for."""
    return pytest.param(moments, marks=pytest.mark.soak)


def import_study(pacs: PacsProcess, folder: Path, instances: int, rows: int = 128) -> None:
    for number, ds in enumerate(make_study(1, instances, rows=rows, columns=128)):
        write_part10(ds, folder / f"{number}.dcm")
    done = call_command("--config", pacs.config_file, "import", folder, cwd=pacs.directory)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(1, 127, 190), often(1, 50, 100, 126, 127, 128, 140, 170, 190)], ids=len)
def test_backups_that_are_killed(database_url: str, tmp_path: Path, moments: tuple[int, ...]) -> None:
    directory, chance = tmp_path / "backup", random.Random(1)
    pacs = PacsProcess(tmp_path / "pacs", database_url)
    import_study(pacs, tmp_path / "one", 20, rows=16)
    assert backup(pacs, directory).returncode == 0
    import_study(pacs, tmp_path / "two", 200, rows=16)
    before, killed = count(directory), 0
    for more in moments:
        killed += kill_at(start(pacs, "backup", directory, "--rate", "2MB"), directory, before + more, chance)
        for snapshot in BackupDirectory(directory).snapshots():
            assert whole(directory, snapshot)
    assert killed > 0
    done = backup(pacs, directory, "--json", "--verify")
    assert (done.returncode, done.stderr) == (0, "")
    newest = BackupDirectory(directory).snapshot(None)
    assert (newest.instances, list(BackupDirectory(directory).partial.iterdir())) == (220, [])


@pytest.mark.slow
@pytest.mark.parametrize("moments", [(1, 128, 201), often(1, 50, 100, 127, 128, 129, 170, 200, 201)], ids=len)
def test_restores_that_are_killed(database_url: str, tmp_path: Path, moments: tuple[int, ...]) -> None:
    directory, chance = tmp_path / "backup", random.Random(2)
    source = PacsProcess(tmp_path / "source")
    import_study(source, tmp_path / "one", 200, rows=16)
    assert backup(source, directory).returncode == 0
    copy, killed = PacsProcess(tmp_path / "copy", database_url), 0
    for files in moments:
        killed += kill_at(start(copy, "restore", directory, "--rate", "2MB"), copy.archive, files, chance)
    assert killed > 0
    if (copy.archive / "restore" / "snapshot").exists() or not digests(copy.archive):
        assert_restored(copy, restore(copy, directory))
    assert digests(copy.archive) == digests(source.archive)
    with copy:
        assert copy.instances() == 200


def test_a_restore_refuses_while_the_server_runs(tmp_path: Path) -> None:
    source = PacsProcess(tmp_path / "source")
    import_study(source, tmp_path / "one", 2, rows=16)
    assert backup(source, tmp_path / "backup").returncode == 0
    with PacsProcess(tmp_path / "copy") as copy:
        done = restore(copy, tmp_path / "backup")
        assert done.returncode == 1
        assert "is in use: stop the server" in done.stderr
        assert copy.instances() == 0


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    """Files may not grow beyond a limit, which to the program is a disk that takes no more."""
    pacs = PacsProcess(tmp_path / "pacs")
    import_study(pacs, tmp_path / "one", 3, rows=16)
    assert backup(pacs, tmp_path / "backup").returncode == 0
    import_study(pacs, tmp_path / "two", 3, rows=4096)  # a megabyte each
    command = ("bash", "-c", 'trap "" XFSZ; ulimit -f 800; exec "$@"', "limited")
    done = run_command("--config", pacs.config_file, "backup", tmp_path / "backup", cwd=pacs.directory, prefix=command)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    snapshots = BackupDirectory(tmp_path / "backup").snapshots()
    assert len(snapshots) == 1
    assert whole(tmp_path / "backup", snapshots[0])
    done = backup(pacs, tmp_path / "backup", "--json")
    assert (done.returncode, json.loads(done.stdout)["problem_count"]) == (0, 0)


@pytest.mark.interop
def test_dcmtk_fetches_the_same_bytes_from_a_restored_archive(tmp_path: Path) -> None:
    dcmtk.require("getscu")
    pacs, copy = PacsProcess(tmp_path / "pacs"), PacsProcess(tmp_path / "copy")
    import_study(pacs, tmp_path / "sent", 5)
    assert backup(pacs, tmp_path / "backup").returncode == 0
    assert restore(copy, tmp_path / "backup").returncode == 0
    folder = tmp_path / "got"
    folder.mkdir()
    study = Path(next(iter(digests(copy.archive)))).parts[0]
    with copy:
        done = dcmtk.run(
            "getscu", "-S", "+B", "-od", folder, "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}",
            "-aec", copy.ae_title, "127.0.0.1", copy.port,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sent = sorted(data_set_bytes(path)[1] for path in (tmp_path / "sent").iterdir())
    assert sorted(data_set_bytes(path)[1] for path in folder.iterdir()) == sent


def test_it_goes_gently(tmp_path: Path) -> None:
    pacs = PacsProcess(tmp_path / "pacs")
    import_study(pacs, tmp_path / "one", 4)
    started = time.monotonic()
    assert backup(pacs, tmp_path / "backup", "--rate", "100KB").returncode == 0
    assert time.monotonic() - started > 4 * 32768 / 100_000
