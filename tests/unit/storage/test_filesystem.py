"""Files on disk: in which order they are made durable, inside the root, and nothing left behind."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from storages import refuse_links

from pacs_server.dicom.header import Header
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import (
    InvalidInstance,
    InvalidKey,
    ObjectExists,
    ObjectUnreadable,
    StorageFull,
    StorageUnavailable,
)
from pacs_server.storage.archive_files import ArchiveFiles
from pacs_server.storage.filesystem import directories
from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.filesystem.directories import Directories
from pacs_server.storage.filesystem.incoming_file import FileSystemIncoming
from pacs_server.storage.keys import RESERVED, check_key, instance_key, named_by, version_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def archive(root: Path) -> ArchiveFiles:
    files = archive_directory(root)
    files.spool.prepare()
    return files


def incoming(archive: ArchiveFiles, data: bytes) -> FileSystemIncoming:
    file = archive.spool.receive()
    assert isinstance(file, FileSystemIncoming)
    file.write(data)
    return file


def on_disk(root: Path) -> dict[str, bytes]:
    """Every file except the lock, and the entries that are names of placed files as `incoming`."""
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {
        "incoming" if path.parent.name == "incoming" else str(path.relative_to(root)): path.read_bytes()
        for path in paths
    }


def header(study: str = "1.2", series: str = "1.3", sop: str = "1.4", study_date: str = "20200131") -> Header:
    return Header(InstanceUIDs(study, series, sop), "1", "1", {"study_date": study_date})


@pytest.mark.parametrize("links", [True, False])
def test_an_entry_stays_until_the_placed_file_is_settled(
    archive: ArchiveFiles, root: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        refuse_links(monkeypatch)
    file = incoming(archive, b"data")
    archive.spool.place(file, "1.2/1.3/1.4.dcm")
    file.discard()
    assert on_disk(root) == {"incoming": b"data" if links else b"1.2/1.3/1.4.dcm", "1.2/1.3/1.4.dcm": b"data"}
    file.settled()
    assert on_disk(root) == {"1.2/1.3/1.4.dcm": b"data"}


def test_a_put_leaves_nothing_beside_the_object(archive: ArchiveFiles, root: Path) -> None:
    archive.storage.put("1/2", [b"data"])
    with archive.storage.bulk() as writer:
        writer.put("1/3", [b"more"])
    assert on_disk(root) == {"1/2": b"data", "1/3": b"more"}
    assert sorted(path.name for path in root.iterdir()) == ["1", "incoming"]


def test_sync_comes_before_the_name_and_the_directory_after(
    archive: ArchiveFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    one = incoming(archive, b"one")
    for name in ("fdatasync", "link", "fsync", "mkdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real, **k: (calls.append(_n), _r(*a, **k))[1])
    archive.spool.place(one, "1/2/3.dcm")
    # The file's name, and that of each directory on the way to it.
    assert calls == ["fdatasync", "link", "mkdir", "mkdir", "link", "fsync", "fsync", "fsync"]
    calls.clear()
    archive.spool.place(incoming(archive, b"two"), "1/2/4.dcm")
    assert calls == ["fdatasync", "link", "fsync"]


def test_a_full_disk_is_said_so_and_leaves_nothing(
    archive: ArchiveFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = archive.spool.receive()
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull):
        file.write(b"data")
    file.discard()
    assert on_disk(root) == {}


def test_a_name_that_cannot_be_made_durable_is_taken_back(
    archive: ArchiveFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    archive.spool.place(incoming(archive, b"one"), "1/2/3.dcm")
    file = incoming(archive, b"two")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageUnavailable):
        archive.spool.place(file, "1/2/4.dcm")
    file.discard()
    assert on_disk(root)["1/2/3.dcm"] == b"one"
    assert "1/2/4.dcm" not in on_disk(root)


def test_a_short_write_is_continued(archive: ArchiveFiles, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    archive.spool.place(incoming(archive, b"0123456789"), "1/2/3.dcm")
    assert on_disk(root)["1/2/3.dcm"] == b"0123456789"


@pytest.mark.parametrize("known", [True, False], ids=["renameat2", "without renameat2"])
def test_without_hard_links_a_name_that_is_taken_at_the_same_instant_is_not_overwritten(
    archive: ArchiveFiles, root: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    refuse_links(monkeypatch)
    if not known:
        monkeypatch.setattr(directories, "_libc", object())
    archive.spool.place(incoming(archive, b"first"), "1/2/3.dcm")
    # Nobody had the name when it was looked for.
    monkeypatch.setattr(os.path, "exists", lambda path: False)
    second = incoming(archive, b"second")
    with pytest.raises(ObjectExists):
        archive.spool.place(second, "1/2/3.dcm")
    second.discard()
    monkeypatch.undo()
    assert on_disk(root) == {"incoming": b"1/2/3.dcm", "1/2/3.dcm": b"first"}


def test_a_list_leaves_our_own_folders_out_and_whatever_else_lies_there_in(archive: ArchiveFiles, root: Path) -> None:
    paths = ["1.2.dcm", "1/2/3.dcm", "1/quarantine/x.dcm", "notes.txt"]
    for path in [*paths, *(f"{name}/x.dcm" for name in RESERVED)]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    (root / "1/2/\udcff.dcm").touch()
    assert list(archive.storage.list()) == ["1.2.dcm", "1/2/3.dcm", "1/2/\udcff.dcm", "1/quarantine/x.dcm", "notes.txt"]
    assert list(archive.side_files.list()) == ["changes/x.dcm", "trash/x.dcm"]
    for key in archive.storage.list():
        assert archive.storage.info(key).size == 0


def test_directories_that_end_before_a_key_are_not_listed(
    archive: ArchiveFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To go on with a list of a million files takes no longer than to list the rest."""
    for study in "12345":
        archive.storage.put(f"{study}/2/3.dcm", [b""])
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(Path(path).name), scandir(path))[1])
    assert list(archive.storage.list(after="4/2/3.dcm")) == ["5/2/3.dcm"]
    assert listed == ["archive", "4", "2", "5", "2"]
    listed.clear()
    assert list(archive.storage.list("3/")) == ["3/2/3.dcm"]
    assert listed == ["3", "2"]


def test_an_archive_at_the_top_of_a_file_system(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may look into lost+found."""
    (root / "lost+found").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path: str | Path) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files = archive_directory(root)
    files.spool.prepare()
    storage = files.storage
    assert not storage.holds_instances()
    assert list(storage.list()) == []
    (root / "1" / "lost+found").mkdir(parents=True)
    with pytest.raises(StorageUnavailable, match="Permission denied"):
        storage.holds_instances()
    with pytest.raises(StorageUnavailable, match="Permission denied"):
        list(storage.list())
    told: list[tuple[str, str]] = []
    assert list(storage.list(unlistable=lambda prefix, error: told.append((prefix, error.reason)))) == []
    assert told == [("1/lost+found/", "Permission denied")]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_file_that_cannot_be_opened_or_read(
    archive: ArchiveFiles, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A lack of descriptors says nothing about the file."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    archive.storage.put("1/2", [b"data"])
    expected = StorageUnavailable if number == errno.EMFILE else ObjectUnreadable
    with archive.storage.open("1/2") as source, monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        patch.setattr(os, "open", fail)
        for act in (lambda: source.read(0, 4), lambda: archive.storage.open("1/2")):
            with pytest.raises(StorageUnavailable, match=os.strerror(number)) as raised:
                act()
            assert type(raised.value) is expected
            assert getattr(raised.value, "reason", None) == (os.strerror(number) if number != errno.EMFILE else None)


def test_without_its_file_system_nothing_is_said_of_an_object(archive: ArchiveFiles, root: Path) -> None:
    archive.storage.put("1/2", [b"data"])
    root.rename(root.with_name("elsewhere"))
    root.mkdir()
    with pytest.raises(StorageUnavailable) as raised:
        archive.storage.open("1/2")
    assert type(raised.value) is StorageUnavailable


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN, errno.EIO])
def test_a_file_system_that_answers_nothing_is_no_fault_of_an_object(
    archive: ArchiveFiles, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    archive.storage.put("1/2", [b"data"])

    def fail(path: str | Path, *_: object, **__: object) -> Any:
        if Path(path) == root:  # the names in it are known from before
            return real(path)
        raise OSError(number, os.strerror(number))

    real = os.scandir
    for name in ("open", "stat", "scandir", "statvfs"):
        monkeypatch.setattr(os, name, fail)
    told: list[str] = []
    for act in (
        lambda: archive.storage.open("1/2"),
        lambda: list(archive.storage.list(unlistable=lambda prefix, error: told.append(prefix))),
    ):
        with pytest.raises(StorageUnavailable) as raised:
            act()
        assert type(raised.value) is StorageUnavailable
    assert told == []


def test_files_that_were_taken_from_a_folder_that_is_gone(root: Path, archive: ArchiveFiles) -> None:
    """A power loss may keep that the folder was removed, and take what was done in the trash before."""
    archive.storage.put("1/2", [b"two"])
    archive.trash.write("d1", "{}")
    archive.trash.add("d1", ["1/2"])
    (root / "1/2").rename(root / "trash/d1/1/2.taken")
    (root / "1").rmdir()
    archive.trash.take_away("d1", ["1/2"])
    assert archive.trash.holds("d1", "1/2")
    assert [path.name for path in (root / "trash/d1/1").iterdir()] == ["2"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_what_cannot_be_looked_for_is_not_said_to_be_away(
    archive: ArchiveFiles, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    archive.storage.put("1/2", [b"data"])
    archive.trash.write("d1", "{}")
    archive.trash.add("d1", ["1/2"])

    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "stat", fail)
    monkeypatch.setattr(os, "lstat", fail)
    for act in (
        lambda: archive.storage.exists("1/2"),
        lambda: archive.side_files.exists("trash/d1/1/2"),
        lambda: archive.trash.holds("d1", "1/2"),
        lambda: archive.trash.is_stored("d1", "1/2"),
    ):
        with pytest.raises(StorageUnavailable, match=os.strerror(number)):
            act()


def test_quarantine_keeps_each_file_with_its_reason(archive: ArchiveFiles, root: Path) -> None:
    for data in (b"one", b"two"):
        (root / "1").mkdir(exist_ok=True)
        (root / "1/2.dcm").write_bytes(data)
        archive.quarantine.add("1/2.dcm", "it is odd")
    assert archive.quarantine.count() == 2
    assert on_disk(root) == {
        "quarantine/1_2.dcm": b"one",
        "quarantine/1_2.dcm.reason": b"1/2.dcm: it is odd\n",
        "quarantine/1_2.dcm.2": b"two",
        "quarantine/1_2.dcm.2.reason": b"1/2.dcm: it is odd\n",
    }
    with pytest.raises(StorageUnavailable):
        archive.quarantine.add("1/2.dcm", "it is gone")
    assert archive.quarantine.count() == 2


# ------------------------------------------------------------------------------------ keys and paths


def test_naming() -> None:
    assert instance_key(header(), "hierarchical") == "1.2/1.3/1.4.dcm"
    assert instance_key(header(), "date_hierarchical") == "2020/01/31/1.2/1.3/1.4.dcm"
    assert instance_key(header(study_date="2020.01.31"), "date_hierarchical").startswith("2020/01/31/")
    assert instance_key(header(study_date="last week"), "date_hierarchical") == "undated/1.2/1.3/1.4.dcm"
    assert instance_key(header(), "flat") == "1.4.dcm"
    assert instance_key(header(), "flat", version=2) == "1.4.v2.dcm"


@pytest.mark.parametrize(
    ("key", "named", "version"),
    [
        ("1.2/1.3/1.4.dcm", "1.4", 1),
        ("1.4.v12.dcm", "1.4", 12),
        ("1.2/1.3/scan.dcm", "", 1),
        ("1.2/1.3/1.4", "", 1),
        ("1.2/1.4.dcm.v2", "", 1),
        ("1.2/1..4.dcm", "", 1),
    ],
)
def test_what_a_key_tells(key: str, named: str, version: int) -> None:
    assert named_by(key) == (named, version)
    if named:
        assert version_of(key) == version


@given(
    study=st.text() | st.sampled_from(["../x", "/etc", "1.2\0", "..", "1/2"]),
    date=st.text() | st.just("../../x/"),
    naming=st.sampled_from(["hierarchical", "date_hierarchical", "flat"]),
)
def test_no_text_leaves_the_root(study: str, date: str, naming: str) -> None:
    try:
        key = instance_key(header(study=study, study_date=date), naming)
    except InvalidInstance:
        return
    check_key(key)
    assert ".." not in Path(key).parts


@given(st.text())
@example("../outside.dcm")
@example("1/../../../outside.dcm")
@example("/etc/passwd")
@example("//etc/passwd")
@example("")
@example("\ud800")
def test_a_key_leads_to_a_file_below_the_root_and_no_other_key_does(key: str) -> None:
    root = Path("/archive/root")
    with suppress(InvalidKey):
        check_key(key)
        path = Directories(root).path(key)
        assert os.path.normpath(path) == path
        assert Path(path).is_relative_to(root)
        assert Path(path) != root
