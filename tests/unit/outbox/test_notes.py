"""Notes of answers: kept soon and in their order, and bounded while the database is slow."""

import threading
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from pacs_server.errors import IndexUnavailable
from pacs_server.index.deliveries import DeliveryState, Note
from pacs_server.outbox.notes import MOST_LOST, Notes


def note(number: int) -> Note:
    return Note(number, DeliveryState.DELIVERED, datetime.now(UTC))


class Slow:
    """A database that keeps nothing until it is told."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.may = threading.Event()

    def __call__(self, notes: Sequence[Note]) -> None:
        assert self.may.wait(20)
        self.kept += [each.delivery for each in notes]


def test_all_are_kept_in_their_order() -> None:
    database = Slow()
    database.may.set()
    notes = Notes(database)
    for number in range(100):
        notes.add(note(number))
    notes.flush()
    assert database.kept == list(range(100))
    notes.close()


def test_sending_goes_on_while_a_few_are_written_and_waits_then() -> None:
    database = Slow()
    notes = Notes(database)
    added: list[int] = []

    def add_many() -> None:
        for number in range(200):
            notes.add(note(number))
            added.append(number)

    thread = threading.Thread(target=add_many)
    thread.start()
    thread.join(0.3)
    # Whoever dies now has lost so many.
    assert 8 < len(added) < MOST_LOST
    database.may.set()
    thread.join(20)
    notes.close()
    assert database.kept == list(range(200))


def test_what_could_not_be_kept_is_told() -> None:
    def keep(notes: Sequence[Note]) -> None:
        raise IndexUnavailable("the database failed")

    notes = Notes(keep)
    for number in range(8):
        notes.add(note(number))
    with pytest.raises(IndexUnavailable):
        notes.flush()
    notes.add(note(8))
    with pytest.raises(IndexUnavailable):
        notes.close()
