"""Promise 1 as the kernel sees it: what is synced, in which order, before a C-STORE is answered."""

import re
import shutil
from pathlib import Path

import pytest
from datasets import make_study
from processes import PacsProcess, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, Instance, association, store
from sqlalchemy import create_engine, text

VERIFICATION = "1.2.840.10008.1.1"
TRACED = "fdatasync,fsync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,sendmsg,sendto"
INSTANCES = 5
_CALL = re.compile(r"^\d+ +(\w+)\((.*)$")


@pytest.fixture
def strace() -> str:
    """The path of strace, where it is installed and may be used."""
    path = shutil.which("strace")
    if path is None:
        pytest.skip("strace is not installed; on Debian and Ubuntu: apt-get install strace")
    return path


def steps(trace: Path, pacs: PacsProcess) -> list[str]:
    """The traced calls that matter, by what they do: sync file, place, sync directory, sync index, answer."""
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        step = call and _step(call[1], call[2], pacs)
        if step:
            found.append(step)
    return found


def _step(name: str, arguments: str, pacs: PacsProcess) -> str | None:
    if '"Q' in arguments and "COMMIT" in arguments:
        return "sync index"  # PostgreSQL syncs before it answers
    if name in ("fsync", "fdatasync"):
        # -y shows what a descriptor is open on.
        opened = arguments.partition("<")[2].partition(">")[0]
        return _synced(opened, pacs)
    if name.startswith(("link", "rename")):
        return "place"
    if name.startswith("mkdir"):
        return "make directory"
    # The wake-up of the main thread goes over a Unix socket.
    return "answer" if "<TCP:" in arguments else None


def _synced(opened: str, pacs: PacsProcess) -> str | None:
    if "/incoming/" in opened:
        return "sync file"
    if "pacs.db" in opened:
        return "sync index"
    if opened.startswith(str(pacs.archive)):
        return "sync directory"
    return None


@pytest.mark.slow
def test_everything_is_synced_in_order_before_the_answer(strace: str, tmp_path: Path, database_url: str) -> None:
    trace = tmp_path / "trace"
    prefix = (
        strace,
        "-f",
        "-qq",
        "-y",
        "-yy",
        "-s",
        "32",
        "-e",
        f"trace={TRACED}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    )
    instances = [Instance.of(ds) for ds in make_study(1, INSTANCES + 1)]
    with PacsProcess(tmp_path / "pacs", database_url, prefix=prefix) as pacs:
        # The first peer seen is written to the index in the background, the next ones a minute later.
        with association(pacs.port, [(VERIFICATION, EXPLICIT)]):
            pass
        wait_for(lambda: peers_seen(database_url) == 1, "the peer in the index")
        with association(pacs.port, [(str(CTImageStorage), EXPLICIT)]) as link:
            for instance in instances:
                assert store(link, instance).status == 0
        pacs.stop()
        everything = steps(trace, pacs)

    first, rest = everything[: (end := first_answer(everything))], everything[end:]
    # Study and series are new: the link fails, each directory is made durable in the one above, and again.
    made = ["make directory", "sync directory"] * 2
    assert first[-10:] == ["sync file", "place", *made, "place", "sync directory", "sync index", "answer"]
    assert rest[: INSTANCES * 5] == ["sync file", "place", "sync directory", "sync index", "answer"] * INSTANCES


def peers_seen(database_url: str) -> int:
    """How many peers a server's index has."""
    engine = create_engine(database_url)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM peer_seen")).scalar_one())
    finally:
        engine.dispose()


def first_answer(everything: list[str]) -> int:
    """Where the steps of the first instance end; what was sent before was the association's."""
    return everything.index("answer", everything.index("sync file")) + 1
