"""How the tests run side by side, and fixtures that many of them share."""

import compileall
import gc
import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import postgres
import processes
import pytest
import schema
import servers
import statement_cache
from alone import Room
from hypothesis import HealthCheck, settings
from sqlalchemy import URL, make_url

from pacs_server.app.server import PacsServer
from pacs_server.index.database import Database

settings.register_profile("dev", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.register_profile("fast", parent=settings.get_profile("dev"), max_examples=10, stateful_step_count=10)
settings.register_profile("soak", parent=settings.get_profile("dev"), max_examples=500)
# `--hypothesis-profile` on the command line wins over this.
settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")

statement_cache.share()
# Until all tests are found; see `pytest_collection_finish`.
gc.disable()

_ROOT = Path(__file__).resolve().parent.parent
_MOST_WORKERS = 8
_ROOM = pytest.StashKey[Room]()


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once: where Python may not keep bytecode every server process would compile it anew."""
    if not hasattr(config, "workerinput"):
        for folder in ("pacs_server", "migrations"):
            compileall.compile_dir(_ROOT / folder, quiet=2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for `-n auto`: half as many again as there are processors, because tests also wait for servers.

    For `-n logical` as many as there are processors, at least two, for tests that wait for nothing.
    """
    processors = len(os.sched_getaffinity(0))
    if config.option.numprocesses == "logical":
        return min(max(2, processors), _MOST_WORKERS)
    return min(max(2, processors * 3 // 2), _MOST_WORKERS)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests come first, so that no worker is left with one; those that want to be alone come last.

    What is marked `soak` is left out unless `-m` asks for it.
    """
    if "soak" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if _marked(item, "soak")])
        items[:] = [item for item in items if not _marked(item, "soak")]
    items.sort(key=lambda item: _marked(item, "alone") - _marked(item, "slow"))


def pytest_collection_finish() -> None:
    """The modules and the tests stay until the end: the collector of garbage need not look at them again and again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep tests that want to be alone apart from those of other workers, with all their fixtures."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    if _ROOM not in item.config.stash:
        item.config.stash[_ROOM] = Room(item.config._tmp_path_factory.getbasetemp().parent)
    with item.config.stash[_ROOM].entered(alone=_marked(item, "alone")):
        return (yield)


def _marked(item: pytest.Item, marker: str) -> bool:
    return item.get_closest_marker(marker) is not None


@pytest.fixture(autouse=True)
def _no_server_left() -> Iterator[None]:
    """A test that fails leaves no server behind, which would take the processors from the tests after it."""
    with processes.none_left():
        yield


@pytest.fixture(autouse=True)
def _unconfigured_logging() -> Iterator[None]:
    """Take back what a test configured: a log level that stays would hide log lines from the tests after it."""
    yield
    root = logging.getLogger()
    for handler in [one for one in root.handlers if type(one).__module__ == "pacs_server.kit.logs"]:
        root.removeHandler(handler)
        handler.close()
    for name in ("pacs_server", "pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """The address of a PostgreSQL server that lives as long as the test session."""
    with postgres.server() as url:
        if url is None:
            pytest.skip(postgres.HOW_TO_GET_ONE)
        yield url


@pytest.fixture(scope="session")
def postgres_template(postgres_server: URL) -> Iterator[str]:
    """The name of a PostgreSQL database that has all tables already, to be copied."""
    with postgres.fresh_database(postgres_server) as url:
        database = Database(url)
        database.migrate()
        database.close()
        yield str(make_url(url).database)


@pytest.fixture
def own_postgres() -> Iterator[postgres.PostgresProcess]:
    """A PostgreSQL server for one test, which may crash it."""
    with postgres.own_server() as server:
        if server is None:
            pytest.skip("no PostgreSQL that a test may crash: install the Debian package postgresql")
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of each kind, with all tables and no rows; marked `no_tables` without tables either."""
    bare = _marked(request.node, "no_tables")
    if request.param == "sqlite":
        if not bare:
            schema.prepare(tmp_path / "pacs.db")
        yield f"sqlite:///{tmp_path / 'pacs.db'}"
        return
    template = postgres.BARE if bare else request.getfixturevalue("postgres_template")
    with postgres.fresh_database(request.getfixturevalue("postgres_server"), template) as url:
        yield url


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., PacsServer]]:
    """Start a server below `tmp_path`, with settings as `servers.config` takes them."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(servers.running(servers.config(tmp_path, **settings)))
