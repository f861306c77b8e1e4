"""`pacs-server user`: users come and go, passwords are asked for and never shown, changes leave a trace."""

import os
import pwd
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pacs_server.audit.events import EventID, EventType
from pacs_server.audit.recorder import local_user
from pacs_server.audit.trail import AuditTrail, open_trail
from pacs_server.cli import users as cli_users
from pacs_server.config import AuditConfig
from pacs_server.config.passwords import PasswordChecker, Verdict
from pacs_server.config.users import add_user, read_users
from pacs_server.dicom.subject import Subject

PASSWORD = "correct horse"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run: Any) -> Run:
    return partial(run, "user")


@pytest.fixture
def typed(run: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed at the terminal, prompt by prompt."""
    answers: list[str] = []
    run.func.at_a_terminal()
    monkeypatch.setattr(cli_users.getpass, "getpass", lambda prompt: answers.pop(0))
    return answers


def has(path: Path, name: str, password: str) -> bool:
    return PasswordChecker().check(path, name, password.encode(), "10.0.0.1") is Verdict.RIGHT


def events(tmp_path: Path) -> list[tuple[str, str]]:
    """What the audit trail says of users: who did it, and what."""
    with open_trail(AuditConfig(directory=tmp_path / "audit")) as trail:
        found = [record.event for record, _ in trail.records_after(None)]
    kept = [event for event in found if event.event_type is EventType.USER_SECURITY_ATTRIBUTES_CHANGED]
    assert all(event.event_id is EventID.SECURITY_ALERT for event in kept)
    return [(event.participants[0].user_id, event.detail) for event in kept]


@pytest.mark.slow
def test_a_password_is_typed_twice(run: Run, typed: list[str], tmp_path: Path) -> None:
    typed += [PASSWORD, PASSWORD]
    made = f"the file of users is new: {tmp_path}/users (default)\n"
    assert run("add", "anna") == (0, "user anna added as contributor\n", made)
    typed += [PASSWORD, PASSWORD]
    assert run("add", "jo") == (0, "user jo added as contributor\n", "")
    assert has(tmp_path / "users", "anna", PASSWORD)
    typed.append("short")  # it is not asked for again
    assert run("passwd", "anna") == (2, "", "pacs-server: a password has 8 to 1024 characters\n")
    typed += ["another word", "an other word"]
    assert run("passwd", "anna") == (1, "", "pacs-server: the two passwords differ, nothing was changed\n")
    typed += ["another word"] * 2
    assert run("passwd", "anna") == (0, "user anna given another password\n", "")
    assert has(tmp_path / "users", "anna", "another word")
    assert not has(tmp_path / "users", "anna", PASSWORD)


@pytest.mark.slow
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nmore\n"])
def test_a_password_comes_from_standard_input(run: Run, tmp_path: Path, end: bytes) -> None:
    code, _, _ = run("add", "Jörg", "--password-stdin", typed="pässwörd".encode() + end)
    assert code == 0
    assert has(tmp_path / "users", "Jörg", "pässwörd")


@pytest.mark.slow
def test_list_and_remove(run: Run, tmp_path: Path) -> None:
    (tmp_path / "users").touch()
    assert run("list") == (0, "USER\tROLE\tLIMITS\n", "")
    for name in ("zoe", "anna"):
        assert run("add", name, "--password-stdin", typed=PASSWORD.encode())[0] == 0
    assert run("list") == (0, "USER\tROLE\tLIMITS\nanna\tcontributor\t-\nzoe\tcontributor\t-\n", "")
    assert run("remove", "zoe") == (0, "user zoe removed\n", "")
    assert run("list") == (0, "USER\tROLE\tLIMITS\nanna\tcontributor\t-\n", "")


@pytest.mark.slow
def test_users_have_roles_and_limits(run: Run, tmp_path: Path) -> None:
    limited = ("--role", "reader", "--modality", "CT", "--modality", "MR", "--ae", "CT1", "--patient", "4711^^^KH")
    added = run("add", "anna", *limited, "--password-stdin", typed=PASSWORD.encode())
    assert added[:2] == (0, "user anna added as reader limited to CT, MR, CT1, 1 patients\n")
    shown = "anna\treader\tmodality CT, MR; AE CT1; patient 4711^^^KH\n"
    assert run("list") == (0, f"USER\tROLE\tLIMITS\n{shown}", "")
    assert run("role", "anna", "administrator") == (0, "user anna made administrator\n", "")
    assert run("list") == (0, "USER\tROLE\tLIMITS\nanna\tadministrator\t-\n", "")
    assert has(tmp_path / "users", "anna", PASSWORD)
    assert [detail for _, detail in events(tmp_path)] == [
        "user anna added as reader limited to CT, MR, CT1, 1 patients",
        "user anna made administrator",
    ]
    with open_trail(AuditConfig(directory=tmp_path / "audit")) as trail:
        [added, made] = [record.event for record, _ in trail.records_after(None)]
    assert (added.subjects, made.subjects) == ((Subject("4711", "KH"),), ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "stdin", "ends", "says"),
    [
        (["add", "anna", "--password-stdin"], b"short\n", 2, "a password has 8 to 1024 characters"),
        (["add", "anna", "--password-stdin"], b"", 2, "a password has 8 to 1024 characters"),
        (["passwd", "known", "--password-stdin"], b"short\n", 2, "a password has 8 to 1024 characters"),
        (["add", "anna", "--password-stdin"], b"p\xe4sswords\n", 2, "the password is not UTF-8 text"),
        (["add", "anna"], b"", 2, "there is no terminal to ask for the password, use --password-stdin"),
        (["add", "a:b"], b"", 2, "a user name has 1 to 64 printable characters"),
        (["add", "known", "--password-stdin"], PASSWORD.encode(), 1, "there is a user known already"),
        (["passwd", "anna", "--password-stdin"], PASSWORD.encode(), 1, "there is no user anna"),
        (["remove", "anna"], b"", 1, "there is no user anna"),
        (["role", "anna", "reader"], b"", 1, "there is no user anna"),
        (["role", "known", "boss"], b"", 2, "a role is one of reader, contributor, operator, administrator"),
        (["add", "anna", "--role", "operator", "--ae", "A"], b"", 2, "only a reader or contributor can have limits"),
        (["add", "anna", "--patient", "^^^KH"], b"", 2, "a limit is a printable text"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_leaves_no_trace(
    run: Run, tmp_path: Path, arguments: list[str], stdin: bytes, ends: int, says: str
) -> None:
    add_user(tmp_path / "users", "known", PASSWORD)
    before = (tmp_path / "users").read_bytes()
    code, out, err = run(*arguments, typed=stdin)
    assert (code, out) == (ends, "")
    assert err.startswith(f"pacs-server: {says}")
    assert err.count("\n") == 1
    assert (tmp_path / "users").read_bytes() == before
    assert events(tmp_path) == []


@pytest.mark.parametrize("command", [["list"], ["remove", "anna"], ["passwd", "anna", "--password-stdin"]])
def test_without_a_file_of_users_nothing_is_made(run: Run, tmp_path: Path, command: list[str]) -> None:
    code, out, error = run(*command, typed=PASSWORD.encode())
    assert (code, out) == (2, "")
    assert error == (
        f"pacs-server: there is no file of users: {tmp_path}/users (default) is not there, user add makes it. "
        "No configuration file was read; name it with --config FILE or with the variable PACS_SERVER_CONFIG\n"
    )
    assert not (tmp_path / "users").exists()
    assert not (tmp_path / "audit").exists()


def test_a_password_is_no_argument(run: Run, tmp_path: Path) -> None:
    assert run("add", "anna", PASSWORD)[0] == 2
    assert run("add", "anna", "--password", PASSWORD)[0] == 2
    assert not (tmp_path / "users").exists()


@pytest.mark.slow
def test_changes_are_in_the_audit_trail_without_passwords(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "somebody else")
    operator = pwd.getpwuid(os.getuid()).pw_name
    run("add", "anna", "--password-stdin", typed=PASSWORD.encode())
    run("passwd", "anna", "--password-stdin", typed=b"another word")
    run("remove", "anna")
    assert events(tmp_path) == [
        (operator, "user anna added as contributor"),
        (operator, "user anna given another password"),
        (operator, "user anna removed"),
    ]
    kept = b"".join(file.read_bytes() for file in (tmp_path / "audit").rglob("*") if file.is_file())
    assert not any(text in kept for text in (PASSWORD.encode(), b"another word", b"argon2"))


def test_without_an_audit_trail_nothing_is_changed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("in the way")
    code, _, err = run("add", "anna", "--password-stdin", typed=PASSWORD.encode())
    assert code == 1
    assert "audit" in err
    assert not (tmp_path / "users").exists()


def test_the_audit_trail_may_be_off(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACS_SERVER__AUDIT__ENABLED", "false")
    monkeypatch.setattr(AuditTrail, "write", lambda *_: pytest.fail("written"))
    assert run("add", "anna", "--password-stdin", typed=PASSWORD.encode())[0] == 0
    assert set(read_users(tmp_path / "users")) == {"anna"}
    assert not (tmp_path / "audit").exists()


def test_the_operator_may_have_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(uid: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nameless)
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert local_user().user_id == str(os.getuid())
