"""What the server makes is for its own user only, and what exists stays as it is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs_server.config.cautions import cautions
from pacs_server.config.load import load
from pacs_server.index.database import Database
from pacs_server.kit.private_files import make_directory, opener


@pytest.fixture(autouse=True, params=[0o000, 0o022, 0o077], ids=oct)
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_with_those_above_them(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old").chmod(0o755)
    for _ in range(2):
        make_directory(tmp_path / "old" / "a" / "b")
    assert [mode(tmp_path / part) for part in ("old", "old/a", "old/a/b")] == [0o755, 0o700, 0o700]


def test_a_file_in_the_way_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        make_directory(tmp_path / "a" / "b")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "old").chmod(0o644)
    for name in ("old", "new"):
        with open(tmp_path / name, "w", opener=opener) as file:
            file.write("text")
    assert [mode(tmp_path / name) for name in ("old", "new")] == [0o644, 0o600]
    assert (tmp_path / "new").read_text() == "text"


@pytest.mark.slow
def test_sqlite_with_its_side_files(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'pacs.db'}")
    database.migrate()
    with database.connect():
        assert {path.name: mode(path) for path in tmp_path.iterdir()} == dict.fromkeys(
            ("pacs.db", "pacs.db-wal", "pacs.db-shm"), 0o600
        )
    database.close()


@pytest.mark.slow
def test_sqlite_by_a_uri_makes_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database(f"sqlite:///file:{tmp_path}/pacs.db?mode=rwc&uri=true")
    database.migrate()
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["pacs.db"]


@pytest.mark.parametrize(
    ("key", "name", "kind"),
    [
        ("storage.directory", "archive", "directory"),
        ("database.path", "pacs.db", "file"),
        ("audit.directory", "audit", "directory"),
        ("logging.file", "pacs.log", "file"),
    ],
)
def test_what_every_user_may_look_into_is_named(tmp_path: Path, key: str, name: str, kind: str) -> None:
    settings = tmp_path / "pacs.yaml"
    settings.write_text("logging: {file: pacs.log}\n")
    settings.chmod(0o600)
    place = tmp_path / name
    _ = place.mkdir() if kind == "directory" else place.touch()
    for bits, told in ((0o750, False), (0o751, True), (0o754, True)):
        place.chmod(bits)
        warning = f"{key}: every user of this machine may look into {place}: take that away with chmod o-rwx"
        assert cautions(load(settings, environ={}, overrides={})) == ([warning] if told else [])
