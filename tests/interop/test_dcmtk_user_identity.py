"""User identity with storescu, the only tool of DCMTK that knows of it: right, wrong, none, also over TLS."""

from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
from certificates import Authority
from datasets import make_ct
from processes import PacsProcess, run_command
from pydicom.filewriter import dcmwrite

pytestmark = pytest.mark.interop

PASSWORD = "correct horse"
RIGHT = ("-usr", "anna", "-pwd", PASSWORD)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsProcess]:
    """A server where everybody needs a password, and anna has one that the command line gave her."""
    directory = tmp_path_factory.mktemp("pacs")
    pacs = PacsProcess(directory, settings={"user_identity": {"mode": "required", "users_path": "users"}})
    add_user(pacs)
    with pacs:
        yield pacs


def add_user(pacs: PacsProcess) -> None:
    command = ("sh", "-c", 'echo "$0" | "$@"', PASSWORD)
    done = run_command(
        "--config", pacs.config_file, "user", "add", "anna", "--password-stdin", cwd=pacs.directory, prefix=command
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ct.dcm"
    dcmwrite(path, make_ct(), enforce_file_format=True)
    return path


def store(pacs: PacsProcess, file: Path, *options: object) -> tuple[int, str]:
    done = dcmtk.run("storescu", "-v", *options, "-aec", "PACS_SERVER", "127.0.0.1", pacs.port, file)
    return done.returncode, done.stdout + done.stderr


def test_right_with_and_without_a_response(pacs: PacsProcess, file: Path) -> None:
    for options in ((), ("-rsp",)):
        code, told = store(pacs, file, *RIGHT, *options)
        assert code == 0, told
    assert pacs.instances() == 1


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-usr", "anna"),
        ("-usr", "anna", "-rsp"),
        ("-usr", "anna", "-epw"),
        ("-usr", "anna", "-pwd", "wrong horse"),
        ("-usr", "bert", "-pwd", PASSWORD),
    ],
)
def test_wrong_or_none(pacs: PacsProcess, file: Path, options: tuple[str, ...]) -> None:
    before = pacs.instances()
    code, told = store(pacs, file, *options)
    assert code != 0
    assert "Association Rejected" in told
    assert "Rejected Permanent, Source: Service Provider (ACSE Related)" in told
    assert "Reason: No Reason" in told
    assert pacs.instances() == before


def test_the_log_says_who_it_was_and_no_password(pacs: PacsProcess, file: Path) -> None:
    assert store(pacs, file, *RIGHT)[0] == 0
    store(pacs, file, "-usr", "carl", "-pwd", "wrong horse")
    assert "user=anna" in pacs.log()
    assert "user not identified" in pacs.log()
    assert "horse" not in pacs.log() + pacs.get("/status")[1] + pacs.get("/metrics")[1]


def test_over_tls(tmp_path: Path, file: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    tls = {
        "enabled": True,
        "cert_path": str(authority.server.certificate),
        "key_path": str(authority.server.key),
        "ca_path": str(authority.path),
    }
    identity = {"mode": "required", "users_path": "users"}
    pacs = PacsProcess(tmp_path / "pacs", settings={"user_identity": identity, "tls": tls})
    add_user(pacs)
    with pacs:
        secured = (*authority.client.dcmtk, "+cf", authority.path)
        code, told = store(pacs, file, *secured, *RIGHT)
        assert code == 0, told
        assert store(pacs, file, *secured)[0] != 0
