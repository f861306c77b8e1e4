"""What became of the instances of a Store transaction is told as PS3.18 Annex I says."""

import pytest

from pacs_server import errors
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.errors import PacsError
from pacs_server.scp.contexts import Service
from pacs_server.scp.status import STATUS_OF
from pacs_server.web.dicomweb.store_report import FAILURE_REASONS, Failed, Stored, StoreReport, failure_reason

UIDS = InstanceUIDs("1.2", "1.3", "1.4")
GOOD, WARNED = Stored("1.5", UIDS, None), Stored("1.5", UIDS, 0xB000)
FULL = Failed("1.5", "1.6", errors.StorageFull(""))
AWAY = Failed("1.5", "1.6", errors.IndexUnavailable(""))
BROKEN = Failed("", "", errors.InvalidInstance(""))


@pytest.mark.parametrize(
    "kind", [kind for kind in FAILURE_REASONS if kind is not errors.UnsupportedSOPClass], ids=lambda kind: kind.__name__
)
def test_reasons_are_the_statuses_of_c_store(kind: type[PacsError]) -> None:
    assert FAILURE_REASONS[kind] == STATUS_OF[Service.STORAGE][kind]


def test_an_error_without_a_reason_of_its_own() -> None:
    assert failure_reason(errors.ObjectNotFound("")) == Status.OUT_OF_RESOURCES  # it is a StorageUnavailable
    assert failure_reason(errors.UserError("")) == Status.PROCESSING_FAILURE


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (StoreReport([GOOD]), 200),
        (StoreReport([GOOD, WARNED]), 202),
        (StoreReport([GOOD], [BROKEN]), 202),
        (StoreReport([GOOD], broken="cut"), 202),
        (StoreReport([], [BROKEN]), 409),
        (StoreReport([], [FULL, FULL]), 507),
        (StoreReport([], [FULL, AWAY]), 503),
        (StoreReport([], [FULL, BROKEN]), 409),
    ],
)
def test_statuses(report: StoreReport, status: int) -> None:
    assert report.status == status


def module(report: StoreReport) -> dict[str, object]:
    return report.module(lambda study: f"/s/{study}", lambda uids: f"/i/{uids.sop}")


def test_the_module() -> None:
    assert module(StoreReport([WARNED], [FULL, BROKEN], "cut")) == {
        "00081190": {"vr": "UR", "Value": ["/s/1.2"]},
        "00081198": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": ["1.5"]},
                    "00081155": {"vr": "UI", "Value": ["1.6"]},
                    "00081197": {"vr": "US", "Value": [0xA700]},
                }
            ],
        },
        "00081199": {
            "vr": "SQ",
            "Value": [
                {
                    "00081150": {"vr": "UI", "Value": ["1.5"]},
                    "00081155": {"vr": "UI", "Value": ["1.4"]},
                    "00081190": {"vr": "UR", "Value": ["/i/1.4"]},
                    "00081196": {"vr": "US", "Value": [0xB000]},
                }
            ],
        },
        "0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xC000]}}] * 2},
    }


def test_what_is_not_there_is_left_out() -> None:
    other = Stored("1.5", InstanceUIDs("1.9", "1.3", "1.7"), None)
    assert module(StoreReport([GOOD])).keys() == {"00081190", "00081199"}
    assert module(StoreReport([GOOD, other]))["00081190"] == {"vr": "UR"}
    assert module(StoreReport([], [BROKEN])).keys() == {"00081190", "0008119A"}
