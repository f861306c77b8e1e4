"""The check of passwords: right, wrong, and too often wrong."""

import threading
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from hypothesis import given
from hypothesis import strategies as st
from servers import eventually

from pacs_server.config import passwords
from pacs_server.config.passwords import FailureLimit, PasswordChecker, Verdict
from pacs_server.config.users import add_user, remove_user, set_password

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


def check(
    who: PasswordChecker, path: Path, name: str = "anna", password: str = PASSWORD, address: str = "10.0.0.1"
) -> Verdict:
    return who.check(path, name, password.encode(), address)


@pytest.mark.slow
def test_right_wrong_and_unknown(known: Path) -> None:
    who = PasswordChecker()
    assert check(who, known) is Verdict.RIGHT
    assert check(who, known, password="wrong horse") is Verdict.WRONG
    assert check(who, known, password="") is Verdict.WRONG
    assert check(who, known, name="Anna") is Verdict.WRONG
    assert check(who, known, name="anna:x") is Verdict.WRONG
    assert check(who, known.with_name("elsewhere")) is Verdict.WRONG


@pytest.mark.slow
def test_a_change_counts_at_once(known: Path) -> None:
    who = PasswordChecker()
    assert check(who, known, "bert") is Verdict.WRONG
    add_user(known, "bert", PASSWORD)
    assert check(who, known, "bert") is Verdict.RIGHT
    set_password(known, "bert", "other password")
    assert check(who, known, "bert") is Verdict.WRONG
    remove_user(known, "anna")
    assert check(who, known) is Verdict.WRONG
    known.unlink()
    assert check(who, known, "bert", "other password") is Verdict.WRONG


@pytest.mark.slow
def test_a_name_that_is_not_known_costs_a_check_as_well(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    matches = passwords._matches
    monkeypatch.setattr(
        passwords, "_matches", lambda hashed, password: (checked.append(hashed), matches(hashed, password))[1]
    )
    who = PasswordChecker()
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

    monkeypatch.setattr(passwords, "_matches", matches)
    who, verdicts = PasswordChecker(), []
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
    monkeypatch.setattr(passwords, "_TURN_SECONDS", 0.01)
    go = threading.Event()
    monkeypatch.setattr(passwords, "_matches", lambda hashed, password: go.wait(30))
    who = PasswordChecker()
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
    """The users anna and bert whose hashes cost nothing."""
    monkeypatch.setattr(passwords, "_matches", lambda hashed, password: password == PASSWORD.encode())
    file = tmp_path / "users"
    file.write_text(f"anna:{CHEAP.hash('x')}\nbert:{CHEAP.hash('x')}\n")
    return file


def test_one_device_with_an_old_password_stops_only_itself(cheap: Path) -> None:
    clock = Clock()
    who = PasswordChecker(clock=clock)
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
    who = PasswordChecker(clock=clock)
    verdicts = [check(who, cheap, f"name{n}", "x") for n in range(100)]
    assert verdicts == [Verdict.WRONG] * 20 + [Verdict.NOT_NOW] * 80
    assert check(who, cheap, address="10.0.0.2") is Verdict.RIGHT
    clock.now += 3.5
    assert check(who, cheap) is Verdict.RIGHT


def test_a_crowd_that_comes_at_once_is_stopped_as_well(cheap: Path) -> None:
    who, verdicts = PasswordChecker(clock=Clock()), []
    threads = [threading.Thread(target=lambda: verdicts.append(check(who, cheap, password="x"))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    # Those whose turn it is at the same moment do not see each other.
    assert 5 <= verdicts.count(Verdict.WRONG) <= 6
    assert len(verdicts) == 40


def test_right_passwords_are_never_too_many(cheap: Path) -> None:
    who = PasswordChecker(clock=Clock())
    assert {check(who, cheap) for _ in range(100)} == {Verdict.RIGHT}


def test_the_table_of_failures_is_bounded() -> None:
    failures = FailureLimit(1, 60.0, most=3, clock=Clock())
    for key in "abcd":
        failures.add(key)
    assert [failures.too_many(key) for key in "abcd"] == [False, True, True, True]
    failures.add("b")
    failures.add("e")
    assert [failures.too_many(key) for key in "bcde"] == [True, False, True, True]


@given(st.integers(1, 9), st.lists(st.floats(0, 5), max_size=60))
def test_no_more_than_a_burst_and_the_pace_are_let_through(burst: int, waits: list[float]) -> None:
    clock = Clock()
    failures = FailureLimit(burst, 2.0, clock=clock)
    tried = 0
    for wait in waits:
        clock.now += wait
        if not failures.too_many("key"):
            failures.add("key")
            tried += 1
        assert tried <= burst + sum(waits) / 2.0 + 1e-6
    clock.now += 2.0 * burst + 1e-6
    assert not failures.too_many("key")


def test_addresses_of_one_subnet_of_ipv6_are_counted_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_NOBODY", CHEAP.hash("x"))
    who = PasswordChecker(clock=Clock())
    for number in range(5):
        assert check(who, path, address=f"2001:db8:0:1::{number}") is Verdict.WRONG
    assert check(who, path, address="2001:db8:0:1:ffff::1%eth0") is Verdict.NOT_NOW
    assert check(who, path, address="2001:db8:0:2::1") is Verdict.WRONG
    for number in range(4):
        assert check(who, path, address=f"10.0.0.{number}") is Verdict.WRONG


def test_a_file_that_cannot_be_read_may_have_users(path: Path) -> None:
    who = PasswordChecker()
    assert not who.anybody(path)
    path.parent.mkdir()
    path.write_text("# nobody yet\n")
    assert not who.anybody(path)
    path.write_text("anna:secret\n")
    assert who.anybody(path)
    assert who.find(path, "anna") is None
