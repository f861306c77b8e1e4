"""What recent data sets have in common is remembered within bounds, whatever a peer sends."""

import struct

from pacs_server.dicom.runs import KEY, Runs, Step


def steps(data: bytes, length: int) -> list[Step]:
    """Elements of the same length one after the other."""
    return [(at, at + length, at, None) for at in range(0, len(data), length)]


def test_runs_are_short_even_if_all_elements_are_known() -> None:
    data = b"".join(struct.pack("<HHL", 8, number, 0) for number in range(1000))
    runs = Runs()
    for _ in range(3):
        runs.learn(data, steps(data, 8))
    kept = [run for alike in runs.by_key.values() for run in alike]
    assert len(kept) > 1
    assert max(len(run.raw) for run in kept) <= 4096
    assert all(run.raw.startswith(key) and len(key) == KEY for key, alike in runs.by_key.items() for run in alike)


def test_no_more_runs_are_remembered_than_there_are_places() -> None:
    runs = Runs()
    for first in range(3000):
        data = b"".join(struct.pack("<HHLL", 8, number, 4, first) for number in range(4))
        for _ in range(2):
            runs.learn(data, steps(data, 12))
    assert 0 < sum(len(alike) for alike in runs.by_key.values()) <= 256 * 8
