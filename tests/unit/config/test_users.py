"""The file of users: who is in it, and how it is changed."""

import os
import threading
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from pacs_server.config import users
from pacs_server.config.disk import check_filesystem
from pacs_server.config.load import load
from pacs_server.config.passwords import PasswordChecker, Verdict
from pacs_server.config.rights import Rights, User
from pacs_server.config.secrets import readable_by_others
from pacs_server.config.users import add_user, read_users, remove_user, set_password, set_rights
from pacs_server.errors import ConfigError, UserError

PASSWORD = "correct horse"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "users"


@pytest.fixture
def known(path: Path) -> Path:
    add_user(path, "anna", PASSWORD)
    return path


def check(path: Path, name: str, password: str = PASSWORD) -> Verdict:
    return PasswordChecker().check(path, name, password.encode(), "10.0.0.1")


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


@pytest.mark.slow
def test_users_are_removed_and_get_other_passwords(known: Path) -> None:
    add_user(known, "bert", PASSWORD)
    before = read_users(known)
    set_password(known, "bert", "other password")
    assert read_users(known)["anna"] == before["anna"]
    assert check(known, "bert", "other password") is Verdict.RIGHT
    assert check(known, "bert") is Verdict.WRONG
    remove_user(known, "bert")
    assert read_users(known) == {"anna": before["anna"]}


@pytest.mark.slow
def test_rights_stand_behind_the_hash_and_survive_a_change(path: Path) -> None:
    rights = Rights("reader", ("CT", "MR"), ("CT:1",), (('47:"11', "KH"), ("Ä1", "")))
    add_user(path, "anna", PASSWORD, rights)
    add_user(path, "bert", PASSWORD)
    assert read_users(path)["anna"].rights == rights
    # A line without rights is what earlier versions wrote and read, and its user is what users were then.
    old = path.read_text().splitlines()[1]
    assert old == f"bert:{read_users(path)['bert'].hashed}"
    assert read_users(path)["bert"].rights == Rights("contributor")
    set_password(path, "anna", "other password")
    assert read_users(path)["anna"].rights == rights
    assert check(path, "anna", "other password") is Verdict.RIGHT
    set_rights(path, "anna", Rights("administrator"))
    assert read_users(path)["anna"].rights == Rights("administrator")
    assert check(path, "anna", "other password") is Verdict.RIGHT


def test_the_stamp_changes_with_password_and_rights() -> None:
    users = [User("h"), User("g"), User("h", Rights("reader")), User("h", Rights("reader", ("CT",)))]
    assert len({user.stamp for user in users}) == 4
    assert User("h").stamp == User("h", Rights("contributor")).stamp


@pytest.mark.slow
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


@pytest.mark.slow
def test_names_may_be_of_any_script(path: Path) -> None:
    for name in ("a", "Jörg Müller", "山田", "DOMAIN\\me", "me@example.org"):
        add_user(path, name, PASSWORD)
        assert check(path, name) is Verdict.RIGHT


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
        f"anna:{CHEAP.hash('x')}:",
        f"anna:{CHEAP.hash('x')}:reader",
        f'anna:{CHEAP.hash("x")}:{{"role":"boss"}}',
        f'anna:{CHEAP.hash("x")}:{{"role":"operator","modalities":["CT"]}}',
        f'anna:{CHEAP.hash("x")}:{{"role":"reader","modalities":"CT"}}',
        f'anna:{CHEAP.hash("x")}:{{"right":"reader"}}',
        f'anna:{CHEAP.hash("x")}:{{"patients":["P1"]}}',
        f"anna:{CHEAP.hash('x')}:[]",
    ],
    # Hashes are salted: without names the tests would have other ones at each run.
    ids=[
        "no hash",
        "no hash but a password",
        "no name",
        "control character",
        "argon2i",
        "memory",
        "time",
        "twice",
        "nothing",
        "no JSON",
        "no role",
        "operator with limits",
        "no list",
        "unknown right",
        "no issuer",
        "no object",
    ],
)
def test_lines_that_cannot_be_understood_are_named_and_not_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "users"
    file.write_text(f"# by hand\n\n{line}\n")
    with pytest.raises(UserError, match=f"{file} line [34] ") as caught:
        read_users(file)
    assert "secret" not in str(caught.value)
    assert "argon2id$" not in str(caught.value)
    assert check(file, "anna", "x") is Verdict.WRONG


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
    off = {"user_identity.mode": "off", "web.enabled": False}
    check_filesystem(load(None, environ={}, overrides=overrides | off))
    # Users log in at the HTTP door, whatever peers have to do.
    with pytest.raises(ConfigError, match="Is a directory"):
        check_filesystem(load(None, environ={}, overrides=overrides | off | {"web.enabled": True}))


@pytest.mark.slow
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
    monkeypatch.setattr(users, "HASHER", CHEAP)
    threads = [threading.Thread(target=add_user, args=(path, f"user{n}", PASSWORD)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(read_users(path)) == 16


def test_the_secret_of_the_provider_has_to_be_there(tmp_path: Path) -> None:
    overrides = {
        "storage.directory": tmp_path / "archive",
        "database.path": tmp_path / "pacs.db",
        "web.public_url": "https://pacs.example.org",
        "web.oidc.issuer": "https://login.example.org",
        "web.oidc.client_id": "pacs",
        "web.oidc.client_secret_file": tmp_path / "secret",
    }
    with pytest.raises(ConfigError, match=r"web\.oidc\.client_secret_file: .* cannot be read: No such file"):
        check_filesystem(load(None, environ={}, overrides=overrides))
    (tmp_path / "secret").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        check_filesystem(load(None, environ={}, overrides=overrides))
    (tmp_path / "secret").write_text("a secret\n")
    (tmp_path / "secret").chmod(0o644)
    config = load(None, environ={}, overrides=overrides)
    check_filesystem(config)
    assert [each for each in readable_by_others(config) if "secret" in each]
