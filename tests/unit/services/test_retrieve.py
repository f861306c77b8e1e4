"""An opened instance is its data set and nothing else, as long as the index says, and closed in the end."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from archives import SmallArchive
from datasets import data_set_bytes, make_study

from pacs_server.errors import StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.index.queries import QueryIndex
from pacs_server.services.retrieve import RetrieveService


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallArchive]:
    archive = SmallArchive(tmp_path, f"sqlite:///{tmp_path}/pacs.db")
    yield archive
    archive.close()


@pytest.fixture
def retrieve(small: SmallArchive) -> RetrieveService:
    return RetrieveService(small.archive, QueryIndex(small.database))


@pytest.fixture
def stored(small: SmallArchive) -> StoredInstance:
    return small.store(make_study(1, 1))[0]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_data_set_is_read_from_any_offset(
    small: SmallArchive, retrieve: RetrieveService, stored: StoredInstance
) -> None:
    _, data = data_set_bytes(small.file(stored))
    before = descriptors()
    with retrieve.open(stored) as source:
        assert source.size == len(data)
        assert source.read(0, source.size) == data
        assert source.read(7, 100) == data[7:107]
        assert source.read(len(data) - 3, 100) == data[-3:]
        assert source.read(len(data), 100) == b""
    assert descriptors() == before


def test_the_head_of_the_file_is_no_part_of_it(
    small: SmallArchive, retrieve: RetrieveService, stored: StoredInstance
) -> None:
    """It says who sent the instance, from which address."""
    sender = b"127.0.0.1"
    assert sender in small.file(stored).read_bytes()
    with retrieve.open(stored) as source:
        assert sender not in source.read(0, stored.size)


def test_a_file_that_is_not_as_long_as_the_index_says_is_not_opened(
    small: SmallArchive, retrieve: RetrieveService, stored: StoredInstance
) -> None:
    before = descriptors()
    for size in (stored.size - 1, stored.size + 1):
        with pytest.raises(StorageUnavailable, match=f"has {stored.size} bytes, the index says {size}"):
            retrieve.open(replace(stored, size=size))
    small.file(stored).unlink()
    with pytest.raises(StorageUnavailable):
        retrieve.open(stored)
    assert descriptors() == before
