"""The next instance is opened while a remote has not answered, and nothing that was opened stays open."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import StorageUnavailable
from pacs_server.net.message import RESPONSE, Command
from pacs_server.net.transport import ConnectionLost
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.read_ahead import ReadAhead
from pacs_server.scu.sending import Outgoing

KIND = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
LARGE = 1024 * 1024


class Stored:
    """A stored data set that tells what happens to it."""

    def __init__(self, log: list[str], name: str, size: int = 100) -> None:
        self.size = size
        self.name = name
        self._log = log

    def read(self, offset: int, length: int) -> bytes:
        self._log.append(f"read {self.name}")
        return bytes(length)[: self.size - offset]

    def close(self) -> None:
        self._log.append(f"close {self.name}")

    def __enter__(self) -> "Stored":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Remote:
    """An association that notes what is sent and read on it, and a pool that has only this one."""

    busy = False

    def __init__(self, log: list[str]) -> None:
        self.name = "1"
        self.contexts_as_scu = {KIND: 1}
        self.breaks = False
        self._log = log
        self._number = 0

    @contextmanager
    def link(self, remote: object, contexts: object) -> Iterator["Remote"]:
        yield self

    def exchange(self, operation: Callable[["Remote"], Any]) -> Any:
        return operation(self)

    def next_message_id(self) -> int:
        self._number += 1
        return self._number

    def send_source(self, context_id: int, request: Command, source: Any) -> None:
        self._request = request
        self._log.append(f"send {len(source.read(0, source.size))}")

    def read_message(self) -> Any:
        if self.breaks:
            raise ConnectionLost("gone")
        self._log.append("answer")
        answer = Command(
            command_field=(self._request.command_field or 0) | RESPONSE,
            message_id_being_responded_to=self._request.message_id,
            status=0,
        )
        return type("Message", (), {"command": answer})

    def skip_data(self) -> None: ...


class Remotes:
    """As much of a remote's settings as a sender asks for."""

    name = "A"
    transfer_syntaxes = ()
    max_associations = 1


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def there(log: list[str]) -> Remote:
    return Remote(log)


@pytest.fixture
def sender(there: Remote) -> DIMSESender:
    return DIMSESender(there, Remotes())  # type: ignore[arg-type]


def instance(log: list[str], name: str, size: int = 100, kind: tuple[str, str] = KIND) -> Outgoing:
    def opened() -> Stored:
        log.append(f"open {name}")
        return Stored(log, name, size)

    return Outgoing(InstanceUIDs("1.2", "1.2.3", "1.2.3.4"), *kind, opened)


def test_the_next_one_is_read_before_the_answer_and_only_once(sender: DIMSESender, log: list[str]) -> None:
    first, second = instance(log, "a"), instance(log, "b")
    with sender:
        sender.send(first, second)
        assert log == ["open a", "read a", "send 100", "close a", "open b", "read b", "answer"]
        log.clear()
        assert sender.send(second).is_success
    assert log == ["send 100", "close b", "answer"]


def test_what_is_large_is_only_opened(sender: DIMSESender, log: list[str]) -> None:
    first, second = instance(log, "a"), instance(log, "b", LARGE)
    with sender:
        sender.send(first, second)
        assert log[-2:] == ["open b", "answer"]
        log.clear()
        sender.send(second)
    assert log == ["read b", f"send {LARGE}", "close b", "answer"]


def test_what_is_not_sent_is_closed(sender: DIMSESender, log: list[str]) -> None:
    with sender:
        sender.send(instance(log, "a"), instance(log, "b"))
        sender.send(instance(log, "c"), instance(log, "d"))
        assert log.index("close b") < log.index("open c")
    assert log[-1] == "close d"


def test_a_broken_association_costs_the_next_one_nothing(sender: DIMSESender, there: Remote, log: list[str]) -> None:
    first, second = instance(log, "a"), instance(log, "b")
    with sender:
        there.breaks = True
        assert not sender.send(first, second).is_success
        there.breaks = False
        assert sender.send(second).is_success
    assert log.count("open b") == log.count("close b") == 1


def test_one_that_cannot_be_read_fails_in_its_own_turn(sender: DIMSESender, log: list[str]) -> None:
    def missing() -> Stored:
        raise StorageUnavailable("gone")

    second = Outgoing(InstanceUIDs("1.2", "1.2.3", "1.2.3.4"), *KIND, missing)
    with sender:
        assert sender.send(instance(log, "a"), second).is_success
        with pytest.raises(StorageUnavailable):
            sender.send(second)


def test_what_cannot_be_read_is_closed(log: list[str]) -> None:
    class Broken(Stored):
        def read(self, offset: int, length: int) -> bytes:
            raise StorageUnavailable("gone")

    with pytest.raises(StorageUnavailable):
        ReadAhead(Broken(log, "a"))
    assert log == ["close a"]


def test_what_has_to_be_transcoded_waits_for_its_turn(sender: DIMSESender, log: list[str]) -> None:
    with sender:
        sender.send(instance(log, "a"), instance(log, "b", kind=(KIND[0], "1.2.840.10008.1.2.5")))
    assert "open b" not in log


@pytest.mark.parametrize(("offset", "length", "found"), [(0, 5, 5), (0, 200, 100), (95, 10, 5), (200, 5, 0)])
def test_any_piece_can_be_read(log: list[str], offset: int, length: int, found: int) -> None:
    with ReadAhead(Stored(log, "a")) as ahead:
        assert len(ahead.read(offset, length)) == found
