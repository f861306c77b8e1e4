"""Commands make no archive: they look where the settings say, and refuse if nothing is there."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
import schema
import typer
from datasets import make_ct, write_part10

from pacs_server.cli.main import app
from pacs_server.cli.options import places
from pacs_server.config.load import load

Run = Callable[..., tuple[int, str, str]]

# The commands that need an archive, with what else they need.
COMMANDS = {
    "backup": ["elsewhere"],
    "verify": [],
    "find": ["studies"],
    "show": ["1.2"],
    "export": ["1.2", "study"],
    "mark": ["1.2"],
    "sample": [],
    "conflicts": [],
    "patients": ["P1"],
    "merge": ["P1", "--into", "P2", "--reason", "why"],
    "reassign": ["1.2", "--to", "P2", "--reason", "why"],
    "delete study": ["1.2", "--reason", "why", "--yes"],
    "delete series": ["1.2", "--reason", "why", "--yes"],
    "delete instance": ["1.2", "--reason", "why", "--yes"],
    "trash list": [],
    "trash restore": ["1"],
    "trash empty": ["--yes"],
    "mpps list": [],
    "mpps show": ["1.2"],
    "peers seen": [],
    "remote send": ["WS1", "1.2"],
    "remote fetch": ["WS1", "1.2"],
    "remote retarget": ["WS1", "WS2"],
    "remote pause": ["WS1"],
    "remote resume": ["WS1"],
    "remote status": [],
    "polling list": [],
    "polling studies": [],
    "polling now": ["WS1"],
    "deliveries": [],
    "route test": ["1.2"],
    "tasks list": [],
    "tasks show": ["1"],
    "tasks retry": ["1"],
    "tasks cancel": ["1"],
    "commitment list": [],
    "commitment retry": ["1"],
    "key create": ["--name", "script"],
    "key list": [],
    "key revoke": ["script"],
    "worklist add": ["--patient-name", "Doe", "--patient-id", "1", "--accession", "A", "--modality", "CT",
                     "--station", "CT1", "--date", "2026-01-05", "--time", "09:30", "--description", "Skull"],
    "worklist import": ["items.json"],
    "worklist list": [],
    "worklist show": ["1"],
    "worklist update": ["1", "--time", "10:00"],
    "worklist cancel": ["1"],
    "worklist remove": ["1"],
    "worklist unmatched": [],
}  # fmt: skip
# Those that make an archive, or a part of it; those that need none; and those that read the audit trail alone.
OTHERS = {
    *("import", "restore", "migrate", "user add", "user passwd", "user role", "user remove", "user list"),
    *(
        "remote list",
        "remote echo",
        "remote find",
        "remote worklist",
        "route list",
        "check-config",
        "status",
        "conformance",
        "completion",
        "man",
        "synthetic",
        "serve-temporary",
    ),
    *("audit verify", "audit search", "audit export"),
}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run commands in."""
    directory = tmp_path / "nowhere"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def test_every_command_is_thought_of() -> None:
    main = typer.main.get_command(app)
    names: set[str] = set()
    for name, command in main.commands.items():  # type: ignore[attr-defined]
        below = getattr(command, "commands", None)
        names |= {name} if below is None else {f"{name} {each}" for each in below}
    assert names == set(COMMANDS) | OTHERS | {"rebuild-index"}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_makes_an_archive(run: Run, nowhere: Path, command: str) -> None:
    code, printed, error = run(*command.split(), *COMMANDS[command])
    assert (code, printed) == (2, "")
    assert error == (
        f"pacs-server: there is no archive: neither the index {nowhere}/pacs.db (default) nor the storage "
        f"{nowhere}/archive (default) is there. No configuration file was read; name it with --config FILE or with "
        "the variable PACS_SERVER_CONFIG\n"
    )
    assert list(nowhere.iterdir()) == []


def test_a_rebuild_needs_the_files(run: Run, nowhere: Path) -> None:
    code, _, error = run("rebuild-index")
    assert code == 2
    assert error.startswith(f"pacs-server: there is no archive: the storage {nowhere}/archive (default) is not there. ")
    assert list(nowhere.iterdir()) == []


def test_the_usual_file_is_offered(run: Run, nowhere: Path) -> None:
    (nowhere / "pacs_server.yaml").touch()
    code, _, error = run("verify")
    assert code == 2
    assert error.endswith("the variable PACS_SERVER_CONFIG; try --config pacs_server.yaml\n")
    assert [path.name for path in nowhere.iterdir()] == ["pacs_server.yaml"]


def test_a_wrong_file_is_named(run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = nowhere / "wrong.yaml"
    file.write_text("database:\n  path: my.db\n")
    code, _, error = run("--storage-dir", "there", "verify", "--config", file)
    assert code == 2
    assert f"the index {nowhere}/my.db ({file} line 2) nor the storage {nowhere}/there (command line)" in error
    assert f"The settings are those of {file}; name another file with --config FILE or with the variable " in error
    monkeypatch.setenv("PACS_SERVER_CONFIG", str(file))
    assert f"those of {file}, which PACS_SERVER_CONFIG names; name another file" in run("verify")[2]
    assert list(nowhere.iterdir()) == [file]


def test_no_password_is_shown() -> None:
    variable = "PACS_SERVER__DATABASE__URL"
    config = load(None, environ={variable: "postgresql://u:geheim@db/pacs"}, overrides={})
    assert places(config)[0] == f"the index postgresql://u:***@db/pacs (environment variable {variable})"


@pytest.mark.no_tables
def test_an_empty_database_is_no_index(
    run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    if database_url.startswith("sqlite"):
        database_url = f"sqlite:///{nowhere.parent / 'empty.db'}"
        (nowhere.parent / "empty.db").touch()
    monkeypatch.setenv("PACS_SERVER__DATABASE__URL", database_url)
    code, _, error = run("verify")
    assert code == 2
    assert "(environment variable PACS_SERVER__DATABASE__URL) nor the storage" in error
    assert list(nowhere.iterdir()) == []


def test_an_index_without_its_storage(
    run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setenv("PACS_SERVER__DATABASE__URL", database_url)
    sentence = f"pacs-server: the index is there, and the storage {nowhere}/archive is not there or empty: is its file"
    for command in (["verify"], ["backup", "elsewhere"]):
        code, _, error = run(*command)
        assert code == 1
        assert error.startswith(sentence)
        assert list(nowhere.iterdir()) == []
    (nowhere / "archive" / "lost+found").mkdir(parents=True)  # as the file system that is mounted over it
    assert run("verify")[2].startswith(sentence)
    assert [path.name for path in (nowhere / "archive").iterdir()] == ["lost+found"]


def test_a_storage_without_its_index(run: Run, nowhere: Path) -> None:
    archives.make_empty(nowhere / "archive")
    before = sorted(nowhere.rglob("*"))
    code, _, error = run("verify")
    assert (code, sorted(nowhere.rglob("*"))) == (1, before)
    storage, index = nowhere / "archive", nowhere / "pacs.db"
    sentence = f"the storage {storage} is there, and the index {index} is not: is it the right database?"
    assert error == f"pacs-server: {sentence}\n"
    write_part10(make_ct(), nowhere / "archive" / "1.2" / "1.3" / "1.4.dcm")
    index.touch()
    for command in (["verify"], ["backup", "elsewhere"]):
        code, _, error = run(*command)
        assert code == 1
        assert error.startswith(f"pacs-server: the database is empty and {storage} holds instances: is it the right")
    assert index.stat().st_size == 0
    assert not (nowhere / "audit").exists()


def test_an_unfinished_restore_is_told(run: Run, nowhere: Path) -> None:
    (nowhere / "archive" / "restore").mkdir(parents=True)
    (nowhere / "archive" / "restore" / "snapshot").write_text("20260301T120000Z")
    code, _, error = run("verify")
    assert code == 1
    assert "is unfinished: run `pacs-server restore` again" in error
    assert [path.name for path in nowhere.iterdir()] == ["archive"]


# --- the variable ---


@pytest.mark.slow
def test_the_variable_names_the_file(run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = nowhere.parent / "place"
    archives.make_empty(place / "archive")
    schema.prepare(place / "pacs.db")
    (place / "pacs.yaml").write_text("storage: {min_free_space: 0}\n")
    monkeypatch.setenv("PACS_SERVER_CONFIG", "../place/pacs.yaml")
    code, printed, _ = run("verify")
    assert (code, printed[:3]) == (0, "ok:")
    assert f"storage.directory: {place}/archive\n" in run("check-config")[1]
    assert list(nowhere.iterdir()) == []


def test_the_option_is_stronger(run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "other.yaml").write_text("server: {ae_title: OTHER}")
    monkeypatch.setenv("PACS_SERVER_CONFIG", "none.yaml")
    for arguments in (["--config", "other.yaml", "check-config"], ["check-config", "--config", "other.yaml"]):
        assert "server.ae_title: OTHER" in run(*arguments)[1]


@pytest.mark.parametrize("command", [["check-config"], ["verify"], []], ids=["check-config", "verify", "serve"])
def test_a_missing_file_names_the_variable(
    run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("PACS_SERVER_CONFIG", "/none.yaml")
    problem = "environment variable PACS_SERVER_CONFIG: /none.yaml: cannot be read: No such file or directory"
    assert run(*command) == (2, "", f"pacs-server: {problem}\n")
    assert list(nowhere.iterdir()) == []


def test_an_empty_variable_names_nothing(run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_SERVER_CONFIG", "")
    assert run("check-config")[0] == 0
    assert "No configuration file was read" in run("verify")[2]


# --- those that make something say where ---


@pytest.mark.slow
def test_an_import_says_what_it_makes(run: Run, nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_SERVER__STORAGE__MIN_FREE_SPACE", "0")
    monkeypatch.setenv("PACS_SERVER__LOGGING__LEVEL", "error")
    write_part10(make_ct(), nowhere / "image.dcm")
    made = f"made the index {nowhere}/pacs.db (default) and the storage {nowhere}/archive (default)\n"
    assert run("import", "image.dcm") == (0, "stored 1, duplicate 0, rejected 0, skipped 0 (not DICOM)\n", made)
    assert run("import", "image.dcm")[2] == ""
    assert json.loads(run("verify", "--json", "-")[1])["files"] == 1


@pytest.mark.slow
def test_a_restore_says_where_it_goes(run: Run, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chdir(tmp_path)  # where the empty archive is
    assert run("backup", tmp_path / "backup")[0] == 0
    os.chdir(nowhere)
    code, _, error = run("restore", tmp_path / "backup")
    assert code == 0
    assert f" into the index {nowhere}/pacs.db (default) and the storage {nowhere}/archive (default)\n" in error
