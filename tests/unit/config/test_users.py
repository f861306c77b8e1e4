"""The file of users, and the check of passwords: right, wrong, and too often wrong."""

import os
import threading
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from servers import eventually

from pacs_server.config import users
from pacs_server.config.load import check_filesystem, load
from pacs_server.config.users import Failures, Users, Verdict, add_user, read_users, remove_user, set_password
from pacs_server.errors import ConfigError, UserError

PASSWORD = "correct horse"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Clock:
    """Time that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "users"


@pytest.fixture
def known(path: Path) -> Path:
    add_user(path, "anna", PASSWORD)
    return path


def check(who: Users, path: Path, name: str = "anna", password: str = PASSWORD, address: str = "10.0.0.1") -> Verdict:
    return who.check(path, name, password.encode(), address)


# --- the file ---


def test_a_user_is_added_as_a_hash_for_the_owner_only(known: Path) -> None:
    assert known.read_text().startswith("anna:$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in known.read_text()
    assert known.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in known.parent.iterdir()] == ["users"]


def test_the_same_password_has_another_hash(known: Path) -> None:
    add_user(known, "bert", PASSWORD)
    hashes = read_users(known)
    assert set(hashes) == {"anna", "bert"}
    assert hashes["anna"] != hashes["bert"]


def test_users_are_removed_and_get_other_passwords(known: Path) -> None:
    add_user(known, "bert", PASSWORD)
    before = read_users(known)
    set_password(known, "bert", "other password")
    assert read_users(known)["anna"] == before["anna"]
    assert check(Users(), known, "bert", "other password") is Verdict.RIGHT
    assert check(Users(), known, "bert") is Verdict.WRONG
    remove_user(known, "bert")
    assert read_users(known) == {"anna": before["anna"]}


def test_what_cannot_be_changed_is_refused_and_changes_nothing(known: Path) -> None:
    before = known.read_bytes()
    for wrong, says in (
        (lambda: add_user(known, "anna", PASSWORD), "there is a user anna already"),
        (lambda: add_user(known, "bert", "7 chars"), "a password has 8 to 1024 characters"),
        (lambda: add_user(known, "bert", "x" * 1025), "a password has 8 to 1024 characters"),
        (lambda: add_user(known, "bert", "\udcff" * 8), "the password is not UTF-8 text"),
        (lambda: set_password(known, "bert", PASSWORD), "there is no user bert"),
        (lambda: remove_user(known, "bert"), "there is no user bert"),
        (lambda: remove_user(known, "\x1b[2J"), "there is no user of that name"),
    ):
        with pytest.raises(UserError, match=f"^{says}$"):
            wrong()
    assert known.read_bytes() == before
    assert [file.name for file in known.parent.iterdir()] == ["users"]


@pytest.mark.parametrize("name", ["", " a", "a ", "a:b", "#a", "a\nb", "a\0", "a" * 65, "\udcff"])
def test_names_that_nobody_can_have(path: Path, name: str) -> None:
    with pytest.raises(UserError, match="a user name has 1 to 64"):
        add_user(path, name, PASSWORD)


def test_names_may_be_of_any_script(path: Path) -> None:
    for name in ("a", "Jörg Müller", "山田", "DOMAIN\\me", "me@example.org"):
        add_user(path, name, PASSWORD)
        assert check(Users(), path, name) is Verdict.RIGHT


@pytest.mark.parametrize(
    "line",
    [
        "anna",
        "anna:secret",
        ":" + CHEAP.hash("x"),
        "an\x1bna:" + CHEAP.hash("x"),
        "anna:" + CHEAP.hash("x").replace("argon2id", "argon2i"),
        # What one check may take is bounded also for hashes that came from elsewhere.
        "anna:" + CHEAP.hash("x").replace("m=8,", "m=4194304,"),
        "anna:" + CHEAP.hash("x").replace("t=1,", "t=4000,"),
        f"anna:{CHEAP.hash('x')}\nanna:{CHEAP.hash('y')}",
    ],
    # Hashes are salted: without names the tests would have other ones at each run.
    ids=["no hash", "no hash but a password", "no name", "control character", "argon2i", "memory", "time", "twice"],
)
def test_lines_that_cannot_be_understood_are_named_and_not_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"# by hand\n\n{line}\n")
    with pytest.raises(UserError, match=f"{file} line [34] ") as caught:
        read_users(file)
    assert "secret" not in str(caught.value)
    assert "argon2id$" not in str(caught.value)
    assert check(Users(), file, "anna", "x") is Verdict.WRONG


def test_a_file_that_is_not_utf_8_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "users"
    file.write_bytes(b"j\xf6rg:" + CHEAP.hash("x").encode())
    with pytest.raises(UserError, match="line 1"):
        read_users(file)
    monkeypatch.setattr(users, "_MAX_BYTES", 20)
    with pytest.raises(UserError, match="is larger than 20 bytes"):
        read_users(file)


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_users(tmp_path)
    with pytest.raises(UserError, match="cannot be"):
        add_user(tmp_path, "anna", PASSWORD)


def test_the_server_does_not_start_on_a_file_that_it_cannot_use(known: Path) -> None:
    paths = {"storage.directory": known.parent / "archive", "database.path": known.parent / "pacs.db"}
    overrides = {"user_identity.users_path": known, "user_identity.mode": "required", **paths}
    check_filesystem(load(None, environ={}, overrides=overrides))
    for wrong, says in ((b"anna:secret\n", "line 1 is not a user name"), (b"\xff", "line 1 is not a user name")):
        known.write_bytes(wrong)
        with pytest.raises(ConfigError, match=f"^command line: user_identity.users_path: {known} {says}"):
            check_filesystem(load(None, environ={}, overrides=overrides))
    known.unlink()  # the first user makes it
    check_filesystem(load(None, environ={}, overrides=overrides))
    overrides["user_identity.users_path"] = known.parent
    with pytest.raises(ConfigError, match="Is a directory"):
        check_filesystem(load(None, environ={}, overrides=overrides))
    check_filesystem(load(None, environ={}, overrides=overrides | {"user_identity.mode": "off"}))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = known.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be changed: No space left"):
        add_user(known, "bert", PASSWORD)
    assert known.read_bytes() == before
    assert [file.name for file in known.parent.iterdir()] == ["users"]


def test_the_file_and_its_directory_are_synced_around_the_replacement(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    add_user(known, "bert", PASSWORD)
    assert calls == ["fsync", "replace", "fsync"]


def test_two_who_add_at_the_same_time_do_not_undo_each_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_HASHER", CHEAP)
    threads = [threading.Thread(target=add_user, args=(path, f"user{n}", PASSWORD)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(read_users(path)) == 16


# --- the check ---


def test_right_wrong_and_unknown(known: Path) -> None:
    who = Users()
    assert check(who, known) is Verdict.RIGHT
    assert check(who, known, password="wrong horse") is Verdict.WRONG
    assert check(who, known, password="") is Verdict.WRONG
    assert check(who, known, name="Anna") is Verdict.WRONG
    assert check(who, known, name="anna:x") is Verdict.WRONG
    assert check(who, known.with_name("elsewhere")) is Verdict.WRONG


def test_a_change_counts_at_once(known: Path) -> None:
    who = Users()
    assert check(who, known, "bert") is Verdict.WRONG
    add_user(known, "bert", PASSWORD)
    assert check(who, known, "bert") is Verdict.RIGHT
    set_password(known, "bert", "other password")
    assert check(who, known, "bert") is Verdict.WRONG
    remove_user(known, "anna")
    assert check(who, known) is Verdict.WRONG
    known.unlink()
    assert check(who, known, "bert", "other password") is Verdict.WRONG


def test_a_name_that_is_not_known_costs_a_check_as_well(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    matches = users._matches
    monkeypatch.setattr(
        users, "_matches", lambda hashed, password: (checked.append(hashed), matches(hashed, password))[1]
    )
    who = Users()
    for name in ("anna", "nobody", "no:body"):
        check(who, known, name, "wrong horse")
    assert [hashed.rpartition("$")[0].rpartition("$")[0] for hashed in checked] == [
        "$argon2id$v=19$m=19456,t=2,p=1"
    ] * 3


def test_memory_is_bounded_however_many_ask(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, most, lock, go = 0, 0, threading.Lock(), threading.Event()

    def matches(hashed: str, password: bytes) -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        assert go.wait(30)
        with lock:
            now -= 1
        return True

    monkeypatch.setattr(users, "_matches", matches)
    who, verdicts = Users(), []
    threads = [threading.Thread(target=lambda: verdicts.append(check(who, known))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: now == 2)
    go.set()
    for thread in threads:
        thread.join(30)
    assert most == 2
    assert verdicts == [Verdict.RIGHT] * 8


def test_who_waits_too_long_for_a_turn_is_put_off(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_TURN_SECONDS", 0.01)
    go = threading.Event()
    monkeypatch.setattr(users, "_matches", lambda hashed, password: go.wait(30))
    who = Users()
    busy = [threading.Thread(target=check, args=(who, known)) for _ in range(2)]
    for thread in busy:
        thread.start()
    assert eventually(lambda: who._turns._value == 0)
    assert check(who, known) is Verdict.NOT_NOW
    go.set()
    for thread in busy:
        thread.join(30)
    assert check(who, known) is Verdict.RIGHT


# --- too often wrong ---


@pytest.fixture
def cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Users anna and bert whose hashes cost nothing."""
    monkeypatch.setattr(users, "_matches", lambda hashed, password: password == PASSWORD.encode())
    file = tmp_path / "users"
    file.write_text(f"anna:{CHEAP.hash('x')}\nbert:{CHEAP.hash('x')}\n")
    return file


def test_one_device_with_an_old_password_stops_only_itself(cheap: Path) -> None:
    clock = Clock()
    who = Users(clock=clock)
    assert [check(who, cheap, password="old") for _ in range(6)] == [Verdict.WRONG] * 5 + [Verdict.NOT_NOW]
    assert check(who, cheap) is Verdict.NOT_NOW
    assert check(who, cheap, "bert") is Verdict.RIGHT
    assert check(who, cheap, address="10.0.0.2") is Verdict.RIGHT
    for _ in range(600):  # it goes on, once a second, and its neighbours behind the same address do as well
        clock.now += 1
        check(who, cheap, password="old")
        assert check(who, cheap, "bert") is Verdict.RIGHT
    clock.now += 60
    assert check(who, cheap) is Verdict.RIGHT


def test_trying_many_names_does_not_help(cheap: Path) -> None:
    clock = Clock()
    who = Users(clock=clock)
    verdicts = [check(who, cheap, f"name{n}", "x") for n in range(100)]
    assert verdicts == [Verdict.WRONG] * 20 + [Verdict.NOT_NOW] * 80
    assert check(who, cheap, address="10.0.0.2") is Verdict.RIGHT
    clock.now += 3.5
    assert check(who, cheap) is Verdict.RIGHT


def test_a_crowd_that_comes_at_once_is_stopped_as_well(cheap: Path) -> None:
    who, verdicts = Users(clock=Clock()), []
    threads = [threading.Thread(target=lambda: verdicts.append(check(who, cheap, password="x"))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # Those whose turn it is at the same moment do not see each other.
    assert 5 <= verdicts.count(Verdict.WRONG) <= 6
    assert len(verdicts) == 40


def test_right_passwords_are_never_too_many(cheap: Path) -> None:
    who = Users(clock=Clock())
    assert {check(who, cheap) for _ in range(100)} == {Verdict.RIGHT}


def test_the_table_of_failures_is_bounded() -> None:
    failures = Failures(1, 60.0, most=3, clock=Clock())
    for key in "abcd":
        failures.add(key)
    assert [failures.too_many(key) for key in "abcd"] == [False, True, True, True]
    failures.add("b")
    failures.add("e")
    assert [failures.too_many(key) for key in "bcde"] == [True, False, True, True]


@given(st.integers(1, 9), st.lists(st.floats(0, 5), max_size=60))
def test_no_more_than_a_burst_and_the_pace_are_let_through(burst: int, waits: list[float]) -> None:
    clock = Clock()
    failures = Failures(burst, 2.0, clock=clock)
    tried = 0
    for wait in waits:
        clock.now += wait
        if not failures.too_many("key"):
            failures.add("key")
            tried += 1
        assert tried <= burst + sum(waits) / 2.0 + 1e-6
    clock.now += 2.0 * burst + 1e-6
    assert not failures.too_many("key")
