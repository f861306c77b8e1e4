"""How many functions of Python and C each operation calls, which is most of its processor time; counted, not timed."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import calls
import pytest
from calls import Calls
from servers import AT_REST, config, eventually, running, server_threads

from benchmarks.client import STUDY_ROOT_FIND, VERIFICATION, Address, Association, open_and_release
from benchmarks.instances import find_template
from benchmarks.jobs import FindJob, GetJob, StoreJob, store_studies
from benchmarks.rows import SMALL
from pacs_server.app.server import PacsServer
from pacs_server.config import DatabaseConfig
from pacs_server.dicom import skim
from pacs_server.dicom.runs import Runs
from pacs_server.kit import logs
from pacs_server.net.message import CommandField

# What an operation may call: what it calls today. One that needs less lowers its number here.
CEILINGS = {"association": 190, "echo": 64, "store": 526, "find": 767, "match": 47, "get": 180}
# The same with a database server, whose driver is Python in part.
STORE_ON_POSTGRESQL = 606
# Versions of Python and of libraries differ a little.
ALLOWANCE = 1.03
LIMIT = 30.0
TIMES = 21
MANY = 21
# Matches and instances are counted by what many of them need more than one does.
OF_MANY = ("match", "get")


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """What each operation calls."""
    with _counting(tmp_path_factory.mktemp("calls")) as (counting, pacs):
        return _all(counting, pacs)


@contextmanager
def _counting(directory: Path, database: str | None = None) -> Iterator[tuple[Calls, PacsServer]]:
    """Counts what is called in a server that logs as one does that was installed."""
    root = logging.getLogger()
    # What other tests have left to be remembered would have to be looked through.
    fresh = {encoding: Runs() for encoding in skim._RUNS}
    with (
        mock.patch.multiple(root, handlers=[], level=root.level),
        mock.patch.dict(skim._RUNS, fresh),
        mock.patch.object(skim, "_known", {}),
    ):
        logs.configure(level="info", json=False, file=directory / "pacs.log", console=False)
        # Reading instances again in the background is work of its own.
        settings = config(directory, storage={"scrub_rate": None})
        if database is not None:
            settings = settings.model_copy(update={"database": DatabaseConfig(url=database)})
        with calls.counting() as counting, running(settings) as pacs:
            yield counting, pacs
        for handler in root.handlers:
            handler.close()


def _all(counting: Calls, pacs: PacsServer) -> dict[str, Counter[str]]:
    address = Address("PACS_SERVER", pacs.address[1])

    def messages(job: Callable[[], object]) -> Counter[str]:
        return calls.usual(_counted(counting, job)[0])

    def study(number: int, sops: range) -> Callable[[], object]:
        return StoreJob(address, SMALL, number, sops, LIMIT).run

    found = {
        "store": messages(study(1, range(1, 1 + TIMES))),
        "echo": messages(lambda: _echoes(address)),
        "association": calls.usual(_counted(counting, lambda: [open_and_release(address) for _ in range(TIMES)])[1]),
        "find": messages(FindJob(address, range(1, 2), TIMES, LIMIT).run),
    }
    store_studies(address, SMALL, range(2, 1 + MANY), range(100, 99 + MANY))
    found["match"] = messages(lambda: _find_all(address)) - found["find"]
    study(200, range(200, 200 + MANY))()
    one, many = (messages(GetJob(address, number, TIMES, LIMIT).run) for number in (2, 200))
    found["get"] = many - one
    return found


def _counted(counting: Calls, job: Callable[[], object]) -> tuple[list[Counter[str]], list[Counter[str]]]:
    """What the messages of one association have called, and all connections; the last message is the release."""
    assert eventually(lambda: server_threads() == AT_REST)
    counting.messages.clear()
    counting.connections.clear()
    job()
    assert eventually(lambda: server_threads() == AT_REST)
    pairs = zip(counting.connections, counting.messages, strict=False)
    return counting.messages[:-1], [connection + message for connection, message in pairs]


def _echoes(address: Address) -> None:
    with Association(address, [VERIFICATION]) as association:
        request = association.request(VERIFICATION, CommandField.C_ECHO)
        for _ in range(TIMES):
            association.echo(request)


def _find_all(address: Address) -> None:
    data = find_template(one_patient=False).data
    with Association(address, [STUDY_ROOT_FIND]) as association:
        request = association.request(STUDY_ROOT_FIND, CommandField.C_FIND, data)
        assert [association.find(request) for _ in range(TIMES)] == [MANY] * TIMES


@pytest.mark.parametrize("operation", CEILINGS)
def test_an_operation_calls_no_needless_functions(counted: dict[str, Counter[str]], operation: str) -> None:
    each = counted[operation].total() / (MANY - 1 if operation in OF_MANY else 1)
    assert each <= CEILINGS[operation] * ALLOWANCE, f"{each:.1f} calls\n{calls.told(counted[operation])}"


@pytest.mark.postgres
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_store_calls_few_functions_with_a_database_server(tmp_path: Path, database_url: str) -> None:
    with _counting(tmp_path, database_url) as (counting, pacs):
        job = StoreJob(Address("PACS_SERVER", pacs.address[1]), SMALL, 1, range(1, 1 + TIMES), LIMIT)
        each = calls.usual(_counted(counting, job.run)[0])
    assert each.total() <= STORE_ON_POSTGRESQL * ALLOWANCE, f"{each.total()} calls\n{calls.told(each)}"
