"""Real file systems that are full: what is refused, and that all goes on when there is room again."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from datasets import make_ct
from processes import PacsProcess, run_command, wait_for
from rawpeer import EXPLICIT, Instance, association, store
from servers import CT, VERIFICATION, RawPeer, free_port

from pacs_server.net.message import Command

FULL = 0xA700
SMALL = ["-o", "size=1536k,mode=0755"]


@contextmanager
def small_disk(directory: Path, *options: str) -> Iterator[Callable[..., None]]:
    """A file system of its own at `directory`, and a way to change its options."""
    directory.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    made = subprocess.run([mount, "-t", "tmpfs", *options, "small", directory], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting is not allowed here")

    def change(*changed: str) -> None:
        options = f"remount,{','.join(changed)}"
        subprocess.run([mount, "-o", options, directory], check=True, capture_output=True)

    try:
        yield change
    finally:
        subprocess.run(["umount", "-l", directory], check=True, capture_output=True)


def fill(pacs: PacsProcess, most: int = 400) -> tuple[list[Instance], Command]:
    """Store until it is refused; what was taken, and the refusal."""
    taken: list[Instance] = []
    with association(pacs.port, [(CT, EXPLICIT)]) as link:
        for _ in range(most):
            instance = Instance.of(make_ct())
            answer = store(link, instance)
            if answer.status:
                # The association lives on, and so does the refusal.
                assert store(link, Instance.of(make_ct())).status == FULL
                return taken, answer
            taken.append(instance)
    raise AssertionError("it never was full")


def store_one(pacs: PacsProcess) -> int | None:
    with association(pacs.port, [(CT, EXPLICIT)]) as link:
        return store(link, Instance.of(make_ct())).status


def echo(pacs: PacsProcess) -> int | None:
    with RawPeer.associated((pacs.host, pacs.port), (VERIFICATION, [EXPLICIT])) as peer:
        return peer.echo()


def test_everything_on_one_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, *SMALL) as change:
        pacs = PacsProcess(
            tmp_path / "pacs",
            f"sqlite:///{disk / 'pacs.db'}",
            {
                "storage": {"directory": str(disk / "archive")},
                "audit": {"directory": str(disk / "audit")},
                "logging": {"file": str(disk / "log" / "pacs.log")},
            },
        )
        pacs.archive = disk / "archive"
        with pacs:
            taken, refusal = fill(pacs)
            assert (refusal.status, bool(refusal.error_comment)) == (FULL, True)
            code, body = pacs.get("/readyz")
            assert (code, body.startswith("not ready: ")) == (503, True)
            assert pacs.get("/healthz")[0] == 200
            assert echo(pacs) == 0
            # Nothing is deleted to make room, and nothing half is left.
            assert len(pacs.files()) == len(taken)
            change("size=16m")
            wait_for(lambda: store_one(pacs) == 0, "a store after there is room")
            wait_for(lambda: pacs.get("/readyz")[0] == 200, "readiness")
            assert pacs.instances() == len(pacs.files()) == len(taken) + 1
            pacs.kill()
        with pacs:
            assert pacs.instances() == len(pacs.files()) == len(taken) + 1


def test_a_database_on_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, *SMALL) as change:
        pacs = PacsProcess(tmp_path / "pacs", f"sqlite:///{disk / 'pacs.db'}")
        with pacs:
            taken, refusal = fill(pacs)
            assert (refusal.status, "full" in (refusal.error_comment or "")) == (FULL, True)
            code, body = pacs.get("/readyz")
            assert (code, "the database is on a full disk" in body) == (503, True)
            assert len(pacs.files()) == pacs.instances() == len(taken)
            # What waits for a checkpoint is stored, and the database does not take the checkpoint.
            assert all(path.stat().st_nlink == 2 for path in pacs.incoming())
            wait_for(lambda: not pacs.incoming() or "no checkpoint succeeds" in pacs.get("/readyz")[1], "a failure")
            # What is there already takes no room, and says nothing of what is not; it is refused while others wait.
            with association(pacs.port, [(CT, EXPLICIT)]) as link:
                assert store(link, taken[0]).status == (FULL if pacs.incoming() else 0)
            assert pacs.get("/readyz")[0] == 503
            change("size=8m")
            wait_for(lambda: store_one(pacs) == 0, "a store after there is room")
            assert pacs.get("/readyz")[0] == 200
            wait_for(lambda: pacs.incoming() == [], "a checkpoint")
            assert len(pacs.files()) == pacs.instances() == len(taken) + 1


def test_no_more_files_where_there_is_space(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "-o", "size=64m,nr_inodes=40,mode=0755") as change:
        pacs = PacsProcess(tmp_path / "pacs", settings={"storage": {"directory": str(disk / "archive")}})
        pacs.archive = disk / "archive"
        with pacs:
            taken, refusal = fill(pacs, 40)
            assert refusal.error_comment == "no space left on the storage"
            # What is left over is too few for the folders of another study.
            assert pacs.get("/readyz")[0] == 503
            assert len(pacs.files()) == pacs.instances() == len(taken)
            change("nr_inodes=400")
            assert store_one(pacs) == 0
            assert pacs.get("/readyz")[0] == 200


@pytest.mark.postgres
def test_a_start_without_the_database(tmp_path: Path) -> None:
    url = f"postgresql://pacs@127.0.0.1:{free_port()}/pacs"
    pacs = PacsProcess(tmp_path, url)
    done = run_command("--config", pacs.config_file, cwd=tmp_path)
    assert done.returncode == 1
    assert "the database failed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
