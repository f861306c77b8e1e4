"""Files on disk: placed whole or not at all, inside the root, and nothing left behind."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacs_server.dicom.header import Header
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import InvalidInstance, StorageFull, StorageUnavailable
from pacs_server.storage.filesystem import FileSystemIncoming, FileSystemStorage
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
    return {str(p.relative_to(storage.root)): p.read_bytes() for p in storage.root.rglob("*") if p.is_file()}


def header(study: str = "1.2", series: str = "1.3", sop: str = "1.4", study_date: str = "20200131") -> Header:
    return Header(InstanceUIDs(study, series, sop), "1", "1", {"study_date": study_date})


def test_place_moves_the_file_under_its_name(storage: FileSystemStorage) -> None:
    storage.place(incoming(storage, b"data"), "1.2/1.3/1.4.dcm")
    assert files(storage) == {"1.2/1.3/1.4.dcm": b"data"}
    with storage.open("1.2/1.3/1.4.dcm") as file:
        assert file.read() == b"data"


def test_place_never_overwrites_unless_told(storage: FileSystemStorage) -> None:
    storage.place(incoming(storage, b"old"), "1/2/3.dcm")
    second = incoming(storage, b"new")
    with pytest.raises(FileExistsError):
        storage.place(second, "1/2/3.dcm")
    assert files(storage)["1/2/3.dcm"] == b"old"
    storage.place(second, "1/2/3.dcm", replace=True)
    assert files(storage) == {"1/2/3.dcm": b"new"}


def test_place_without_hard_links(storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    storage.place(incoming(storage, b"one"), "1/2/3.dcm")
    with pytest.raises(FileExistsError):
        storage.place(incoming(storage, b"two"), "1/2/3.dcm")
    assert files(storage)["1/2/3.dcm"] == b"one"


def test_discard_leaves_nothing(storage: FileSystemStorage) -> None:
    file = incoming(storage, b"data")
    file.discard()
    file.discard()
    assert files(storage) == {}


def test_sync_comes_before_the_name_and_the_directory_after(
    storage: FileSystemStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for name in ("fdatasync", "link", "fsync", "mkdir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real, **k: (calls.append(_n), _r(*a, **k))[1])
    storage.place(incoming(storage, b"one"), "1/2/3.dcm")
    # Each new directory is made durable in the one above it.
    assert calls == ["fdatasync", "link", "mkdir", "fsync", "mkdir", "fsync", "link", "fsync"]
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
    assert files(storage) == {"1/2/3.dcm": b"one"}


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


def test_prepare_sweeps_what_died_and_spares_what_lives(storage: FileSystemStorage) -> None:
    host = os.uname().nodename
    dead = 2**22 + 1  # above the largest pid there can be
    for name in (f"{host}-{dead}-0.part", f"{host}-{os.getpid()}-0.part", f"{host}-1-0.part", "other-5-0.part", "x"):
        (storage.root / "incoming" / name).touch()
    storage.prepare()
    assert {path.name for path in (storage.root / "incoming").iterdir()} == {f"{host}-1-0.part", "other-5-0.part", "x"}


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
    assert storage._jailed(path).is_relative_to("/archive/root")
    assert ".." not in Path(path).parts


@given(st.text())
@example("../outside.dcm")
@example("1/../../../outside.dcm")
@example("/etc/passwd")
@example("")
def test_the_jail_holds_for_any_path(path: str) -> None:
    storage = FileSystemStorage(Path("/archive/root"), min_free_space=0)
    with suppress(StorageUnavailable):
        assert storage._jailed(path).is_relative_to("/archive/root")
