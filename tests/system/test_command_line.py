"""The command line from outside: what it says when it cannot start, and the import."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commandline import call_command
from datasets import data_set_offset, make_study, pydicom_test_files, write_part10
from processes import COMMAND, PacsProcess, clean_environment, run_command, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, association, store
from terminals import run_at_terminal


def config_in(directory: Path, **settings: Any) -> Path:
    """A configuration file that keeps everything in `directory`."""
    sections = {
        "server": {"port": 0},
        "monitoring": {"metrics_port": 0},
        "web": {"port": 0},
        "storage": {"min_free_space": 0},
    }
    for name, section in settings.items():
        sections[name] = sections.get(name, {}) | section
    path = directory / "pacs.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one sentence on standard error of a command that ended with exit code 2."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("pacs-server: ").rstrip("\n")


# ------------------------------------------------------------------------------------ what stops a start


@pytest.mark.parametrize(("section", "key"), [("server", "port"), ("monitoring", "metrics_port")])
def test_a_port_in_use(tmp_path: Path, section: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = config_in(tmp_path, **{section: {key: port}})
        sentence = refused(call_command("--config", path, cwd=tmp_path))
    assert f"{section}.{key}: cannot listen on 127.0.0.1 port {port}: Address already in use" in sentence
    assert sentence.startswith(f"{path} line ")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_the_hosts_fault(tmp_path: Path, host: str) -> None:
    path = config_in(tmp_path, server={"host": host, "port": 0})
    assert f"server.host: cannot listen on {host} port 0: " in refused(call_command("--config", path, cwd=tmp_path))


@pytest.fixture
def weak() -> list[str]:
    """A prefix under which file modes hold for root too."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("running as root, and setpriv is not installed (apt-get install util-linux)")
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]


@pytest.mark.parametrize(
    ("section", "key", "name"),
    [
        ("storage", "directory", "closed/archive"),
        ("database", "path", "closed/pacs.db"),
        ("logging", "file", "closed/log"),
    ],
)
def test_an_unwritable_directory(tmp_path: Path, weak: list[str], section: str, key: str, name: str) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    path = config_in(tmp_path, **{section: {key: name}})
    sentence = refused(run_command("--config", path, cwd=tmp_path, prefix=weak))
    assert sentence.startswith(f"{path} line ")
    assert f"{section}.{key}: {tmp_path / 'closed'} is not writable" in sentence
    assert sorted(tmp_path.iterdir()) == [tmp_path / "closed", path]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server:\n  port: 0\n  ae_titel: X\n", "line 3: server.ae_titel: is not known, did you mean ae_title?"),
        ("sever:\n  port: 0\n", "line 1: sever: is not known, did you mean server?"),
        ("server:\n  port: many\n", "line 2: server.port: 'many' is not a whole number"),
        ("storage:\n  fsync: 3\n", "line 2: storage.fsync: 3 is not possible: it must be 'slots', 'each' or 'off'"),
        ("database:\n  wal_mode: 3\n", "line 2: database.wal_mode: 3 is not true or false"),
        ("server:\n  port: 70000\n", "line 2: server.port: 70000 is not a port (0 to 65535)"),
        ("server: [\n", "line 2"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "pacs.yaml"
    path.write_text(text)
    sentence = refused(call_command("--config", path, cwd=tmp_path))
    assert sentence.startswith(str(path))
    assert expected in sentence
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(run_command("--config", "nowhere.yaml", cwd=tmp_path, fresh=True))


def test_a_wrong_environment_variable(tmp_path: Path) -> None:
    sentence = refused(call_command(cwd=tmp_path, PACS_SERVER__SERVER__PROT="1"))
    assert "environment variable PACS_SERVER__SERVER__PROT is not known" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_start_without_arguments_uses_the_current_directory(tmp_path: Path) -> None:
    server = PacsProcess(
        tmp_path / "empty",
        fresh=True,
        arguments=["--port", "0"],
        environment={
            "PACS_SERVER__MONITORING__METRICS_PORT": "0",
            "PACS_SERVER__WEB__PORT": "0",
            "PACS_SERVER__STORAGE__MIN_FREE_SPACE": "0B",
        },
    )
    server.config_file.unlink()
    with server as pacs, association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
        assert store(link, Instance.of(make_study()[0])).status == 0
        assert pacs.status()["storage"]["directory"] == str(tmp_path / "empty" / "archive")
    names = {path.name for path in server.directory.iterdir()} - {"stderr.log"}
    assert names == {"pacs.db", "archive", "audit"}
    assert len(server.files()) == 1


# ------------------------------------------------------------------------------------ import


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six instances in two folders, a copy of one of them, a text file and a broken file."""
    root = tmp_path / "media"
    for number, ds in enumerate(make_study(2, 3)):
        write_part10(ds, root / f"series{number // 3}" / f"{number}.dcm")
    shutil.copy(root / "series0" / "0.dcm", root / "copy.dcm")
    (root / "readme.txt").write_text("not an image")
    whole = root / "series1" / "4.dcm"
    # Cut before the UIDs that name it.
    (root / "broken.dcm").write_bytes(whole.read_bytes()[: data_set_offset(whole) + 30])
    (root / "empty").mkdir()
    return root


def run_import(pacs: PacsProcess, *paths: Path) -> subprocess.CompletedProcess[str]:
    return run_command("import", "--config", pacs.config_file, *paths, cwd=pacs.directory, fresh=True)


def call_import(pacs: PacsProcess, *paths: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, which takes a fraction of the time."""
    return call_command("import", "--config", pacs.config_file, *paths, cwd=pacs.directory)


def start_import(pacs: PacsProcess, path: Path) -> subprocess.Popen[str]:
    """An import that runs."""
    command = [*COMMAND, "import", "--config", str(pacs.config_file), str(path)]
    return subprocess.Popen(
        command, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def test_import_and_import_again(database_url: str, tmp_path: Path, folder: Path) -> None:
    pacs = PacsProcess(tmp_path / "pacs", database_url)

    done = run_import(pacs, folder)
    assert done.returncode == 1
    assert "stored 6, duplicate 1, rejected 1, skipped 1 (not DICOM)" in done.stdout
    assert "broken.dcm" in done.stdout + done.stderr

    again = call_import(pacs, folder)
    assert again.returncode == 1
    assert "stored 0, duplicate 7, rejected 1, skipped 1 (not DICOM)" in again.stdout

    (folder / "broken.dcm").unlink()
    assert call_import(pacs, folder).returncode == 0
    with pacs:
        assert pacs.status()["counts"] == {"patients": 1, "studies": 1, "series": 2, "instances": 6}
        assert len(pacs.files()) == 6


def test_an_import_at_a_terminal_names_rejected_files_above_its_bar(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    for number, ds in enumerate(make_study(1, 3)):
        ds.Rows, ds.Columns, ds.PixelData = 512, 512, b"\0" * 524288
        write_part10(ds, folder / f"{number}.dcm")
    for name in ("0.dcm", "2.dcm"):
        (folder / f"cut{name}").write_bytes((folder / name).read_bytes()[:100_000])
    environ = clean_environment(PACS_SERVER__STORAGE__MIN_FREE_SPACE="0")
    code, shown = run_at_terminal([*COMMAND, "import", folder.name], cwd=tmp_path, environ=environ)
    assert code == 1
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "\n").split("\n")
    why = "the data set ends in the middle of Pixel Data"
    assert [line for line in lines if "rejected long" in line] == [
        f"rejected {folder.name}/cut{name}: {why}" for name in ("0.dcm", "2.dcm")
    ]
    assert f"made the index {tmp_path}/pacs.db (default) and the storage {tmp_path}/archive (default)" in lines


def test_people_at_a_terminal_see_bars_and_tables(tmp_path: Path) -> None:
    for number, ds in enumerate(make_study(1, 3)):
        write_part10(ds, tmp_path / "media" / f"{number}.dcm")
    environ = clean_environment(PACS_SERVER__STORAGE__MIN_FREE_SPACE="0")

    def command(*arguments: object) -> str:
        code, shown = run_at_terminal([*COMMAND, *map(str, arguments)], cwd=tmp_path, environ=environ)
        assert code == 0, shown
        return shown

    shown = command("import", "media")
    assert "3 of 3 files" in shown
    assert shown.endswith("stored 3, duplicate 0, rejected 0, skipped 0 (not DICOM)\r\n")
    assert "3 instances" in command("verify")
    shown = command("worklist", "unmatched")
    assert "INSTANCES" in shown
    assert str(ds.StudyInstanceUID) in shown
    # The same without a terminal is for scripts.
    done = call_command("worklist", "unmatched", cwd=tmp_path, PACS_SERVER__STORAGE__MIN_FREE_SPACE="0")
    assert done.stdout.splitlines()[1].startswith(f"{ds.StudyInstanceUID}\t")


def test_commands_find_the_archive_of_a_server(tmp_path: Path) -> None:
    """On default paths in the directory where it runs, and elsewhere by the variable that named its configuration."""
    (tmp_path / "elsewhere").mkdir()
    free = {
        "PACS_SERVER__MONITORING__METRICS_PORT": "0",
        "PACS_SERVER__WEB__PORT": "0",
        "PACS_SERVER__STORAGE__MIN_FREE_SPACE": "0",
    }
    with PacsProcess(tmp_path / "default", arguments=["--port", "0"], environment=free) as pacs:
        assert call_command("verify", cwd=pacs.directory).stdout.startswith("ok: 0 files")
        sentence = refused(call_command("verify", cwd=tmp_path / "elsewhere"))
        assert sentence.startswith("there is no archive: neither the index ")
        assert list((tmp_path / "elsewhere").iterdir()) == []
    named = {"PACS_SERVER_CONFIG": str(tmp_path / "named" / "pacs.yaml")}
    with PacsProcess(tmp_path / "named", arguments=[], environment=named) as pacs:
        assert pacs.archive.is_dir()
        done = call_command("verify", cwd=tmp_path / "elsewhere", **named)
        assert done.stdout.startswith("ok: 0 files"), done.stderr


def test_import_of_what_is_not_there(tmp_path: Path) -> None:
    pacs = PacsProcess(tmp_path / "pacs")
    sentence = refused(call_import(pacs, tmp_path / "nowhere"))
    assert "nowhere does not exist" in sentence
    assert not pacs.archive.exists()


@pytest.fixture
def running(database_url: str, tmp_path: Path) -> Iterator[PacsProcess]:
    with PacsProcess(tmp_path / "pacs", database_url) as server:
        yield server


def test_import_while_the_server_runs_and_stores(running: PacsProcess, tmp_path: Path) -> None:
    imported, sent = make_study(4, 25), make_study(4, 25)
    for ds in imported:
        write_part10(ds, tmp_path / "media" / f"{ds.SOPInstanceUID}.dcm")
    importer = start_import(running, tmp_path / "media")
    try:
        with association(running.port, [(str(CTImageStorage), EXPLICIT)]) as link:
            assert {store(link, Instance.of(ds)).status for ds in sent} == {0}
        output, _ = importer.communicate(timeout=60)
    finally:
        importer.kill()
    assert (importer.returncode, "stored 100, duplicate 0" in output) == (0, True)
    assert running.status()["counts"] == {"patients": 1, "studies": 2, "series": 8, "instances": 200}
    assert len(running.files()) == 200


def test_import_is_interrupted_and_resumed(tmp_path: Path) -> None:
    pacs = PacsProcess(tmp_path / "pacs")
    instances = make_study(4, 100)
    for ds in instances:
        write_part10(ds, tmp_path / "media" / f"{ds.SOPInstanceUID}.dcm")
    importer = start_import(pacs, tmp_path / "media")
    try:
        wait_for(pacs.files, "the first imported file", seconds=60)
        importer.send_signal(signal.SIGINT)
        importer.communicate(timeout=60)
    finally:
        importer.kill()
    assert importer.returncode == 130

    resumed = call_import(pacs, tmp_path / "media")
    assert resumed.returncode == 0, resumed.stderr
    with pacs:
        assert pacs.instances() == len(pacs.files()) == len(instances)
        assert pacs.incoming() == []


def test_every_pydicom_file_can_be_imported(tmp_path: Path) -> None:
    pacs = PacsProcess(tmp_path / "pacs", settings={"storage": {"duplicate_policy": "ignore"}})
    done = call_import(pacs, *pydicom_test_files())
    assert done.returncode == 0, done.stderr
    assert "rejected 0, skipped 0" in done.stdout
