"""Every error has a status in every service, and statuses mean what PS3.4 and PS3.7 Annex C say."""

from collections.abc import Iterator

import pytest

from pacs_server import errors
from pacs_server.dicom.status import Status, is_warning
from pacs_server.errors import PacsError
from pacs_server.scp.contexts import Service
from pacs_server.scp.status import STATUS_OF, status_of

N_SERVICES = (Service.MPPS, Service.MPPS_RETRIEVE, Service.COMMITMENT)


def all_errors(kind: type[PacsError] = PacsError) -> Iterator[type[PacsError]]:
    for child in kind.__subclasses__():
        yield child
        yield from all_errors(child)


@pytest.mark.parametrize("service", Service, ids=lambda service: service.name)
@pytest.mark.parametrize("error", list(all_errors()), ids=lambda error: error.__name__)
def test_every_error_has_a_status_that_says_failure_in_every_service(error: type[PacsError], service: Service) -> None:
    status = status_of(error("x"), service)
    assert status != Status.SUCCESS
    assert not is_warning(status)
    assert status & 0xFF00 not in (0xFE00, 0xFF00)


def test_nothing_but_errors_of_this_server_is_in_the_table() -> None:
    assert set(STATUS_OF) == set(Service)
    for table in STATUS_OF.values():
        assert set(table) == set(all_errors())


@pytest.mark.parametrize("service", N_SERVICES, ids=lambda service: service.name)
def test_dimse_n_services_have_no_statuses_of_storage_and_retrieval(service: Service) -> None:
    """PS3.7 10.1: A7xx is none of theirs."""
    assert [status for status in STATUS_OF[service].values() if status & 0xFF00 == 0xA700] == []


@pytest.mark.parametrize(
    ("error", "service", "status"),
    [
        (errors.StorageFull("x"), Service.STORAGE, 0xA700),
        (errors.IndexUnavailable("x", uncertain=True), Service.STORAGE, 0xA700),
        (errors.IndexUnavailable("x"), Service.FIND, 0xA700),
        (errors.IndexUnavailable("x"), Service.WORKLIST, 0xA700),
        (errors.IndexUnavailable("x"), Service.GET, 0xA700),
        (errors.IndexUnavailable("x"), Service.MOVE, 0xA700),
        (errors.IndexUnavailable("x"), Service.MPPS, 0x0213),
        (errors.IndexUnavailable("x"), Service.MPPS_RETRIEVE, 0x0213),
        (errors.IndexUnavailable("x"), Service.COMMITMENT, 0x0213),
        (errors.AuditUnavailable("x"), Service.FIND, 0xA700),
        (errors.AuditUnavailable("x"), Service.STORAGE, 0xA700),
        (errors.AuditUnavailable("x"), Service.MPPS, 0x0213),
        (errors.AuditUnavailable("x"), Service.COMMITMENT, 0x0213),
        (errors.InstanceMismatch("x"), Service.STORAGE, 0xA900),
        (errors.InvalidInstance("x"), Service.STORAGE, 0xC000),
        (errors.InvalidIdentifier("x"), Service.FIND, 0xA900),
        (errors.DuplicateInstance("x"), Service.STORAGE, 0x0111),
        (errors.DuplicateInstance("x"), Service.MPPS, 0x0111),
        (errors.ProcedureStepClosed("x"), Service.MPPS, 0x0110),
        (errors.InstanceNotFound("x"), Service.COMMITMENT, 0x0112),
        (errors.UnknownMoveDestination("x"), Service.MOVE, 0xA801),
        (errors.NotAuthorised("x"), Service.GET, 0x0124),
    ],
)
def test_statuses_that_peers_act_on(error: PacsError, service: Service, status: int) -> None:
    assert status_of(error, service) == status


@pytest.mark.parametrize("status", [0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007])
def test_warnings(status: int) -> None:
    assert is_warning(status)


@pytest.mark.parametrize("status", [0x0000, 0x0110, 0xA700, 0xA900, 0xC000, 0xFE00, 0xFF00])
def test_what_is_no_warning(status: int) -> None:
    assert not is_warning(status)
