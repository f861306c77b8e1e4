"""Settings that only the disk can refuse, and those that do not fit it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from pacs_server.config import Config, StorageConfig
from pacs_server.config.cautions import cautions, less_room_than_kept_free
from pacs_server.config.disk import check_filesystem
from pacs_server.config.load import load
from pacs_server.errors import ConfigError

Load = Callable[[str], Config]


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    """Loads `pacs_server.yaml` of the given content."""

    def load_text(text: str) -> Config:
        (tmp_path / "pacs_server.yaml").write_text(text)
        return load(tmp_path / "pacs_server.yaml", environ={}, overrides={})

    return load_text


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    issued = trustme.CA().issue_cert("localhost")
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    return certificate, key


def test_the_check_creates_nothing(load_text: Load, tmp_path: Path) -> None:
    config = load_text("storage: {directory: a/b/c}\ndatabase: {path: d/pacs.db}\nlogging: {file: e/f.log}")
    before = sorted(tmp_path.rglob("*"))
    check_filesystem(config)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage:\n  directory: file", "line 2: storage.directory: {}/file is not a directory"),
        ("storage:\n  directory: file/x/y", "line 2: storage.directory: {}/file is not a directory"),
        ("storage:\n  directory: broken", "line 2: storage.directory: {}/broken is a link to nowhere"),
        ("database:\n  path: folder", "line 2: database.path: {}/folder is a directory"),
        ("database:\n  path: file/x", "line 2: database.path: {}/file is not a directory"),
        ("logging:\n  file: folder", "line 2: logging.file: {}/folder is a directory"),
        ("worklist:\n  folder: file/x", "line 2: worklist.folder: {}/file is not a directory"),
        ("tls:\n  enabled: true\n  cert_path: none", "line 3: tls.cert_path: {}/none: No such file"),
        ("tls:\n  enabled: true\n  cert_path: file", "default: tls.key_path: {}/certs/server.key: No such file"),
        ("tls: {enabled: true, cert_path: file, key_path: file}", "tls.cert_path: {}/file holds no certificate in PEM"),
    ],
)
def test_what_cannot_work_on_disk(load_text: Load, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    error = error_of(lambda: check_filesystem(load_text(text)))
    assert message.format(tmp_path) in error
    assert error.isprintable()


def test_a_directory_that_may_not_be_written(load_text: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    assert error_of(lambda: check_filesystem(config)) == f"default: storage.directory: {tmp_path} is not writable"


def test_a_certificate_with_its_key(load_text: Load, certificate: tuple[Path, Path]) -> None:
    check_filesystem(load_text("tls: {enabled: true, cert_path: server.crt, key_path: server.key}"))


def test_a_certificate_without_its_key(load_text: Load, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    trustme.CA().issue_cert("other").private_key_pem.write_to_path(str(tmp_path / "other.key"))
    config = load_text("tls: {enabled: true, cert_path: server.crt, key_path: other.key}")
    assert "other.key is not the key of the certificate in" in error_of(lambda: check_filesystem(config))


def test_room_that_the_disk_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warning(wanted: int) -> str | None:
        storage = StorageConfig(directory=tmp_path / "not" / "there", min_free_space=wanted)
        return less_room_than_kept_free(Config(storage=storage))

    class Disk:
        total, free = 500_000_000_000, 20_000_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Disk if path == tmp_path else None)
    assert warning(20_000_000_000) is None
    assert warning(20_000_000_001) == (
        f"storage.min_free_space: 20.0 GB are more than is free now on the disk of {tmp_path}/not/there (20.0 GB): "
        "every object is refused"
    )
    assert warning(1_500_000_000_000) == (
        f"storage.min_free_space: 1,500.0 GB are more than the whole disk of {tmp_path}/not/there has (500.0 GB): "
        "every object is refused"
    )


def test_check_config_tells_of_too_little_room(load_text: Load) -> None:
    (note,) = cautions(load_text("storage: {min_free_space: 900000TB}"))
    assert "more than the whole disk" in note
    assert not cautions(load_text("storage: {min_free_space: 0}"))
