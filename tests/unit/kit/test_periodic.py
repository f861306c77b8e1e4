"""Tasks that are done again and again until they are stopped."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pacs_server.kit.periodic import Periodic

PATIENCE = 20.0


@contextmanager
def running(periodic: Periodic) -> Iterator[None]:
    periodic.start()
    try:
        yield
    finally:
        periodic.stop()


def test_a_task_is_done_at_once_and_again():
    enough = threading.Semaphore(0)
    with running(Periodic("task", 0.01, enough.release)):
        assert all(enough.acquire(timeout=PATIENCE) for _ in range(3))


def test_a_task_that_fails_is_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done = threading.Semaphore(0)

    def task() -> None:
        done.release()
        raise ZeroDivisionError

    with running(Periodic("fragile", 0.01, task)):
        for _ in range(3):
            assert done.acquire(timeout=PATIENCE)
    assert {(record.message, record.__dict__["work"]) for record in caplog.records} == {
        ("periodic work failed unexpectedly", "fragile")
    }


def test_a_task_that_can_wait_does():
    done = threading.Event()
    with running(Periodic("task", 3600, done.set, at_once=False)):
        assert not done.wait(0.05)


def test_the_end_waits_for_the_task_and_for_nothing_else():
    begun, ended = threading.Event(), threading.Event()

    def task() -> None:
        begun.set()
        periodic.stopping.wait(PATIENCE)
        ended.set()

    periodic = Periodic("task", 3600, task)
    began = time.monotonic()
    with running(periodic):
        assert begun.wait(PATIENCE)
    assert ended.is_set()
    assert time.monotonic() - began < PATIENCE
