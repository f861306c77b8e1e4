"""Processes that run tasks of an embedded database know whether they are the first."""

import threading
from pathlib import Path

import pytest

from pacs_server.index.presence import Presence


def entered(presence: Presence) -> bool:
    """Whether it was alone."""
    calls: list[None] = []
    presence.enter(lambda: calls.append(None))
    return bool(calls)


def test_the_first_one_is_alone_until_it_leaves(tmp_path: Path) -> None:
    first, second, third = (Presence(tmp_path / "pacs.db") for _ in range(3))
    assert entered(first)
    assert not entered(second)
    first.leave()
    # The second one is still there.
    assert not entered(third)
    for each in (second, third):
        each.leave()
    assert entered(first)
    assert list(tmp_path.iterdir())
    first.leave()
    first.leave()
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_removed_meanwhile_is_no_place_to_wait(tmp_path: Path) -> None:
    first, second, third = (Presence(tmp_path / "pacs.db") for _ in range(3))
    path = tmp_path / "pacs.db-workers"

    calls: list[None] = []

    def remove_once() -> None:
        # As if the last one had left in between.
        if not calls:
            path.unlink()
        calls.append(None)

    first.enter(remove_once)
    assert len(calls) == 2
    assert not entered(second)
    second.leave()
    assert not entered(third)
    third.leave()
    first.leave()
    assert not path.exists()


def test_nobody_comes_in_while_one_is_alone(tmp_path: Path) -> None:
    first, second = Presence(tmp_path / "pacs.db"), Presence(tmp_path / "pacs.db")
    is_in = threading.Event()
    alone: list[bool] = []

    def come() -> None:
        alone.append(entered(second))
        is_in.set()

    thread = threading.Thread(target=come)

    def act() -> None:
        thread.start()
        assert not is_in.wait(0.1)

    first.enter(act)
    assert is_in.wait(20)
    thread.join()
    for each in (first, second):
        each.leave()
    # Nobody had begun when the second one came, so it does not matter which of the locks it got first.
    assert alone in ([True], [False])


def test_who_fails_while_alone_is_there_all_the_same(tmp_path: Path) -> None:
    first, second = Presence(tmp_path / "pacs.db"), Presence(tmp_path / "pacs.db")
    with pytest.raises(ZeroDivisionError):
        first.enter(lambda: 1 / 0)
    assert not entered(second)
    second.leave()
    first.leave()


def test_without_a_file_or_a_place_for_one_nobody_is_known_to_be_alone(tmp_path: Path) -> None:
    assert not entered(Presence(None))
    assert not entered(Presence(tmp_path / "missing" / "pacs.db"))
