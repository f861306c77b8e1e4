"""Fixtures that many tests share."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import postgres
import pytest
import servers
from hypothesis import HealthCheck, settings
from sqlalchemy import URL

from pacs_server.app.server import PacsServer

settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("soak", parent=settings.get_profile("dev"), max_examples=10_000)
# `--hypothesis-profile=soak` on the command line wins over this.
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """The address of a PostgreSQL server that lives as long as the test session."""
    with postgres.server() as url:
        if url is None:
            pytest.skip(postgres.HOW_TO_GET_ONE)
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'pacs.db'}"
        return
    with postgres.fresh_database(request.getfixturevalue("postgres_server")) as url:
        yield url


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., PacsServer]]:
    """Start a server below `tmp_path`, with settings as `servers.config` takes them."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(servers.running(servers.config(tmp_path, **settings)))
