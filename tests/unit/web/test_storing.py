"""Who may store what over HTTP: roles are asked before the body is read, and limits hold for each instance."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import Mock

import pytest
from archives import SmallArchive
from datasets import make_ct
from starlette.applications import Starlette
from starlette.testclient import TestClient
from trails import Kept, recorder_of
from webclients import RELATED, called_by, part10, related, values

from pacs_server.audit.auditor import Auditor
from pacs_server.audit.events import EventID, Outcome
from pacs_server.config import Config
from pacs_server.dicom.caller import Caller, Door, Role
from pacs_server.dicom.scope import Scope
from pacs_server.errors import InvalidInstance, PacsError
from pacs_server.index.scope import ScopeIndex
from pacs_server.kit.metrics import Metrics
from pacs_server.kit.recently import Recently
from pacs_server.services.store import StoreService
from pacs_server.web.dicomweb.storing import Storing
from pacs_server.web.dicomweb.stow import STOW
from pacs_server.web.services import WebServices
from pacs_server.web.status import on_error

ANN = Caller(Door.WEB, "10.0.0.7", user="ann", role=Role.CONTRIBUTOR)
FAILED, REASON = "00081198", "00081197"


class Site:
    """An archive, and what a caller gets who stores there."""

    def __init__(self, archive: SmallArchive) -> None:
        self.archive = archive
        self.trail = Kept()
        services = SimpleNamespace(
            config=Config,
            store=StoreService(archive.archive, ScopeIndex(archive.database)),
            auditor=Auditor(recorder_of(self.trail)),
            metrics=Metrics(),
            stores_class=lambda uid: uid != "1.2.3",
        )
        routes = STOW(cast(WebServices, services)).routes()
        self._app = Starlette(routes=routes, exception_handlers={PacsError: on_error})

    def store(self, by: Caller, *contents: bytes) -> tuple[int, list[int]]:
        client = TestClient(called_by(self._app, by), base_url="http://127.0.0.1", client=("127.0.0.1", 1))
        headers = {"Content-Type": RELATED, "Accept": "application/dicom+json"}
        answer = client.post("/dicom-web/studies", content=related(contents), headers=headers)
        return answer.status_code, values(answer.json(), FAILED, REASON)


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Iterator[Site]:
    archive = SmallArchive(tmp_path, database_url, policy="reject")
    yield Site(archive)
    archive.close()


def test_readers_may_not_store(site: Site) -> None:
    assert site.store(replace(ANN, role=Role.READER), part10(make_ct())) == (403, [])
    assert site.trail.events == []


def test_sop_classes_that_are_not_stored(site: Site) -> None:
    assert site.store(ANN, part10(make_ct(SOPClassUID="1.2.3"))) == (409, [0x0122])


def test_limits_hold_for_each_instance(site: Site) -> None:
    limited = replace(ANN, scope=Scope(patients=(("P1", ""),)))
    own, foreign = make_ct(PatientID="P1"), make_ct(PatientID="P2")
    assert site.store(limited, part10(own), part10(foreign)) == (202, [0x0124])
    assert site.archive.index.get(str(own.SOPInstanceUID))
    assert not site.archive.index.get(str(foreign.SOPInstanceUID))


def test_what_is_hidden_is_not_told_by_its_uid(site: Site) -> None:
    """A known UID of another patient and an instance of another patient are answered alike."""
    hidden = make_ct(PatientID="P2")
    assert site.store(ANN, part10(hidden))[0] == 200
    guess = make_ct(sop=hidden.SOPInstanceUID, PatientID="P1")
    limited = replace(ANN, scope=Scope(patients=(("P1", ""),)))
    assert site.store(limited, part10(guess)) == site.store(limited, part10(make_ct(PatientID="P2"))) == (409, [0x0124])


def test_the_user_is_in_the_audit_trail(site: Site) -> None:
    site.store(ANN, part10(make_ct()), b"rubbish")
    begun, ended = site.trail.of(EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)
    for event in (begun, ended):
        assert event.participants[0].user_id == "ann"
        assert event.participants[0].address == "10.0.0.7"
    assert ended.outcome is Outcome.MINOR_FAILURE


def test_a_request_full_of_rubbish_does_not_fill_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="pacs_server.web.dicomweb.storing")
    status, reasons = site.store(ANN, *[b"x"] * 130)
    assert (status, len(reasons)) == (409, 0)
    said = [(record.message, getattr(record, "count", 1)) for record in caplog.records]
    assert said == [("instance refused", 1)] * 100 + [("more instances refused", 30)]


def test_the_report_keeps_no_tracebacks() -> None:
    storing = Storing(Mock(), ANN, None, Recently(60.0, 10))
    try:
        try:
            raise ValueError("odd bytes")
        except ValueError as error:
            raise InvalidInstance("the part is no DICOM file") from error
    except InvalidInstance as error:
        storing.failed(error)
    [failed] = storing.report.failed
    assert (failed.error.__traceback__, failed.error.__cause__, failed.error.__context__) == (None, None, None)
