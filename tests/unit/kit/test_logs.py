"""Logging: the two formats, what hostile values become, the file and its rotation."""

import json
import logging
import re
import sys
import threading
from pathlib import Path

import pytest

from pacs_server.app.logging import configure, thread_failed
from pacs_server.config import LoggingConfig
from pacs_server.errors import ConfigError
from pacs_server.kit.logs import JSONFormatter, TextFormatter, reopen, set_level

EVIL = 'a b\n2026-01-01 INFO  fake\x1b[2J\u2028\x9b\ud800"'

log = logging.getLogger("pacs_server.net.association")


def record(message: str = "instance stored", *args: object, created: float = 0.0, **extra: object) -> logging.LogRecord:
    made = log.makeRecord(log.name, logging.INFO, "f.py", 1, message, args, None, extra=extra)
    made.created = created
    return made


def error_record(error: Exception) -> logging.LogRecord:
    try:
        raise error
    except type(error):
        return log.makeRecord(log.name, logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())


def test_text_line() -> None:
    line = TextFormatter().format(record("%s stored", "one", created=1767268800.1239, calling_ae="CT 1", n=3, x=""))
    assert line == ('2026-01-01T12:00:00.123+00:00 INFO  net.association  one stored calling_ae="CT 1" n=3 x=""')


def test_the_clock_moves_on() -> None:
    formatter = TextFormatter()
    lines = [formatter.format(record(created=seconds)) for seconds in (0.999, 1.0, 1.25, 0.0)]
    assert [line[17:23] for line in lines] == ["00.999", "01.000", "01.250", "00.000"]


def test_another_logger_keeps_its_name() -> None:
    made = logging.makeLogRecord({"name": "pynetdicom.acse", "levelname": "WARNING", "msg": "x"})
    assert " WARNING pynetdicom.acse  x" in TextFormatter().format(made)


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
def test_no_value_can_forge_a_line(formatter: logging.Formatter) -> None:
    for made in (record(EVIL), record("x", value=EVIL), record("x", value=[EVIL])):
        line = formatter.format(made)
        assert line.isprintable()
        assert "fake" in line


@pytest.mark.parametrize(("value", "shown"), [("a=b", '"a=b"'), ('"', '"\\""'), ("\\", '"\\\\"'), ("é", '"é"')])
def test_values_that_could_be_misread_are_quoted(value: str, shown: str) -> None:
    assert TextFormatter().format(record(value=value)).endswith(f"value={shown}")


def test_a_traceback_follows_indented() -> None:
    lines = TextFormatter().format(error_record(ValueError("x\n2026 INFO fake\x1b"))).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in lines[1:])


def test_json_line() -> None:
    made = record("stored", created=1767268800.5, sop_instance_uid="1.2", level="mine", path=Path("/x"))
    assert json.loads(JSONFormatter().format(made)) == {
        "time": "2026-01-01T12:00:00.500+00:00",
        "level": "info",
        "logger": "pacs_server.net.association",
        "message": "stored",
        "sop_instance_uid": "1.2",
        "level_": "mine",
        "path": "/x",
    }


def test_json_holds_the_traceback() -> None:
    line = JSONFormatter().format(error_record(ValueError("x")))
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("ValueError: x")


def test_a_thread_that_fails_is_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", thread_failed)
    for work in (lambda: 1 / 0, sys.exit):
        thread = threading.Thread(target=work, name="fragile")
        thread.start()
        thread.join()
    [record] = caplog.records
    assert (record.levelname, record.message, record.__dict__["work"]) == (
        "CRITICAL", "thread failed unexpectedly", "fragile",
    )  # fmt: skip
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_level_and_console(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LoggingConfig(level="warning"))
    log.info("not this")
    log.warning("but this")
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "net.association  but this" in printed


def test_the_level_changes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LoggingConfig(level="warning"))
    set_level("debug")
    log.debug("now this")
    assert "DEBUG net.association  now this" in capsys.readouterr().err


def test_configure_again_replaces(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "b" / "1.log", tmp_path / "2.log"
    configure(LoggingConfig(file=first))
    configure(LoggingConfig(file=second, format="json"))
    log.info("once")
    printed = capsys.readouterr().err
    assert printed.count("once") == 1
    assert first.read_text() == ""
    assert json.loads(second.read_text())["message"] == "once"


def test_console_and_file_share_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(TextFormatter, "_line", lambda self, record: made.append(record.getMessage()) or "the line")
    configure(LoggingConfig(file=tmp_path / "x.log"))
    log.info("once")
    assert made == ["once"]
    assert capsys.readouterr().err == (tmp_path / "x.log").read_text() == "the line\n"


def test_without_console(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    configure(LoggingConfig(file=tmp_path / "x.log"), console=False)
    log.info("there")
    printed = capsys.readouterr().err
    assert printed == ""
    assert "there" in (tmp_path / "x.log").read_text()


def test_an_impossible_file_keeps_the_old_set_up(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    configure(LoggingConfig(level="info"))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=re.escape("logging.file: ")):
        configure(LoggingConfig(file=tmp_path / "file" / "x.log"))
    log.info("still")
    printed = capsys.readouterr().err
    assert "still" in printed


def test_rotation(tmp_path: Path) -> None:
    file, moved = tmp_path / "x.log", tmp_path / "x.log.1"
    configure(LoggingConfig(file=file), console=False)
    log.info("one")
    file.rename(moved)
    reopen()
    assert file.exists()
    log.info("two")
    file.rename(tmp_path / "x.log.2")
    log.info("three")
    assert ("one" in moved.read_text(), "three" in file.read_text()) == (True, True)


def test_a_full_disk_is_said_once_and_harms_nobody(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    file.symlink_to("/dev/full")
    configure(LoggingConfig(file=file))
    for number in range(3):
        log.info("line %d", number)
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if " line " not in line] == [
        f"pacs-server: {file} cannot be written: No space left on device"
    ]
    assert len(shown) == 4
    handler = next(one for one in logging.getLogger().handlers if getattr(one, "baseFilename", "") == str(file))
    with pytest.raises(OSError, match="No space left"):  # there is still something to be written
        handler.close()


def test_losing_the_directory_harms_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    folder = tmp_path / "logs"
    configure(LoggingConfig(file=folder / "x.log"))
    (folder / "x.log").unlink()
    folder.rmdir()
    log.info("one")
    reopen()
    log.info("two")
    folder.mkdir()
    log.info("three")
    printed = capsys.readouterr().err
    assert [word in printed for word in ("one", "two", "three")] == [True] * 3
    assert "three" in (folder / "x.log").read_text()


def test_other_libraries_are_quiet(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    # Whoever embeds the server may have set this.
    caplog.set_level(logging.DEBUG)
    configure(LoggingConfig(level="debug"))
    logging.getLogger("httpx2").info("HTTP Request: GET http://127.0.0.1/studies?PatientName=Doe")
    logging.getLogger("httpcore2.http11").debug("send_request_headers.started chatter")
    logging.getLogger("pynetdicom.acse").info("chatter")
    logging.getLogger("pynetdicom.acse").warning("odd")
    # It says what is wrong with a value, and quotes it.
    logging.getLogger("pydicom").warning("Invalid value for VR DA: 'Doe^Jo'")
    printed = capsys.readouterr().err
    assert "chatter" not in printed
    assert "WARNING pynetdicom.acse  odd" in printed
    assert "Doe" not in printed
