"""The importer: what it walks, how it counts, when it stops."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from trails import silent

from pacs_server.archive.archive import StoreOutcome
from pacs_server.audit.events import EventID
from pacs_server.audit.transfers import Arrivals
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.errors import (
    ConfigError,
    DuplicateInstance,
    IndexUnavailable,
    InvalidInstance,
    PacsError,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.intake.importer import ImportSummary, files_below, run_import
from pacs_server.services.store import Begin, Note, StoreService


def unheard() -> Arrivals:
    """Arrivals that no trail hears of."""
    return Arrivals(silent(), (), EventID.IMPORT)


class Store(StoreService):
    """Answers as told, by file name; everything else is stored."""

    def __init__(self, answers: dict[str, StoreOutcome | Exception | None] | None = None) -> None:
        self.answers = answers or {}
        self.seen: list[str] = []
        self.origins: list[Origin] = []

    def store_file(
        self, path: Path, origin: Origin, begin: Begin = lambda *_: None, note: Note = lambda _: None
    ) -> StoreOutcome | None:
        self.seen.append(path.name)
        self.origins.append(origin)
        answer = self.answers.get(path.name, StoreOutcome.STORED)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ignore(_: object) -> None:
    """No progress is shown, and nobody is told."""


def imported(
    store: Store, *paths: Path, progress: Callable[[Path], None] = ignore, tell: Callable[[str], None] = ignore
) -> ImportSummary:
    return run_import(paths, store, unheard(), progress=progress, tell=tell)


def walk(*paths: Path) -> list[str]:
    problems: list[Path] = []
    found = [str(path) for path in files_below(paths, lambda path, error: problems.append(path))]
    assert problems == []
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b/2", "b/10", "a/x/1", "c"):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return root


def test_folders_are_walked_in_order(tree: Path) -> None:
    names = [f"{tree}/{name}" for name in ("a/x/1", "b/10", "b/2", "c")]
    assert walk(tree) == names
    assert walk(tree / "c", tree / "a") == [names[3], names[0]]


def test_links_make_no_loop(tree: Path) -> None:
    (tree / "a" / "up").symlink_to(tree)
    (tree / "a" / "self").symlink_to(tree / "a" / "self")
    (tree / "a" / "x" / "sideways").symlink_to(tree / "b")
    (tree / "b" / "sideways").symlink_to(tree / "a" / "x")
    found = walk(tree)
    assert {os.path.realpath(path) for path in found} >= {str(tree / name) for name in ("a/x/1", "b/2", "b/10", "c")}
    assert len(found) < 12


def test_a_link_to_a_folder_is_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree / "b")
    assert walk(tmp_path / "link") == [f"{tmp_path}/link/10", f"{tmp_path}/link/2"]


def test_counts(tree: Path) -> None:
    store = Store(
        {
            "1": StoreOutcome.ALREADY_STORED,
            "10": None,
            "2": DuplicateInstance("other bytes are stored"),
        }
    )
    progress: list[Path] = []
    told: list[str] = []
    summary = imported(store, tree, progress=progress.append, tell=told.append)
    assert str(summary) == "stored 1, duplicate 1, rejected 1, skipped 1 (not DICOM)"
    assert told == [f"rejected {tree}/b/2: other bytes are stored"]
    assert len(progress) == 4
    assert summary.exit_code == 1


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (StoreOutcome.STORED, "stored 1, duplicate 0, rejected 0, skipped 0 (not DICOM)"),
        (StoreOutcome.REPLACED, "stored 1, duplicate 0, rejected 0, skipped 0 (not DICOM)"),
        (StoreOutcome.ALREADY_STORED, "stored 0, duplicate 1, rejected 0, skipped 0 (not DICOM)"),
        (StoreOutcome.DUPLICATE_IGNORED, "stored 0, duplicate 1, rejected 0, skipped 0 (not DICOM)"),
        (None, "stored 0, duplicate 0, rejected 0, skipped 1 (not DICOM)"),
    ],
)
def test_outcomes(tree: Path, outcome: StoreOutcome | None, text: str) -> None:
    summary = imported(Store({"c": outcome}), tree / "c")
    assert (str(summary), summary.exit_code) == (text, 0)


@pytest.mark.parametrize(
    "error", [InvalidInstance("x"), DuplicateInstance("x"), StorageUnavailable("x"), OSError(5, "x")]
)
def test_one_bad_file_is_one_rejection(tree: Path, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pacs_server")
    told: list[str] = []
    summary = imported(Store({"10": error}), tree, tell=told.append)
    assert (summary.stored, summary.rejected, told) == (3, 1, [f"rejected {tree}/b/10: x"])
    # Names of files are often those of patients.
    [named] = [record for record in caplog.records if str(tree) in str(record.__dict__)]
    assert (named.levelname, named.__dict__["path"], named.__dict__["reason"]) == ("DEBUG", f"{tree}/b/10", "x")


@pytest.mark.parametrize("error", [StorageFull("no space"), IndexUnavailable("no database")])
def test_what_would_fail_for_every_file_stops_it(tree: Path, error: PacsError) -> None:
    store = Store({"10": error})
    summary = imported(store, tree)
    assert store.seen == ["1", "10"]
    assert (summary.stored, summary.rejected, summary.stopped, summary.exit_code) == (1, 0, str(error), 1)


def test_an_interrupt_keeps_the_summary(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    def interrupt(path: Path) -> None:
        if path.name == "10":
            raise KeyboardInterrupt

    caplog.set_level("INFO", "pacs_server")
    summary = imported(Store(), tree, progress=interrupt)
    assert [record.__dict__["stopped"] for record in caplog.records] == ["interrupted"]
    assert (summary.stored, summary.interrupted, summary.exit_code) == (2, True, 130)


def test_a_missing_path_is_told_before_anything_is_stored(tree: Path) -> None:
    store = Store()
    with pytest.raises(ConfigError, match=r"/none\\n does not exist"):
        imported(store, tree, tree / "none\n")
    assert store.seen == []


def test_an_unreadable_folder_is_a_rejection(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir: Callable[[Path], list[str]] = os.listdir

    def forbidding(path: Path) -> list[str]:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbidding)
    told: list[str] = []
    summary = imported(Store(), tree, tell=told.append)
    assert (summary.stored, summary.rejected) == (2, 1)
    assert told == [f"rejected {tree}/b: Permission denied"]


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        store = Store()
        assert imported(store, tmp_path).skipped == 2
    assert store.seen == []


def test_a_broken_link_is_a_rejection(tree: Path) -> None:
    (tree / "broken").symlink_to("nowhere")
    summary = imported(Store(), tree)
    assert (summary.stored, summary.rejected) == (4, 1)


def test_the_origin_tells_the_path(tmp_path: Path) -> None:
    (tmp_path / "a\nb").touch()
    store = Store()
    imported(store, tmp_path)
    assert store.origins == [Origin(calling_ae="", called_ae="", peer=f"{tmp_path}/a\\nb", via=Door.IMPORT)]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).touch()
    told: list[str] = []
    imported(Store({os.fsdecode(b"\xff"): InvalidInstance("x")}), tmp_path, tell=told.append)
    assert [line.isprintable() for line in told] == [True]


def test_an_empty_import_is_fine() -> None:
    assert ImportSummary().exit_code == 0
