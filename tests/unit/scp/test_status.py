"""Every error has a status, and statuses mean what PS3.7 Annex C says."""

import pytest

from pacs_server import errors
from pacs_server.dicom.status import Status, is_warning
from pacs_server.scp.status import STATUS_OF, status_of


def _all_errors(kind=errors.PacsError):
    for child in kind.__subclasses__():
        yield child
        yield from _all_errors(child)


def test_every_error_has_a_status_that_says_failure():
    assert set(STATUS_OF) >= set(_all_errors())
    for status in STATUS_OF.values():
        assert status != Status.SUCCESS
        assert not is_warning(status)
        assert status & 0xFF00 not in (0xFE00, 0xFF00)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.StorageFull("x"), 0xA700),
        (errors.IndexUnavailable("x", uncertain=True), 0xA700),
        (errors.InstanceMismatch("x"), 0xA900),
        (errors.InvalidInstance("x"), 0xC000),
        (errors.InvalidIdentifier("x"), 0xA900),
        (errors.DuplicateInstance("x"), 0x0111),
        (errors.UnknownMoveDestination("x"), 0xA801),
    ],
)
def test_statuses_that_peers_act_on(error, status):
    assert status_of(error) == status


@pytest.mark.parametrize("status", [0x0001, 0x0107, 0x0116, 0xB000, 0xB006, 0xB007])
def test_warnings(status):
    assert is_warning(status)


@pytest.mark.parametrize("status", [0x0000, 0x0110, 0xA700, 0xA900, 0xC000, 0xFE00, 0xFF00])
def test_what_is_no_warning(status):
    assert not is_warning(status)
