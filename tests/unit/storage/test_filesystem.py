"""Files on disk: placed whole or not at all, inside the root, and nothing left behind."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacs_server.dicom.header import Header
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import InvalidInstance, StorageFull, StorageUnavailable
from pacs_server.storage.filesystem import RESERVED, FileSystemIncoming, FileSystemStorage, holds_instances
from pacs_server.storage.paths import relative_path


@pytest.fixture
def storage(tmp_path: Path) -> FileSystemStorage:
    storage = FileSystemStorage(tmp_path / "archive", min_free_space=0)
    storage.prepare()
    return storage


def incoming(storage: FileSystemStorage, data: bytes) -> FileSystemIncoming:
    file = storage.incoming()
    assert isinstance(file, FileSystemIncoming)
    file.write(data)
    return file


def files(storage: FileSystemStorage) -> dict[str, bytes]:
    """Every file except the lock, and the entries that are names of placed files as `incoming`."""
    paths = [path for path in storage.root.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {
        "incoming" if path.parent.name == "incoming" else str(path.relative_to(storage.root)): path.read_bytes()
        for path in paths
    }


def header(study: str = "1.2", series: str = "1.3", sop: str = "1.4", study_date: str = "20200131") -> Header:
    return Header(InstanceUIDs(study, series, sop), "1", "1", {"study_date": study_date})


def refuse_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("links", [True, False])
def test_an_entry_stays_until_the_placed_file_is_settled(
    storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        refuse_links(monkeypatch)
    file = incoming(storage, b"data")
    storage.place(file, "1.2/1.3/1.4.dcm")
    file.discard()
    assert files(storage) == {"incoming": b"data" if links else b"1.2/1.3/1.4.dcm", "1.2/1.3/1.4.dcm": b"data"}
    assert storage.in_flight("1.2/1.3/1.4.dcm")
    file.settled()
    assert files(storage) == {"1.2/1.3/1.4.dcm": b"data"}
    assert not storage.in_flight("1.2/1.3/1.4.dcm")
    with storage.open("1.2/1.3/1.4.dcm") as stored:
        assert stored.read(0, stored.size) == b"data"


@pytest.mark.parametrize("links", [True, False])
def test_place_never_overwrites(storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        refuse_links(monkeypatch)
    first, second = incoming(storage, b"old"), incoming(storage, b"new")
    storage.place(first, "1/2/3.dcm")
    first.settled()
    with pytest.raises(FileExistsError):
        storage.place(second, "1/2/3.dcm")
    storage.place(second, "1/2/3.v2.dcm")
    second.settled()
    assert files(storage) == {"1/2/3.dcm": b"old", "1/2/3.v2.dcm": b"new"}


@pytest.mark.parametrize("links", [True, False])
def test_what_is_taken_back_may_be_placed_again(
    storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        refuse_links(monkeypatch)
    file = incoming(storage, b"data")
    storage.place(file, "1/2/3.dcm")
    storage.take_back(file, "1/2/3.dcm")
    assert "1/2/3.dcm" not in files(storage)
    storage.place(file, "1/2/4.dcm")
    storage.take_back(file, "1/2/4.dcm")
    file.discard()
    assert files(storage) == {}


def test_discard_leaves_nothing(storage: FileSystemStorage) -> None:
    file = incoming(storage, b"data")
    file.discard()
    file.discard()
    assert files(storage) == {}


def test_sync_comes_before_the_name_and_the_directory_after(
    storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    one = incoming(storage, b"one")
    for name in ("fdatasync", "link", "fsync", "mkdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real, **k: (calls.append(_n), _r(*a, **k))[1])
    storage.place(one, "1/2/3.dcm")
    # The file's name, and that of each directory on the way to it.
    assert calls == ["fdatasync", "link", "mkdir", "mkdir", "link", "fsync", "fsync", "fsync"]
    calls.clear()
    storage.place(incoming(storage, b"two"), "1/2/4.dcm")
    assert calls == ["fdatasync", "link", "fsync"]


def test_a_full_disk_is_said_so_and_leaves_nothing(storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = storage.incoming()
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull):
        file.write(b"data")
    file.discard()
    assert files(storage) == {}


def test_a_name_that_cannot_be_made_durable_is_taken_back(
    storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    storage.place(incoming(storage, b"one"), "1/2/3.dcm")
    file = incoming(storage, b"two")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageUnavailable):
        storage.place(file, "1/2/4.dcm")
    file.discard()
    assert files(storage)["1/2/3.dcm"] == b"one"
    assert "1/2/4.dcm" not in files(storage)


def test_a_short_write_is_continued(storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:3]))
    storage.place(incoming(storage, b"0123456789"), "1/2/3.dcm")
    assert files(storage)["1/2/3.dcm"] == b"0123456789"


def test_below_the_limit_nothing_is_begun(tmp_path: Path) -> None:
    storage = FileSystemStorage(tmp_path / "archive", min_free_space=1 << 62)
    storage.prepare()
    with pytest.raises(StorageFull, match=r"storage\.min_free_space"):
        storage.incoming()


def test_the_walk_is_in_the_order_of_the_paths_and_leaves_our_own_folders_out(storage: FileSystemStorage) -> None:
    paths = ["1.2.dcm", "1/2/3.dcm", "1/2/3.v2.dcm", "1/2-/3.dcm", "1/2./3.dcm", "10/2/3.dcm", "1/quarantine/x.dcm"]
    for path in [*paths, *(f"{name}/x.dcm" for name in RESERVED)]:
        (storage.root / path).parent.mkdir(parents=True, exist_ok=True)
        (storage.root / path).touch()
    assert list(storage.walk()) == sorted(paths)


def test_an_archive_at_the_top_of_a_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may look into lost+found."""
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path: str | Path) -> Any:
        if Path(path).name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert not holds_instances(tmp_path)
    assert list(FileSystemStorage(tmp_path, min_free_space=0).walk()) == []
    (tmp_path / "1" / "lost+found").mkdir(parents=True)
    with pytest.raises(StorageUnavailable, match="Permission denied"):
        holds_instances(tmp_path)


def test_quarantine_keeps_each_file_with_its_reason(storage: FileSystemStorage) -> None:
    assert storage.quarantined() == 0
    for data in (b"one", b"two"):
        (storage.root / "1").mkdir(exist_ok=True)
        (storage.root / "1/2.dcm").write_bytes(data)
        storage.quarantine("1/2.dcm", "it is odd")
    assert storage.quarantined() == 2
    assert files(storage) == {
        "quarantine/1_2.dcm": b"one",
        "quarantine/1_2.dcm.reason": b"1/2.dcm: it is odd\n",
        "quarantine/1_2.dcm.2": b"two",
        "quarantine/1_2.dcm.2.reason": b"1/2.dcm: it is odd\n",
    }
    with pytest.raises(StorageUnavailable):
        storage.quarantine("1/2.dcm", "it is gone")
    assert storage.quarantined() == 2


def test_naming() -> None:
    assert relative_path(header(), "hierarchical") == "1.2/1.3/1.4.dcm"
    assert relative_path(header(), "date_hierarchical") == "2020/01/31/1.2/1.3/1.4.dcm"
    assert relative_path(header(study_date="2020.01.31"), "date_hierarchical").startswith("2020/01/31/")
    assert relative_path(header(study_date="last week"), "date_hierarchical") == "undated/1.2/1.3/1.4.dcm"
    assert relative_path(header(), "flat") == "1.4.dcm"
    assert relative_path(header(), "flat", version=2) == "1.4.v2.dcm"


@given(
    study=st.text() | st.sampled_from(["../x", "/etc", "1.2\0", "..", "1/2"]),
    date=st.text() | st.just("../../x/"),
    naming=st.sampled_from(["hierarchical", "date_hierarchical", "flat"]),
)
def test_no_text_leaves_the_root(study: str, date: str, naming: str) -> None:
    storage = FileSystemStorage(Path("/archive/root"), min_free_space=0)
    try:
        path = relative_path(header(study=study, study_date=date), naming)
    except InvalidInstance:
        return
    assert Path(storage._jailed(path)).is_relative_to("/archive/root")
    assert ".." not in Path(path).parts


@given(st.text())
@example("../outside.dcm")
@example("1/../../../outside.dcm")
@example("/etc/passwd")
@example("")
def test_the_jail_holds_for_any_path(path: str) -> None:
    storage = FileSystemStorage(Path("/archive/root"), min_free_space=0)
    with suppress(StorageUnavailable):
        assert Path(storage._jailed(path)).is_relative_to("/archive/root")
