"""Fixtures for the tests against DCMTK's tools."""

from collections.abc import Iterator

import postgres
import pytest
from processes import PacsProcess


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def pacs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsProcess]:
    """A running server on each kind of database, shared by a module: tests look at their own studies only."""
    directory = tmp_path_factory.mktemp("pacs")
    if request.param == "sqlite":
        with PacsProcess(directory) as server:
            yield server
        return
    postgres_server, template = map(request.getfixturevalue, ("postgres_server", "postgres_template"))
    with (
        postgres.fresh_database(postgres_server, template) as url,
        PacsProcess(directory, url) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def sqlite_pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsProcess]:
    """A running server for what does not depend on the database."""
    with PacsProcess(tmp_path_factory.mktemp("pacs")) as server:
        yield server
