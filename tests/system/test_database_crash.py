"""A database server that crashes while the server stays up: what was acknowledged is found in every answer."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from datasets import make_ct, uid
from postgres import PostgresProcess
from processes import PacsProcess, run_command, wait_for
from pydicom.dataset import Dataset
from rawpeer import EXPLICIT, IMPLICIT, STUDY_ROOT_FIND, Instance, associate, association, find, store
from servers import CT

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

STORED = 40
PEERS = 4
# An even number: in every second round more is stored.
ROUNDS = 2
WRITTEN_AGAIN = "rows that the database had lost were written again"


def _shut_down(server: PostgresProcess) -> None:
    server.shut_down()
    server.start()


def _kill(server: PostgresProcess) -> None:
    server.kill()
    server.start()


def _kill_a_part(server: PostgresProcess) -> None:
    server.kill_a_part()


CRASHES: list[Callable[[PostgresProcess], None]] = [_shut_down, _kill, _kill_a_part]


@pytest.fixture
def pacs(own_postgres: PostgresProcess, tmp_path: Path) -> Iterator[PacsProcess]:
    """A server on a database that it alone uses."""
    url = own_postgres.url.render_as_string(hide_password=False)
    with PacsProcess(tmp_path / "pacs", url, {"storage": {"fsync": "slots"}}) as pacs:
        # The first peers seen are written in the background, the next ones a minute later.
        with association(pacs.port, [(CT, EXPLICIT)]) as link:
            assert store(link, Instance.of(make_ct())).status == 0
        wait_for(lambda: pacs.incoming_files() == 0, "a checkpoint")
        yield pacs


class Series:
    """A series that grows; what is acknowledged of it."""

    def __init__(self) -> None:
        self.study, self.uid = uid(), uid()
        self.acknowledged: set[str] = set()

    def store(self, link: Any) -> bool:
        """Store one more instance; whether it was acknowledged."""
        instance = Instance.of(make_ct(self.study, self.uid))
        if store(link, instance).status:
            return False
        self.acknowledged.add(instance.sop_instance_uid)
        return True

    def is_found(self, link: Any) -> bool:
        """Whether a query is answered; its answer names all that was acknowledged before."""
        expected = set(self.acknowledged)
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.SOPInstanceUID = "IMAGE", ""
        keys.StudyInstanceUID, keys.SeriesInstanceUID = self.study, self.uid
        final, matches = find(link, keys)
        if final.status:
            return False
        assert not expected - {str(match.SOPInstanceUID) for match in matches}
        return True


def rows(url: str) -> int:
    """How many instances the database has, asked without the server."""
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql")) as connection:
        found = connection.execute("SELECT count(*) FROM instance").fetchone()
        assert found is not None
        return int(found[0])


def agrees(pacs: PacsProcess) -> None:
    """Rows, files and counters agree."""
    verified = run_command("verify", "--config", pacs.config_file, cwd=pacs.directory)
    assert verified.returncode == 0, verified.stdout
    assert pacs.instances() == rows(str(pacs.database_url)) == len(pacs.files())


@contextmanager
def stopped(pacs: PacsProcess) -> Iterator[None]:
    """The server stands still, wherever it is."""
    os.kill(pacs.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pacs.pid, signal.SIGCONT)


@pytest.mark.parametrize("crash", CRASHES)
def test_no_query_misses_what_was_acknowledged_right_before(
    pacs: PacsProcess, own_postgres: PostgresProcess, crash: Callable[[PostgresProcess], None]
) -> None:
    lost = 0
    for number in range(ROUNDS):
        series, before = Series(), rows(str(pacs.database_url))
        links = [associate(pacs.port, [(STUDY_ROOT_FIND, IMPLICIT)]) for _ in range(PEERS)]
        with association(pacs.port, [(CT, EXPLICIT)]) as link:
            own_postgres.hold_writes()
            # The checkpoint comes after a quarter of a second: sometimes it is under way, or over.
            assert all([series.store(link) for _ in range(STORED if number % 2 else STORED // 4)])
            with stopped(pacs):
                crash(own_postgres)
                now = wait_for_rows(str(pacs.database_url))
                lost += before + len(series.acknowledged) - now
        with ThreadPoolExecutor(PEERS) as threads:
            list(threads.map(partial(asks, series), links))
        for link in links:
            link.transport.close()
    assert lost > 0
    assert WRITTEN_AGAIN in pacs.log()
    wait_for(lambda: pacs.incoming_files() == 0, "a checkpoint")
    agrees(pacs)
    stored = pacs.instances()
    pacs.stop()
    pacs.start()
    assert (pacs.instances(), pacs.metric("pacs_recovered_total")) == (stored, 0)


def wait_for_rows(url: str) -> int:
    """How many rows the database has as soon as it is there again."""

    def ask() -> int:
        try:
            return rows(url) + 1
        except psycopg.OperationalError:
            return 0

    return int(wait_for(ask, "the database")) - 1


def asks(series: Series, link: Any) -> None:
    """Ask until there was an answer, and some times more."""
    wait_for(lambda: series.is_found(link), "an answer")
    for _ in range(5):
        wait_for(lambda: series.is_found(link), "an answer")


def test_no_query_misses_anything_while_the_database_crashes_again_and_again(
    pacs: PacsProcess, own_postgres: PostgresProcess
) -> None:
    choices = random.Random(0)
    every = [Series() for _ in range(PEERS)]
    over = threading.Event()

    def send(series: Series) -> None:
        with association(pacs.port, [(CT, EXPLICIT)]) as link:
            while not over.is_set():
                series.store(link)

    def ask(number: int) -> int:
        answered = 0
        with association(pacs.port, [(STUDY_ROOT_FIND, IMPLICIT)]) as link:
            while not over.is_set():
                answered += every[number % PEERS].is_found(link)
        return answered

    with ThreadPoolExecutor(2 * PEERS) as threads:
        senders = [threads.submit(send, series) for series in every]
        askers = [threads.submit(ask, number) for number in range(PEERS)]
        try:
            for _ in range(ROUNDS):
                before = [len(series.acknowledged) for series in every]
                wait_for(lambda: all(len(s.acknowledged) > n + 3 for s, n in zip(every, before)), "stores")  # noqa: B023, B905
                own_postgres.hold_writes()
                over.wait(choices.uniform(0, 0.4))  # the moment of the crash is the point here
                choices.choice(CRASHES)(own_postgres)
        finally:
            over.set()
        assert [sender.result(60) for sender in senders] == [None] * PEERS
        assert all(asker.result(60) for asker in askers)
    with association(pacs.port, [(STUDY_ROOT_FIND, IMPLICIT)]) as link:
        for series in every:
            wait_for(lambda: series.is_found(link), "an answer")  # noqa: B023
    # What was not acknowledged because its commit was cut off waits for the next start.
    pacs.stop()
    pacs.start()
    with association(pacs.port, [(STUDY_ROOT_FIND, IMPLICIT)]) as link:
        assert all(series.is_found(link) for series in every)
    assert pacs.incoming_files() == 0
    agrees(pacs)
