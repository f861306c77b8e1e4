"""Fixtures for the tests against DCMTK's tools."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PacsProcess


@pytest.fixture
def pacs(database_url: str, tmp_path: Path) -> Iterator[PacsProcess]:
    """A running server on each kind of database."""
    with PacsProcess(tmp_path / "pacs", database_url) as server:
        yield server


@pytest.fixture
def sqlite_pacs(tmp_path: Path) -> Iterator[PacsProcess]:
    """A running server on SQLite, for what does not depend on the database."""
    with PacsProcess(tmp_path / "pacs") as server:
        yield server
