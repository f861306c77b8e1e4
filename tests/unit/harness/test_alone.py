"""Tests that want to be alone are alone, and need not wait for ever."""

import threading
import time
from pathlib import Path

import pytest
from alone import Room
from servers import eventually


def test_who_is_alone_has_nobody_beside_it(tmp_path: Path) -> None:
    first, second = Room(tmp_path), Room(tmp_path)
    inside = threading.Event()

    def enter() -> None:
        with second.entered(alone=True):
            inside.set()

    thread = threading.Thread(target=enter)
    with first.entered(alone=False):
        thread.start()
        assert not inside.wait(0.2)
    assert inside.wait(60)
    thread.join()


def test_others_are_beside_each_other(tmp_path: Path) -> None:
    with Room(tmp_path).entered(alone=False), Room(tmp_path).entered(alone=False):
        pass


@pytest.mark.slow
def test_those_who_come_later_do_not_overtake_who_waits_to_be_alone(tmp_path: Path) -> None:
    order: list[str] = []
    threads = []

    def enter(name: str, *, alone: bool) -> None:
        with Room(tmp_path).entered(alone=alone):
            order.append(name)

    with Room(tmp_path).entered(alone=False):
        for name, alone in (("alone", True), ("later", False)):
            threads.append(threading.Thread(target=enter, args=(name,), kwargs={"alone": alone}))
            threads[-1].start()
            # Long enough for it to come in, if anything lets it.
            time.sleep(0.2)
        assert order == []
    assert eventually(lambda: len(order) == 2)
    for thread in threads:
        thread.join()
    assert order == ["alone", "later"]
