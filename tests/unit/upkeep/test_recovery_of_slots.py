"""A slot counts as whole if all that its seal says is so; recovery looks at no more than what is in `incoming/`."""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import make_ct
from nodes import Killed, Node, check, digest, interrupted, sqlite

from pacs_server.dicom.part10 import NO_SEAL, Seal, decode_head
from pacs_server.storage.filesystem.incoming_file import FileSystemIncoming

_BLOCK = 512


def killed(*_: object, **__: object) -> None:
    raise Killed


def sealed(root: Path, url: str, number: int) -> dict[Path, str]:
    """Slots of a dead process that were sealed and synced, and have no other name; with the digests of their bytes."""
    node, choices = Node(root, url, slots=True, migrated=True), random.Random(number)
    digests = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", killed)
        patch.setattr(FileSystemIncoming, "discard", lambda _: None)
        for _ in range(number):
            ds = make_ct(rows=choices.choice((8, 64)))
            with pytest.raises(Killed):
                node.store(ds)
            digests[str(ds.SOPInstanceUID)] = digest(ds)
    node.die()
    slots = [path for path in (root / "incoming").glob("*.part") if path.stat().st_size]
    heads = {path: decode_head(path.read_bytes()) for path in slots}
    return {path: digests[head.media_storage_sop_instance_uid] for path, head in heads.items() if head}


# ------------------------------------------------------------------------------------ torn

Tear = Callable[[bytes, random.Random], bytes]


def cut(data: bytes, choices: random.Random) -> bytes:
    return data[: choices.randrange(len(data))]


def cut_at_a_block(data: bytes, choices: random.Random) -> bytes:
    return data[: choices.randrange(len(data) // _BLOCK) * _BLOCK]


def zeros_at_the_end(data: bytes, choices: random.Random) -> bytes:
    at = choices.randrange(len(data))
    return data[:at] + bytes(len(data) - at)


def a_block_of_zeros(data: bytes, choices: random.Random) -> bytes:
    at = choices.randrange(len(data) // _BLOCK) * _BLOCK
    return data[:at] + bytes(len(data[at : at + _BLOCK])) + data[at + _BLOCK :]


def only_the_head(data: bytes, _: random.Random) -> bytes:
    return data[: 2 * _BLOCK] + bytes(len(data) - 2 * _BLOCK)


def more_behind(data: bytes, choices: random.Random) -> bytes:
    return data + bytes(choices.randrange(2, 4096, 2))


def no_seal(data: bytes, _: random.Random) -> bytes:
    seal = decode_head(data).seal.encode()  # type: ignore[union-attr]
    return data.replace(seal, NO_SEAL)


def half_a_seal(data: bytes, choices: random.Random) -> bytes:
    seal = decode_head(data).seal.encode()  # type: ignore[union-attr]
    at = choices.randrange(1, len(seal))
    return data.replace(seal, seal[:at] + NO_SEAL[at:])


def another_seal(data: bytes, _: random.Random) -> bytes:
    seal = decode_head(data).seal
    assert seal is not None
    return data.replace(seal.encode(), Seal(seal.size, seal.digest[::-1], seal.number, seal.version).encode())


def intact(data: bytes, _: random.Random) -> bytes:
    return data


TEARS: list[Tear] = [
    cut,
    cut_at_a_block,
    zeros_at_the_end,
    a_block_of_zeros,
    only_the_head,
    more_behind,
    no_seal,
    half_a_seal,
    another_seal,
    intact,
]


@pytest.mark.slow
def test_what_was_torn_never_counts_as_whole(tmp_path: Path) -> None:
    url, choices = sqlite(tmp_path)(1), random.Random(13)
    expected = set()
    for number, (path, sha) in enumerate(sorted(sealed(tmp_path / "archive", url, 400).items())):
        data = path.read_bytes()
        torn = TEARS[number % len(TEARS)](data, choices)
        path.write_bytes(torn)
        # Zeros may stand where there were zeros before.
        if torn == data:
            expected.add(sha)
    node = Node(tmp_path / "archive", url, slots=True, migrated=True)
    found = node.recover()
    assert {sha for _, sha in node.rows().values()} == expected
    assert len(expected) >= 40
    assert found["indexed"] == len(expected)
    assert found["quarantined"] > 300
    check(node, {})
    assert node.left() == []
    node.die()


# ------------------------------------------------------------------------------------ bounded


def test_recovery_looks_at_nothing_but_the_leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So its time depends on the number of slots alone."""
    root, url = tmp_path / "archive", sqlite(tmp_path)(1)
    node = Node(root, url, slots=True, migrated=True)
    study = make_ct()
    for _ in range(5):
        node.store(make_ct(study.StudyInstanceUID, study.SeriesInstanceUID))
    node.archive.checkpoints.take()
    left = [make_ct(study.StudyInstanceUID, study.SeriesInstanceUID) for _ in range(3)]
    node.store(left[0])
    node.die()
    interrupted(root, url, left[1], slots=True)
    interrupted(root, url, left[2], slots=True)
    next(root.rglob(f"{left[2].SOPInstanceUID}.dcm")).unlink()
    node = Node(root, url, slots=True, migrated=True)
    opened, real = [], os.open

    def watch(path: Any, *args: Any, **options: Any) -> int:
        opened.append(str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "open", watch)
    for name in ("list", "exists", "info"):
        monkeypatch.setattr(node.storage, name, lambda *_: pytest.fail("the archive was looked at"))
    assert node.recover() == {"complete": 1, "indexed": 2}
    monkeypatch.undo()
    files = {path for path in opened if path.endswith(".dcm")}
    assert {Path(path).stem for path in files} <= {ds.SOPInstanceUID for ds in left}
    check(node, {ds.SOPInstanceUID: digest(ds) for ds in left})
    node.die()
