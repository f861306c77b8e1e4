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
from pacs_server.services.store import Begin, StoreService


def unheard() -> Arrivals:
    """Arrivals that no trail hears of."""
    return Arrivals(silent(), (), EventID.IMPORT)


class Store(StoreService):
    """Answers as told, by file name; everything else is stored."""

    def __init__(self, answers: dict[str, StoreOutcome | Exception | None] | None = None) -> None:
        self.answers = answers or {}
        self.seen: list[str] = []
        self.origins: list[Origin] = []

    def store_file(self, path: Path, origin: Origin, begin: Begin = lambda *_: None) -> StoreOutcome | None:
        self.seen.append(path.name)
        self.origins.append(origin)
        answer = self.answers.get(path.name, StoreOutcome.STORED)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ignore(path: Path) -> None:
    """No progress is shown."""


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
    summary = run_import([tree], store, unheard(), progress=progress.append)
    assert str(summary) == "stored 1, duplicate 1, rejected 1, skipped 1 (not DICOM)"
    assert [(one.path, one.reason) for one in summary.rejections] == [(f"{tree}/b/2", "other bytes are stored")]
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
    summary = run_import([tree / "c"], Store({"c": outcome}), unheard(), progress=ignore)
    assert (str(summary), summary.exit_code) == (text, 0)


@pytest.mark.parametrize(
    "error", [InvalidInstance("x"), DuplicateInstance("x"), StorageUnavailable("x"), OSError(5, "x")]
)
def test_one_bad_file_is_one_rejection(tree: Path, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pacs_server")
    summary = run_import([tree], Store({"10": error}), unheard(), progress=ignore)
    assert (summary.stored, summary.rejected, summary.rejections[0].reason) == (3, 1, "x")
    logged = [record.__dict__ for record in caplog.records if record.levelname == "WARNING"]
    assert [(one["path"], one["reason"]) for one in logged] == [(f"{tree}/b/10", "x")]


@pytest.mark.parametrize("error", [StorageFull("no space"), IndexUnavailable("no database")])
def test_what_would_fail_for_every_file_stops_it(tree: Path, error: PacsError) -> None:
    store = Store({"10": error})
    summary = run_import([tree], store, unheard(), progress=ignore)
    assert store.seen == ["1", "10"]
    assert (summary.stored, summary.rejected, summary.stopped, summary.exit_code) == (1, 0, str(error), 1)


def test_an_interrupt_keeps_the_summary(tree: Path) -> None:
    def interrupt(path: Path) -> None:
        if path.name == "10":
            raise KeyboardInterrupt

    summary = run_import([tree], Store(), unheard(), progress=interrupt)
    assert (summary.stored, summary.interrupted, summary.exit_code) == (2, True, 130)


def test_a_missing_path_is_told_before_anything_is_stored(tree: Path) -> None:
    store = Store()
    with pytest.raises(ConfigError, match=r"/none\\n does not exist"):
        run_import([tree, tree / "none\n"], store, unheard(), progress=ignore)
    assert store.seen == []


def test_an_unreadable_folder_is_a_rejection(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir: Callable[[Path], list[str]] = os.listdir

    def forbidding(path: Path) -> list[str]:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", forbidding)
    summary = run_import([tree], Store(), unheard(), progress=ignore)
    assert (summary.stored, summary.rejected) == (2, 1)
    assert summary.rejections[0].path == f"{tree}/b"
    assert summary.rejections[0].reason == "Permission denied"


def test_pipes_and_sockets_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("socket")
        store = Store()
        assert run_import([tmp_path], store, unheard(), progress=ignore).skipped == 2
    assert store.seen == []


def test_a_broken_link_is_a_rejection(tree: Path) -> None:
    (tree / "broken").symlink_to("nowhere")
    summary = run_import([tree], Store(), unheard(), progress=ignore)
    assert (summary.stored, summary.rejected) == (4, 1)


def test_the_origin_tells_the_path(tmp_path: Path) -> None:
    (tmp_path / "a\nb").touch()
    store = Store()
    run_import([tmp_path], store, unheard(), progress=ignore)
    assert store.origins == [Origin(calling_ae="", called_ae="", peer=f"{tmp_path}/a\\nb", via=Door.IMPORT)]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).touch()
    summary = run_import([tmp_path], Store({os.fsdecode(b"\xff"): InvalidInstance("x")}), unheard(), progress=ignore)
    assert summary.rejections[0].path.isprintable()


def test_only_the_first_rejections_are_kept(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(30)]
    for name in names:
        (tmp_path / name).touch()
    summary = run_import([tmp_path], Store(dict.fromkeys(names, InvalidInstance("x"))), unheard(), progress=ignore)
    assert (summary.rejected, len(summary.rejections)) == (30, 20)


def test_an_empty_import_is_fine() -> None:
    assert ImportSummary().exit_code == 0
