"""Many instances to one remote AE: order, outcomes, breaks, and where it stops."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from pacs_server.errors import StorageUnavailable
from pacs_server.index.instances import StoredInstance
from pacs_server.net.message import RESPONSE, Command
from pacs_server.net.transport import AssociationEnded, ConnectionLost
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.store import MoveOriginator, StorageSCU

SOURCE = object()
REMOTE = RemoteAE("DEST", "dest", 104, 1.0, 2.0)
SUCCESS, REFUSED, FAILED = 0x0000, 0xA700, 0x0110
LOST = ConnectionLost("connection closed by the peer")


def instance(number: int, sop_class: str = CTImageStorage) -> StoredInstance:
    uids = SimpleNamespace(study="1.2", series="1.2.3", sop=f"1.2.3.{number}")
    fields = {"uids": uids, "sop_class_uid": str(sop_class), "transfer_syntax_uid": str(ExplicitVRLittleEndian)}
    return SimpleNamespace(**fields, size=100, data_set_offset=50)  # type: ignore[return-value]


class Destination:
    """Stands for the requestor and for what its associations lead to; `answers` holds statuses and breaks by number."""

    def __init__(self) -> None:
        self.answers: dict[int, int | AssociationEnded | None] = {}
        self.down: dict[int, AssociationEnded] = {}
        self.requests: list[Command] = []
        self.opened: list[Sequence[str]] = []
        self.ends: list[str] = []
        self._tried = 0

    def open(self, remote: RemoteAE, contexts: Sequence[Any], roles: object) -> Any:
        assert remote is REMOTE
        self._tried += 1
        if self._tried in self.down:
            raise self.down[self._tried]
        self.opened.append([context.abstract_syntax for context in contexts])
        return SimpleNamespace(
            contexts_as_scu={(c.abstract_syntax, s): c.context_id for c in contexts for s in c.transfer_syntaxes[:1]},
            next_message_id=lambda: len(self.requests) + 1,
            send_source=self._send_source,
            read_message=self._read_message,
            skip_data=lambda: None,
            release=lambda: self.ends.append("released"),
        )

    def close(self, association: object, *, abort: bool) -> None:
        self.ends.append("aborted" if abort else "closed")

    def _send_source(self, context_id: int, request: Command, source: object) -> None:
        assert source is SOURCE
        self.requests.append(request)

    def _read_message(self) -> Any:
        request = self.requests[-1]
        answer = self.answers.get(len(self.requests), SUCCESS)
        if isinstance(answer, AssociationEnded):
            raise answer
        response = Command(command_field=(request.command_field or 0) | RESPONSE, status=answer)
        response.message_id_being_responded_to = request.message_id
        return SimpleNamespace(command=response)


class Stored:
    """Stands for the archive; the instances in `lost` cannot be opened."""

    def __init__(self) -> None:
        self.lost: set[str] = set()

    @contextmanager
    def open(self, instance: StoredInstance) -> Any:
        if instance.uids.sop in self.lost:
            raise StorageUnavailable("no such file")
        yield SOURCE


class Sent:
    """What one call of `send` came to."""

    def __init__(self, destination: Destination, stop: Callable[[int], bool] = lambda number: False) -> None:
        self.destination = destination
        self.stored = Stored()
        self.outcomes: list[tuple[list[str], int]] = []
        self._stop = stop

    def report(self, ended: Sequence[StoredInstance], status: int) -> bool:
        self.outcomes.append(([instance.uids.sop[-1] for instance in ended], status))
        return self._stop(len(self.outcomes))

    def send(self, *instances: StoredInstance, **options: Any) -> bool:
        scu = StorageSCU(self.destination, self.stored)  # type: ignore[arg-type]
        return scu.send(REMOTE, instances, self.report, **options)


FIVE = [instance(number) for number in range(1, 6)]


def test_each_instance_is_reported_with_its_status_in_order() -> None:
    sent = Sent(Destination())
    sent.destination.answers = {2: REFUSED, 3: 0xB000, 4: None}
    sent.stored.lost = {"1.2.3.5"}
    assert not sent.send(*FIVE)
    # A response without a status is one that nobody can understand.
    statuses = [SUCCESS, REFUSED, 0xB000, 0xC000, FAILED]
    assert sent.outcomes == [([str(number)], status) for number, status in enumerate(statuses, 1)]
    assert sent.destination.ends == ["released", "closed"]


def test_the_requests_name_who_asked() -> None:
    sent = Sent(Destination())
    sent.send(FIVE[0], originator=MoveOriginator("MOVER", 7))
    sent.send(FIVE[1])
    originators = [(r.move_originator_ae_title, r.move_originator_message_id) for r in sent.destination.requests]
    assert originators == [("MOVER", 7), (None, None)]
    assert [r.affected_sop_instance_uid for r in sent.destination.requests] == ["1.2.3.1", "1.2.3.2"]


def test_a_break_costs_one_instance() -> None:
    sent = Sent(Destination())
    sent.destination.answers = {3: LOST}
    assert not sent.send(*FIVE)
    assert sent.outcomes == [([str(number)], FAILED if number == 3 else SUCCESS) for number in range(1, 6)]
    assert sent.destination.ends == ["aborted", "released", "closed"]


def test_a_break_before_any_answer_costs_all() -> None:
    sent = Sent(Destination())
    sent.destination.answers = {3: LOST, 4: LOST}
    assert not sent.send(*FIVE)
    assert sent.outcomes == [(["1"], SUCCESS), (["2"], SUCCESS), (["3"], FAILED), (["4", "5"], FAILED)]


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_destination_that_cannot_be_reached_costs_all_that_was_planned_for_it(attempt: int) -> None:
    sent = Sent(Destination())
    sent.destination.answers = {2: LOST} if attempt == 2 else {}
    sent.destination.down = {attempt: LOST}
    sent.send(*FIVE)
    expected = [(["1", "2", "3", "4", "5"], FAILED)]
    if attempt == 2:
        expected = [(["1"], SUCCESS), (["2"], FAILED), (["3", "4", "5"], FAILED)]
    assert sent.outcomes == expected


def test_every_planned_association_is_tried() -> None:
    kinds = [instance(1, f"1.2.{number}") for number in range(70)]
    sent = Sent(Destination())
    sent.destination.down = {1: LOST}
    sent.send(*kinds)
    assert [len(ended) for ended, _ in sent.outcomes] == [64] + [1] * 6
    assert [len(names) for names in sent.destination.opened] == [12]


def test_it_stops_when_told_and_releases() -> None:
    sent = Sent(Destination(), lambda number: number == 2)
    assert sent.send(*FIVE)
    assert sent.outcomes == [(["1"], SUCCESS), (["2"], SUCCESS)]
    assert sent.destination.ends == ["released", "closed"]


def test_what_the_report_raises_aborts() -> None:
    def gone(number: int) -> bool:
        raise ConnectionLost("the one who asked is gone")

    sent = Sent(Destination(), gone)
    with pytest.raises(ConnectionLost, match="is gone"):
        sent.send(*FIVE)
    assert sent.outcomes == [(["1"], SUCCESS)]
    assert sent.destination.ends == ["aborted"]


def test_nothing_to_send_opens_nothing() -> None:
    sent = Sent(Destination())
    assert not sent.send()
    assert not sent.destination.opened
