"""Modality Worklist over the network: answers, statuses, cancelling, views by station."""

from collections.abc import Callable
from pathlib import Path

import pytest
import servers
from pydicom.dataset import Dataset
from servers import IMPLICIT, RawPeer, config, message, running
from strategies import encoded
from worklists import MODALITY_WORKLIST, item, keys, numbered

from pacs_server.app.server import PacsServer
from pacs_server.config import WorklistConfig
from pacs_server.dicom.worklist import ItemStatus
from pacs_server.net.message import Command, CommandField
from pacs_server.services.worklist import WorklistService

Answers = list[tuple[int, Dataset | None]]


@pytest.fixture
def pacs(serve: Callable[..., PacsServer]) -> PacsServer:
    return serve()


def worklist(pacs: PacsServer) -> WorklistService:
    return pacs.archive.worklist


def find(pacs: PacsServer, query: Dataset, calling: str = "CT1") -> Answers:
    with servers.associated(pacs, MODALITY_WORKLIST, calling=calling) as association:
        return [(status.Status, data) for status, data in association.send_c_find(query, MODALITY_WORKLIST)]


def accession_numbers(answers: Answers) -> list[str]:
    assert answers[-1][0] == 0
    return [data.AccessionNumber for _, data in answers if data is not None]


def test_a_day_at_a_station(pacs: PacsServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pacs_server")
    worklist(pacs).put([numbered(1), numbered(2, {"ScheduledStationAETitle": "MR1", "Modality": "MR"})])
    step = {"ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20260105", "Modality": "CT"}
    answers = find(pacs, keys(step, StudyInstanceUID=""))
    assert [status for status, _ in answers] == [0xFF00, 0x0000]
    (_, found), _ = answers
    assert found is not None
    assert (found.PatientID, found.PatientName, found.StudyInstanceUID) == ("P1", "Müller^Anna", "1.2.3.1")
    assert found.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "CT1"
    [line] = [vars(record) for record in caplog.records if vars(record).get("operation") == "C-FIND"]
    assert sorted(line["keys"].split(",")) == [
        f"ScheduledProcedureStepSequence.{keyword}"
        for keyword in ("Modality", "ScheduledProcedureStepStartDate", "ScheduledStationAETitle")
    ]


def test_unsupported_keys_are_told_by_the_status(pacs: PacsServer) -> None:
    worklist(pacs).put([item()])
    answers = find(pacs, keys(Rows=512))
    assert [status for status, _ in answers] == [0xFF01, 0x0000]
    assert answers[0][1] is not None
    assert "Rows" not in answers[0][1]


def test_an_item_is_shown_until_it_is_done(pacs: PacsServer) -> None:
    service = worklist(pacs)
    service.put([item()])
    row = service.get("A1")
    assert row is not None
    for status, shown in ((s, s in ("SCHEDULED", "IN PROGRESS")) for s in ItemStatus):
        service.set_status([row], status)
        assert accession_numbers(find(pacs, keys())) == (["A1"] if shown else [])
    service.set_status([row], ItemStatus.SCHEDULED)
    service.set_status([row], ItemStatus.CANCELLED)
    assert accession_numbers(find(pacs, keys())) == []
    service.remove(row)
    assert list(service.list()) == []


def test_a_view_for_each_station(tmp_path: Path) -> None:
    settings = config(tmp_path)
    own_station = settings.model_copy(update={"worklist": WorklistConfig(only_own_station=True)})
    with running(settings, reload=lambda: own_station) as pacs:
        worklist(pacs).put([numbered(1), numbered(2, {"ScheduledStationAETitle": "MR1"})])
        assert accession_numbers(find(pacs, keys(), calling="MR1")) == ["A1", "A2"]
        assert pacs.reload()
        assert accession_numbers(find(pacs, keys(), calling="MR1")) == ["A2"]
        assert accession_numbers(find(pacs, keys(), calling="OTHER")) == []


def test_a_bad_identifier_is_refused_with_the_reason(pacs: PacsServer) -> None:
    query = keys({"ScheduledProcedureStepStartDate": "tomorrow"})
    with RawPeer.associated(pacs.address, (MODALITY_WORKLIST, [IMPLICIT])) as peer:
        peer.send(message(1, request(), encoded(query)))
        command = peer.read_message().command
        assert (command.status, command.error_comment) == (0xA900, "(0040,0002): no valid date, time or range")


def request() -> Command:
    return Command(
        command_field=CommandField.C_FIND,
        message_id=7,
        affected_sop_class_uid=MODALITY_WORKLIST,
        priority=0,
        command_data_set_type=1,
    )


def test_cancel(pacs: PacsServer) -> None:
    worklist(pacs).put([numbered(number) for number in range(60)])
    with RawPeer.associated(pacs.address, (MODALITY_WORKLIST, [IMPLICIT])) as peer:
        cancel = Command(command_field=CommandField.C_CANCEL, message_id_being_responded_to=7)
        # In one write, so that the cancel is there when the first batch has gone out.
        peer.send(message(1, request(), encoded(keys())) + message(1, cancel))
        pending = 0
        while (status := peer.read_message().command.status) == 0xFF00:
            pending += 1
        assert (status, 0 < pending < 60) == (0xFE00, True)


def test_matches_are_counted(pacs: PacsServer) -> None:
    worklist(pacs).put([numbered(1), numbered(2)])
    find(pacs, keys())
    assert b"pacs_find_matches_total 2.0" in pacs.metrics.render()
