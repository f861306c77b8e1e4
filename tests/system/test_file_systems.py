"""Slots on real file systems: a copy of the disk after each step shows what a power loss would leave.

Needs root, loop devices, and the tools that make the file systems.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacs_server.storage.filesystem.archive_directory import archive_directory
from pacs_server.storage.spool import IncomingFile, Spool, Stamp

# How to make each file system, and its smallest size that is sure to do, in MiB.
KINDS = {"ext4": ("-F", 64), "xfs": ("-f", 320), "btrfs": ("-f", 256)}
BLANK, WHOLE = b"    ", b"seal"


@dataclass
class Disk:
    """A file system in a file."""

    kind: str
    image: Path
    place: Path

    @contextmanager
    def mounted(self, image: Path | None = None) -> Iterator[Path]:
        """Mount the file system, or a copy of it."""
        options = "loop,nouuid" if self.kind == "xfs" else "loop"
        _run("mount", "-o", options, str(image or self.image), str(self.place))
        try:
            yield self.place
        finally:
            _run("umount", str(self.place))

    def copy(self, name: str) -> Path:
        """What a power loss would leave now."""
        target = self.image.with_name(name)
        _run("cp", "--sparse=always", str(self.image), str(target))
        return target


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    kind: str = request.param
    force, size = KINDS[kind]
    if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"needs root and mkfs.{kind}")
    disk = Disk(kind, tmp_path / "disk", tmp_path / "place")
    disk.place.mkdir()
    with disk.image.open("wb") as image:
        image.truncate(size << 20)
    _run(f"mkfs.{kind}", "-q", force, str(disk.image))
    try:
        with disk.mounted():
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"cannot mount: {error.stderr.decode(errors='replace').strip()}")
    return disk


def placed(spool: Spool, number: int) -> IncomingFile:
    """A file that was received and linked to its name, which was not synced."""
    file = spool.receive()
    file.write(BLANK + bytes([number]) * 20_000)
    spool.place(file, f"study{number}/series/{number}.dcm", Stamp(0, WHOLE, BLANK), name_later=True)
    return file


def left(root: Path) -> tuple[list[int], list[int]]:
    """The whole files in `incoming/`, and those under their final names."""
    whole = {WHOLE + bytes([number]) * 20_000: number for number in range(1, 5)}
    found: tuple[list[int], list[int]] = [], []
    for path in (root / "archive").rglob("*"):
        if path.suffix in (".part", ".dcm") and (data := path.read_bytes()) in whole:
            found[path.suffix == ".dcm"].append(whole[data])
    return sorted(found[0]), sorted(found[1])


@pytest.mark.slow
def test_a_power_loss_after_each_step(disk: Disk) -> None:
    with disk.mounted() as root:
        spool = archive_directory(root / "archive", slots=True).spool
        spool.prepare()
        files = [placed(spool, 1)]
        copies = {"one": disk.copy("one")}
        files.append(placed(spool, 2))
        copies["two"] = disk.copy("two")
        spool.sync_names([f"study{number}/series/{number}.dcm" for number in (1, 2)])
        copies["named"] = disk.copy("named")
        spool.retire(files)
        copies["retired"] = disk.copy("retired")
        files.append(placed(spool, 3))
        copies["another"] = disk.copy("another")
        spool.take_back(files[2], "study3/series/3.dcm", Stamp(0, BLANK, BLANK))
        copies["refused"] = disk.copy("refused")
        for file in files:
            file.discard()
        spool.close()

    kept = {}
    for name, image in copies.items():
        with disk.mounted(image) as root:
            kept[name] = left(root)
    # Before names are synced they may be there or not: what counts is that the slots are.
    assert kept["one"][0] == [1]
    assert kept["two"][0] == [1, 2]
    assert kept["named"] == ([1, 2], [1, 2])
    assert kept["retired"] == ([], [1, 2])
    assert kept["another"][0] == [3]
    assert kept["refused"] == ([], [1, 2])
