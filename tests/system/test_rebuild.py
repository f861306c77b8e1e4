"""rebuild-index as an operator runs it: beside a server, instead of an index, killed, and into another database."""

import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import indexes
import postgres
import pytest
from commandline import call_command
from datasets import make_study, pydicom_test_files
from processes import COMMAND, PacsProcess, clean_environment, run_command
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, association, store

from pacs_server.index.database import Database
from pacs_server.storage.filesystem.archive_directory import archive_directory

KILLS = 5


def rebuild(pacs: PacsProcess, *options: object) -> subprocess.CompletedProcess[str]:
    return call_command("--config", pacs.config_file, "rebuild-index", *options, cwd=pacs.directory)


def contents(url: str) -> dict[str, object]:
    with closing(Database(url)) as database:
        return indexes.contents(database)


def fill(pacs: PacsProcess, files: int) -> None:
    """Store a study over DIMSE and import files of pydicom."""
    with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
        for ds in make_study(2, 3, PatientName="Müller^Jürgen"):
            assert store(link, Instance.of(ds)).status == 0
    done = call_command("--config", pacs.config_file, "import", *pydicom_test_files()[:files], cwd=pacs.directory)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def stopped(tmp_path: Path) -> PacsProcess:
    """A server on SQLite with an archive of several kinds of objects, not running."""
    pacs = PacsProcess(tmp_path / "pacs", settings={"storage": {"duplicate_policy": "replace"}})
    with pacs:
        fill(pacs, 40)
    return pacs


def url_of(pacs: PacsProcess) -> str:
    return f"sqlite:///{pacs.directory / 'pacs.db'}"


def kept(pacs: PacsProcess) -> list[Path]:
    return [path for path in pacs.directory.glob("pacs.db.before-rebuild-*") if path.name.endswith("Z")]


def test_a_lost_index_comes_back_and_the_server_serves_it(stopped: PacsProcess) -> None:
    before = contents(url_of(stopped))
    (stopped.directory / "pacs.db").unlink()
    done = rebuild(stopped)
    assert (done.returncode, done.stderr) == (0, "")
    count = len(before["instances"])  # type: ignore[arg-type]
    assert done.stdout.startswith(f"{count} instances from ")
    assert done.stdout.endswith(" files, 0 not indexed\n")
    assert contents(url_of(stopped)) == before
    with stopped:
        assert stopped.instances() == count
    assert kept(stopped) == []


def test_a_damaged_index_is_kept_and_replaced(stopped: PacsProcess) -> None:
    before = contents(url_of(stopped))
    database = stopped.directory / "pacs.db"
    damaged = b"damaged!" + database.read_bytes()[8:]
    database.write_bytes(damaged)
    done = rebuild(stopped)
    assert done.returncode == 0
    assert "the old index did not give these tables: worklist_item" in done.stderr
    assert contents(url_of(stopped)) == before
    assert [path.read_bytes() for path in kept(stopped)] == [damaged]


def test_the_worklist_stays(stopped: PacsProcess) -> None:
    with closing(sqlite3.connect(stopped.directory / "pacs.db")) as connection:
        seen = connection.execute("SELECT calling_ae, address, count FROM peer_seen").fetchall()
    assert seen
    assert rebuild(stopped).returncode == 0
    with closing(sqlite3.connect(stopped.directory / "pacs.db")) as connection:
        assert connection.execute("SELECT calling_ae, address, count FROM peer_seen").fetchall() == seen


def test_it_refuses_while_the_server_runs(tmp_path: Path) -> None:
    with PacsProcess(tmp_path / "pacs") as pacs:
        fill(pacs, 1)
        done = rebuild(pacs)
        assert done.returncode == 1
        assert "stop the server" in done.stderr
        assert kept(pacs) == []
        # Into another database it works beside it.
        done = rebuild(pacs, "--into", tmp_path / "other.db")
        assert done.returncode == 0, done.stderr
        assert contents(f"sqlite:///{tmp_path / 'other.db'}") == contents(url_of(pacs))


def test_a_server_does_not_start_while_it_is_rebuilt(stopped: PacsProcess) -> None:
    with archive_directory(stopped.archive).lock.exclusive():
        started = run_command("--config", stopped.config_file, cwd=stopped.directory)
    assert started.returncode == 1


def test_an_archive_that_is_half_restored_is_refused(stopped: PacsProcess) -> None:
    marker = stopped.archive / "restore" / "snapshot"
    marker.parent.mkdir()
    marker.write_text("2026")
    done = rebuild(stopped)
    assert done.returncode == 1
    assert "pacs-server restore" in done.stderr
    assert kept(stopped) == []


def test_unreadable_files_are_named_and_the_rest_is_indexed(stopped: PacsProcess) -> None:
    bad = next(stopped.archive.glob("1*/*/*.dcm"))
    bad.write_bytes(bad.read_bytes()[:300])
    done = rebuild(stopped)
    assert done.returncode == 1
    assert f"not indexed {bad.relative_to(stopped.archive).as_posix()}: " in done.stderr
    assert "1 not indexed" in done.stdout
    assert bad.stat().st_size == 300


def test_killed_at_any_moment_it_leaves_an_index_and_begins_again(stopped: PacsProcess) -> None:
    before = contents(url_of(stopped))
    chance = random.Random(5)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [*COMMAND, "--config", str(stopped.config_file), "rebuild-index"],
            cwd=stopped.directory,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.3, 2.0))  # anywhere; no matter where
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert contents(url_of(stopped)) == before
    assert rebuild(stopped).returncode == 0
    assert contents(url_of(stopped)) == before
    assert not (stopped.directory / "pacs.db.rebuild").exists()


@pytest.mark.postgres
def test_from_sqlite_into_postgresql(
    stopped: PacsProcess, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(url_of(stopped))
    with postgres.fresh_database(request.getfixturevalue("postgres_server")) as url:
        done = rebuild(stopped, "--into", url)
        assert (done.returncode, done.stderr) == (0, "")
        assert contents(url) == before
        # Not empty any more, configured or not.
        for options in (["--into", url], []):
            stopped.database_url = url
            stopped.configure(stopped.settings)
            refused = rebuild(stopped, *options)
            assert refused.returncode == 1
            assert "the database is not empty" in refused.stderr
        assert contents(url) == before
        with stopped:
            fill(stopped, 1)  # new rows get numbers of their own


def test_the_audit_trail_tells_who_did_it(stopped: PacsProcess) -> None:
    assert rebuild(stopped).returncode == 0
    days = sorted((stopped.directory / "audit").glob("*.jsonl"))
    told = [line for day in days for line in day.read_text().splitlines() if "index rebuilt: " in line]
    assert len(told) == 1


def test_without_an_archive_there_is_nothing_to_rebuild(tmp_path: Path) -> None:
    pacs = PacsProcess(tmp_path / "pacs")
    done = rebuild(pacs)
    assert done.returncode == 2
    assert f"there is no archive: the storage {pacs.archive} ({pacs.config_file} line " in done.stderr
    assert f"The settings are those of {pacs.config_file}" in done.stderr
    assert not pacs.archive.exists()
