"""The orders service: an acknowledgment for everything that comes, and what it did to the worklist."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import orders
import pytest
from trails import silent

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.errors import IndexUnavailable
from pacs_server.hl7.orders import OrderService
from pacs_server.index.database import Database
from pacs_server.index.worklist import WorklistIndex
from pacs_server.services.worklist import WorklistService


@pytest.fixture
def worklist(database_url: str) -> Iterator[WorklistService]:
    database = Database(database_url, fsync=False)
    database.migrate()
    yield WorklistService(WorklistIndex(database), silent(), only_own_station=lambda: False)
    database.close()


@pytest.fixture
def accepted() -> list[bool]:
    return []


@pytest.fixture
def service(worklist: WorklistService, accepted: list[bool]) -> OrderService:
    return OrderService(worklist, taken=accepted.append)


def take(service: OrderService, data: bytes) -> tuple[str, str, str]:
    return orders.answer(service.take(data, "10.0.0.1"))


def statuses(worklist: WorklistService) -> list[tuple[str, str]]:
    return sorted((row.item.scheduled_procedure_step_id, row.item.status) for row in worklist.list())


@pytest.mark.slow
def test_an_order_and_the_same_again(service: OrderService, worklist: WorklistService, accepted: list[bool]) -> None:
    assert take(service, orders.order()) == ("AA", "M1", "")
    assert take(service, orders.order()) == ("AA", "M1", "")
    assert statuses(worklist) == [("SPS1", "SCHEDULED")]
    assert accepted == [True, True]


@pytest.mark.slow
def test_a_changed_order(service: OrderService, worklist: WorklistService) -> None:
    take(service, orders.order())
    changed = orders.ORDER.replace("20260105093000", "20260107110000")
    assert take(service, orders.order(control="XO", control_id="M2", text=changed)) == ("AA", "M2", "")
    (row,) = worklist.list()
    assert text_of(row.item.step, "00400002") == "20260107"


def test_a_change_keeps_the_status(service: OrderService, worklist: WorklistService) -> None:
    take(service, orders.order())
    (row,) = worklist.list()
    worklist.set_status([row], ItemStatus.IN_PROGRESS)
    take(service, orders.order(control="XO"))
    assert statuses(worklist) == [("SPS1", "IN PROGRESS")]


def test_a_cancelled_order(service: OrderService, worklist: WorklistService) -> None:
    take(service, orders.order())
    take(service, orders.order(accession_number="A9"))
    for _ in range(2):  # a second time changes nothing
        assert take(service, orders.order(control="CA", control_id="M2")) == ("AA", "M2", "")
    found = {row.item.accession_number: str(row.item.status) for row in worklist.list()}
    assert found == {"A1": "CANCELLED", "A9": "SCHEDULED"}


def test_all_steps_of_an_order_are_cancelled(service: OrderService, worklist: WorklistService) -> None:
    assert take(service, orders.wire(orders.OMI, "utf-8"))[0] == "AA"
    assert take(service, orders.wire(orders.OMI.replace("ORC|NW", "ORC|CA"), "utf-8"))[0] == "AA"
    assert statuses(worklist) == [("SPS2", "CANCELLED"), ("SPS3", "CANCELLED")]


def test_what_cannot_be_cancelled(service: OrderService, worklist: WorklistService) -> None:
    code, _, reason = take(service, orders.order(control="CA"))
    assert (code, reason) == ("AE", "there is no such order")
    take(service, orders.order())
    (row,) = worklist.list()
    worklist.set_status([row], ItemStatus.COMPLETED)
    code, _, reason = take(service, orders.order(control="CA"))
    assert (code, reason) == ("AE", "the procedure step has begun and cannot be cancelled")
    assert statuses(worklist) == [("SPS1", "COMPLETED")]


def test_nothing_is_half_done(service: OrderService, worklist: WorklistService, accepted: list[bool]) -> None:
    bad = orders.segment("OBR", f3="FI9", f4="X^Y", f18="A9", f21="CT2", f36="202601060800")  # no modality
    code, control_id, reason = take(service, orders.wire(orders.ORDER + "ORC|NW|P|F\n" + bad))
    assert (code, control_id) == ("AE", "M1")
    assert reason.startswith("Modality")
    assert statuses(worklist) == []
    assert accepted == [False]


def test_what_is_no_message(service: OrderService) -> None:
    assert take(service, b"\0\xff")[:2] == ("AE", "")


def test_an_answer_names_the_message_even_if_it_cannot_be_read(service: OrderService) -> None:
    assert take(service, orders.order().replace(b"8859/1", b"EBCDIC"))[:2] == ("AE", "M1")


@pytest.mark.slow
def test_hostile_messages_cost_little(service: OrderService) -> None:
    started = time.process_time()
    header = b"MSH|^~\\&|||||||ORM^O01|M|P|2.3\r"
    for filler in (b"|", b"~", b"^", b"&", b"\\", b"\r", b"\n", b"A\r", b"ORC|NW\rOBR|\r"):
        assert take(service, header + b"PID|" + filler * (1_000_000 // len(filler)))[:2] == ("AE", "M")
    assert take(service, header + b"PID|||P||N\r" + b"ORC|CA||F\rOBR|\r" * 3000)[0] == "AE"
    assert time.process_time() - started < 20


def test_a_database_that_is_away(
    service: OrderService, worklist: WorklistService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AR says that another try may do better (HL7 2.9.2.2)."""

    @contextmanager
    def away(*_: object, **__: object) -> Iterator[None]:
        raise IndexUnavailable("away")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(Database, "begin", away)
        code, _, reason = take(service, orders.order())
    assert code == "AR"
    assert "try again" in reason
    assert take(service, orders.order())[0] == "AA"


def test_no_patient_data_is_logged(service: OrderService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    take(service, orders.order())
    take(service, orders.order(text=orders.ORDER.replace("|CT|", "|*|")))
    assert len(caplog.records) == 2
    logged = " ".join(str(record.__dict__) for record in caplog.records)
    assert not any(secret in logged for secret in ("Müller", "Anna", "P1", "1970"))


def test_a_rejected_order_is_logged_with_its_sender_and_control_id(
    service: OrderService, caplog: pytest.LogCaptureFixture
) -> None:
    take(service, orders.order(control="CA"))
    take(service, orders.order().replace(b"8859/1", b"EBCDIC").replace(b"M1", b"M" * 100_000))
    take(service, b"no message")
    first, long, headless = (vars(record) for record in caplog.records if record.message == "order rejected")
    assert (first["sender"], first["message_id"], first["peer"]) == ("RIS|HOSP", "M1", "10.0.0.1")
    assert (long["sender"], long["message_id"]) == ("RIS|HOSP", "M" * 64)
    assert "message_id" not in headless
