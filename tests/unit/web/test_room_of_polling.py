"""The room about what the archive fetches by itself, and what the worklist says of earlier studies."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from rooms import Rooms
from worklists import numbered

from pacs_server.config import RemoteAEConfig
from pacs_server.config.sections.polling import PollingConfig
from pacs_server.dicom.caller import Role
from pacs_server.index.prefetching import Prior
from pacs_server.services.polling import Finder
from pacs_server.services.prefetching import Patient

POLLING = (
    PollingConfig.model_validate({"remote": "WS1", "every": "5m", "query": {"ModalitiesInStudy": "<SM>"}}),
    PollingConfig.model_validate({"remote": "WS2", "name": "night", "every": "1h"}),
)
REMOTES = tuple(RemoteAEConfig(ae_title=name, host="127.0.0.1", port=104) for name in ("WS1", "WS2"))


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    rooms = Rooms(tmp_path)
    rooms.config = rooms.config.model_copy(update={"remote_aes": REMOTES})
    yield rooms
    rooms.close()


def match(uid: str, patient: str = "P1") -> dict[str, Any]:
    values = {"0020000D": uid, "00100020": patient, "00080020": "20260105", "00201208": "10"}
    return {tag: {"vr": "LO", "Value": [value]} for tag, value in values.items()}


def test_nothing_is_polled(rooms: Rooms) -> None:
    page = rooms.page("/polling")
    assert "No remote is polled." in page
    assert "There are no such studies." in page


def test_how_the_polling_stands_and_what_was_found(rooms: Rooms) -> None:
    rooms.config = rooms.config.model_copy(update={"polling": POLLING})
    polling = rooms.archive.polling
    rooms.act_as(Role.OPERATOR)
    assert rooms.page("/polling").count("It has not been searched yet.") == 2
    now = datetime.now(UTC)
    polling.answered("WS1", now, 3, 2)
    polling.failed("night", now, "cannot connect to <WS2>")
    polling.take(Finder("WS1", "polling WS1", "WS1"), [match("1.1", "<b>P1"), match("1.2")])
    polling.take(Finder("WS2", "polling night", "WS2"), [match("1.3"), match("1.3", "P2")])
    page = rooms.page("/polling")
    assert "3 studies in the last answer" in page
    assert "ModalitiesInStudy &lt;SM&gt;" in page
    assert "does not answer" in page
    assert "cannot connect to &lt;WS2&gt;" in page
    assert "&lt;b&gt;P1" in page
    assert "<b>P1" not in page
    assert "WS2 has it under several patients: P1, P2" in page
    # Nothing was sent that it could have refused.
    assert "The remote did not take it" not in page
    page = rooms.page("/polling?state=failed")
    assert "several patients" in page
    assert "&lt;b&gt;P1" not in page
    assert "several patients" not in rooms.page("/polling?remote=WS1")
    assert "several patients" in rooms.page("/polling?state=nonsense&before=x")


def test_a_remote_is_asked_at_once(rooms: Rooms) -> None:
    rooms.config = rooms.config.model_copy(update={"polling": POLLING})
    rooms.page("/polling")
    assert "Ask now" in rooms.submit("/polling/night/now")
    rooms.submit("/polling/nobody/now", 404)
    rooms.act_as(Role.CONTRIBUTOR)
    rooms.submit("/polling/night/now", 403)


def test_the_worklist_says_how_many_earlier_studies_are_here(rooms: Rooms) -> None:
    here = str(rooms.study(PatientID="P7")[0].StudyInstanceUID)
    rooms.archive.worklist.put([numbered(7, {"ScheduledProcedureStepStartDate": f"{date.today():%Y%m%d}"})])
    row = rooms.archive.worklist.get("A7")
    assert row is not None
    assert "earlier stud" not in rooms.page("/worklist")
    patient = Patient(row.id, "P7", "", "CT", "1.2.3.7", datetime.now(UTC))
    prefetching = rooms.archive.prefetching
    prefetching.asked(row.id, "as it is planned")
    assert "earlier stud" not in rooms.page("/worklist")
    priors = [Prior(here, "", "20260105", "CT"), Prior("1.9", "WS1", "20250105", "CT")]
    prefetching.answer(patient, priors, datetime.now(UTC), "")
    page = rooms.page("/worklist")
    assert "1 of 2 earlier studies are here" in page
    assert "Earlier studies could not be asked for" not in page
    prefetching.answer(patient, priors[:1], datetime.now(UTC), "WS1: <gone>")
    page = rooms.page("/worklist")
    assert "1 of 1 earlier study is here" in page
    assert "Earlier studies could not be asked for: WS1: &lt;gone&gt;" in page
