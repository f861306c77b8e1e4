"""The command line: options, exit codes, and sentences instead of tracebacks."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pydicom.data
import pytest

from pacs_server import __version__
from pacs_server.cli import main as cli
from pacs_server.config import Config
from pacs_server.intake import importer

CT = Path(str(pydicom.data.get_testdata_file("CT_small.dcm")))

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "pacs_server.yaml"
    file.write_text(
        "server: {ae_title: FILE, port: 104}\n"
        "storage: {fsync: false, min_free_space: 0}\n"
        "logging:\n  file: logs/pacs.log\n"
        "remote_aes: [{ae_title: W, host: h, port: 104}]\n"
    )
    return file


class FakeServer:
    """Stands in for PacsServer and keeps what it was given."""

    made: "list[FakeServer]" = []  # noqa: RUF012

    def __init__(self, config: Config, *, reload: Callable[[], Config]) -> None:
        self.config, self.reload = config, reload
        self.made.append(self)

    def run(self) -> int:
        return 3


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeServer]]:
    monkeypatch.setattr("pacs_server.app.server.PacsServer", FakeServer)
    monkeypatch.setattr("pacs_server.app.logging.configure", lambda config, console=True: None)
    yield FakeServer.made
    FakeServer.made.clear()


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"pacs-server {__version__}\n", "")


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['pacs-server', '--help']\n"
        "import pacs_server.cli.main\n"
        "try: pacs_server.cli.main.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'pydicom', 'pynetdicom', 'sqlalchemy', 'numpy', 'rich', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "import pacs_server.app.parts\n"
        "print(sorted({'httpx2', 'httpcore2'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(cli.__file__).parents[2], capture_output=True, check=True
    )
    # The server itself needs the HTTP client only when it calls a DICOMweb remote or an OpenID Connect provider.
    assert done.stdout.splitlines()[-2:] == [b"[]", b"[]"]
    assert b"check-config" in done.stdout


def test_without_a_command_it_serves(run: Run, fake_server: list[FakeServer], config_file: Path) -> None:
    code, _, _ = run(
        "--config", config_file, "--host", "127.0.0.2", "--port", "0",
        "--ae-title", "TOP", "--storage-dir", "here", "--log-level", "debug",
    )  # fmt: skip
    assert code == 3
    config = fake_server[0].config
    assert (config.server.host, config.server.port, config.server.ae_title) == ("127.0.0.2", 0, "TOP")
    assert config.storage.directory == config_file.parent / "here"
    assert config.logging.level == "debug"
    assert config.where("server.port") == "command line"


def test_reload_reads_the_file_again(run: Run, fake_server: list[FakeServer], config_file: Path) -> None:
    run("--config", config_file, "--port", "0")
    config_file.write_text("server: {ae_title: NEW, port: 105}")
    new = fake_server[0].reload()
    assert (new.server.ae_title, new.server.port) == ("NEW", 0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "command line: server.port: 70000 is not a port (0 to 65535)"),
        (["--config", "none.yaml"], "none.yaml: cannot be read: No such file or directory"),
        (["--log-level", "loud", "check-config"], "command line: logging.level: 'loud' is not possible: it must be "),
        (["--ae-title", "", "migrate"], "command line: server.ae_title: an AE title has 1 to 16 "),
        (["import", "nothing-there"], "nothing-there does not exist"),
    ],
)
def test_a_wrong_setting_is_one_sentence(run: Run, arguments: list[str], sentence: str) -> None:
    code, printed, error = run(*arguments)
    assert (code, printed) == (2, "")
    assert error.startswith(f"pacs-server: {sentence}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("before", [True, False])
def test_the_file_may_be_named_on_either_side(run: Run, config_file: Path, before: bool) -> None:
    option = ("--config", config_file)
    code, printed, _ = run(*option, "check-config") if before else run("check-config", *option)
    assert code == 0
    assert printed.startswith("ok\n")
    assert f"server.ae_title: FILE  ({config_file} line 1)\n" in printed


def test_check_config_prints_every_setting(run: Run, config_file: Path, tmp_path: Path) -> None:
    _, printed, _ = run("--host", "127.0.0.3", "check-config", "--config", config_file)
    lines = printed.splitlines()
    assert "server.host: 127.0.0.3  (command line)" in lines
    assert "server.max_associations: 50" in lines
    assert "access_control.allowed_ae_titles: *" in lines
    assert f"remote_aes[0].port: 104  ({config_file} line 5)" in lines
    assert f"database.path: {tmp_path}/pacs.db" in lines
    assert not any(line.startswith(("database.url", "source", "origins")) for line in lines)
    assert not (tmp_path / "logs").exists()


def test_check_config_prints_the_rules_of_peers(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "PACS_SERVER__ACCESS_CONTROL__PEERS"
    monkeypatch.setenv(variable, "[{ae_title: CT1, addresses: [10.1.0.0/16, '2001:db8::/64'], allow: [echo]}]")
    lines = run("check-config")[1].splitlines()
    place = f"(environment variable {variable})"
    assert f"access_control.peers[0].addresses: 10.1.0.0/16, 2001:db8::/64  {place}" in lines
    assert f"access_control.peers[0].allow: echo  {place}" in lines
    assert "access_control.peers[0].certificate: none" in lines
    assert "access_control.allowed_ae_titles: none" in lines


def test_check_config_notes_that_everybody_may_come_in(run: Run) -> None:
    code, printed, error = run("--host", "0.0.0.0", "check-config")
    assert (code, error) == (0, "")
    assert "\nnote: everybody who reaches 0.0.0.0 port " in printed
    assert "note:" not in run("--host", "127.0.0.1", "check-config")[1]


def test_check_config_masks_passwords(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_SERVER__DATABASE__URL", "postgresql://u:geheim@db/pacs")
    _, printed, error = run("check-config")
    assert "database.url: postgresql://u:***@db/pacs  (environment variable PACS_SERVER__DATABASE__URL)" in printed
    assert "geheim" not in printed + error


def test_check_config_looks_at_the_disk(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, _, error = run("--storage-dir", "file", "check-config")
    assert (code, error) == (2, f"pacs-server: command line: storage.directory: {tmp_path}/file is not a directory\n")


@pytest.mark.slow
def test_migrate(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pacs.db").unlink()
    code, printed, _ = run("migrate")
    assert code == 0
    assert printed.startswith("migrated from an empty database to revision ")
    assert printed.endswith(f": {tmp_path}/pacs.db\n")
    assert run("migrate")[1].startswith("the database is at revision ")


def test_a_broken_database_is_one_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "pacs.db").write_bytes(b"this is no database" * 100)
    code, _, error = run("migrate")
    assert code == 1
    assert error.startswith("pacs-server: ")
    assert error.count("\n") == 1


# --- import ---


@pytest.mark.slow
def test_import_and_again(run: Run, config_file: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.dcm").write_bytes(CT.read_bytes())
    (source / "b.txt").write_text("no image")
    for expected in ("stored 1, duplicate 0", "stored 0, duplicate 1"):
        code, printed, error = run("import", source, "--config", config_file)
        assert (code, error) == (0, "")
        assert printed == f"{expected}, rejected 0, skipped 1 (not DICOM)\n"
    assert len(list((tmp_path / "archive").rglob("*.dcm"))) == 1
    assert "import ended" in (tmp_path / "logs" / "pacs.log").read_text()


def test_import_tells_what_was_rejected_once(run: Run, config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.dcm").write_bytes(CT.read_bytes()[:200])
    # Without a log file the log goes to standard error too.
    config_file.write_text(config_file.read_text().replace("file: logs/pacs.log", "level: info"))
    code, printed, error = run("--config", config_file, "import", "cut.dcm")
    assert code == 1
    assert "import ended" in error
    assert [line.partition(": ")[0] for line in error.splitlines() if "cut.dcm" in line] == ["rejected cut.dcm"]
    assert printed == "stored 0, duplicate 0, rejected 1, skipped 0 (not DICOM)\n"


def test_names_of_files_are_not_in_the_log(run: Run, config_file: Path, tmp_path: Path) -> None:
    """They are often those of patients; standard error names all of them."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(23):
        (source / f"QUILLANZYX_{number}.dcm").symlink_to("nowhere")
    code, _, error = run("--config", config_file, "import", source)
    assert code == 1
    assert error.count("rejected ") == 23
    logged = (tmp_path / "logs" / "pacs.log").read_text()
    assert "rejected 23" in logged
    assert "QUILLANZYX" not in logged


def test_import_says_which_file_it_corrects(run: Run, config_file: Path, tmp_path: Path) -> None:
    data = CT.read_bytes()
    own = pydicom.dcmread(CT).file_meta.MediaStorageSOPInstanceUID.encode()
    other = own[:-1] + (b"1" if own[-1:] != b"1" else b"2")
    (tmp_path / "other.dcm").write_bytes(data.replace(own, other, 1))
    code, printed, error = run("--config", config_file, "import", "other.dcm")
    assert (code, printed) == (0, "stored 1, duplicate 0, rejected 0, skipped 0 (not DICOM), corrected 1\n")
    assert error == (
        "corrected other.dcm: its File Meta Information has another SOP Instance UID than its data set, which counts\n"
    )
    [stored] = (tmp_path / "archive").rglob("*.dcm")
    assert pydicom.dcmread(stored).file_meta.MediaStorageSOPInstanceUID == own.decode()
    logged = (tmp_path / "logs" / "pacs.log").read_text()
    assert "corrected 1" in logged
    assert "other.dcm" not in logged


def test_ctrl_c_ends_the_import_after_the_file(
    run: Run, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    for name in ("1", "2", "3"):
        (tmp_path / "source" / name).write_text("x")
    before = signal.getsignal(signal.SIGINT)
    one = importer._Importer.take

    def interrupted(self: importer._Importer, path: Path) -> None:
        if path.name == "2":
            os.kill(os.getpid(), signal.SIGINT)
        one(self, path)

    monkeypatch.setattr(importer._Importer, "take", interrupted)
    code, printed, error = run("--config", config_file, "import", "source")
    assert (code, printed) == (130, "stored 0, duplicate 0, rejected 0, skipped 2 (not DICOM)\n")
    assert "run it again to resume" in error
    assert "stopped=interrupted" in (tmp_path / "logs" / "pacs.log").read_text()
    assert signal.getsignal(signal.SIGINT) is before


# --- status ---


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bytes], None]]:
    """An HTTP server on the monitoring port that gives one answer to /status."""
    answer: list[tuple[int, bytes]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answer[0] if self.path == "/status" else (404, b"")
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        monkeypatch.setenv("PACS_SERVER__MONITORING__METRICS_PORT", str(server.server_address[1]))
        monkeypatch.setenv("PACS_SERVER__MONITORING__HOST", "0.0.0.0")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield lambda code, body: answer.append((code, body))
        server.shutdown()
        thread.join()


def test_status(run: Run, answering: Callable[[int, bytes], None]) -> None:
    answer = {"version": "1", "ready": True, "reload": None, "free": {"bytes": 5}, "peers": ["A", "B"], "evil": "\x1b"}
    answer["restart"] = []
    answering(200, json.dumps(answer).encode())
    code, printed, error = run("status")
    assert (code, error) == (0, "")
    assert printed.splitlines() == [
        *("version: 1", "ready: true", "reload: none"),
        *("free:", "  bytes: 5", "peers:", "  A", "  B", "evil: \\x1b", "restart: none"),
    ]


@pytest.mark.parametrize(
    ("code", "body", "sentence"), [(404, b"", "answers 404"), (200, b"<html>", "is not this server")]
)
def test_another_program_on_the_port(
    run: Run, answering: Callable[[int, bytes], None], code: int, body: bytes, sentence: str
) -> None:
    answering(code, body)
    exit_code, printed, error = run("status")
    assert (exit_code, printed, error.count("\n")) == (1, "", 1)
    assert sentence in error


def test_no_server_answers(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound but not listening: nobody else can take the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setenv("PACS_SERVER__MONITORING__METRICS_PORT", str(port))
        code, _, error = run("status")
        (tmp_path / "named.yaml").touch()
        code_of_named, _, error_of_named = run("status", "--config", "named.yaml")
    sentence = f"pacs-server: no server answers at http://127.0.0.1:{port}/status: Connection refused"
    hint = "No configuration file was read; name it with --config FILE or with the variable PACS_SERVER_CONFIG"
    assert (code, error) == (1, f"{sentence}. {hint}\n")
    assert (code_of_named, error_of_named) == (1, f"{sentence}\n")


@pytest.mark.parametrize(("name", "value"), [("ENABLED", "false"), ("METRICS_PORT", "0")])
def test_status_without_monitoring(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"PACS_SERVER__MONITORING__{name}", value)
    code, _, error = run("status")
    assert code == 1
    assert "the status needs monitoring.enabled and a fixed monitoring.metrics_port" in error


# --- conformance ---


@pytest.fixture(autouse=True)
def _short_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("pacs_server.app.conformance")
    module.statement = lambda config: f"# {config.server.ae_title}"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_conformance(run: Run, tmp_path: Path) -> None:
    assert run("--ae-title", "TITLE", "conformance") == (0, "# TITLE\n", "")
    assert run("--ae-title", "TITLE", "conformance", "--output", "out.md") == (0, "", "")
    assert (tmp_path / "out.md").read_text() == "# TITLE\n"


def test_conformance_to_an_impossible_place(run: Run) -> None:
    code, _, error = run("conformance", "--output", "none/out.md")
    assert (code, error) == (1, "pacs-server: none/out.md cannot be written: No such file or directory\n")
