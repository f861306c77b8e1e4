"""What this server asks of DCMTK's dcmqrscp and wlmscpfs: searches, retrievals, worklists."""

from collections.abc import Iterator
from pathlib import Path

import dcmtk
import pytest
from datasets import make_study
from outgoing import outgoing, pool, remote
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from rawpeer import Instance

from benchmarks.server_process import ServerProcess
from pacs_server.dicom.json_model import DataSet, first_value, text_of
from pacs_server.dicom.levels import Level
from pacs_server.errors import InvalidIdentifier, RemoteError, RemoteUnreachable, StorageFull
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.find import find, find_worklist
from pacs_server.scu.pool import Pool
from pacs_server.scu.remote import RemoteAE
from pacs_server.scu.retrieving import Progress, Wanted, retrieve
from pacs_server.scu.search import Search

pytestmark = pytest.mark.interop

STUDY = make_study(2, 3, PatientID="OUT1", PatientName="Müller^Jörg", StudyDescription="Thorax")
UID, SERIES = STUDY[0].StudyInstanceUID, STUDY[0].SeriesInstanceUID


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteAE]:
    """A dcmqrscp that has a study, as a remote."""
    with dcmtk.DcmQRSCP(tmp_path_factory.mktemp("qr") / "archive") as scp, pool() as ours:
        there = remote(scp.port, scp.ae_title)
        with DIMSESender(ours, there) as sender:
            assert {sender.send(outgoing(each)).status for each in STUDY} == {0}
        yield there


@pytest.fixture
def ours() -> Iterator[Pool]:
    with pool() as made:
        yield made


def uids(found: Iterator[DataSet], tag: str) -> list[str]:
    return sorted(text_of(match, tag) for match in found)


@pytest.mark.parametrize(
    ("level", "keys", "tag", "count"),
    [
        (Level.PATIENT, {"PatientID": "OUT*"}, "00100020", 1),
        (Level.STUDY, {"PatientName": "Mül*"}, "0020000D", 1),
        (Level.STUDY, {"StudyDate": "20240101-20241231", "PatientID": "OUT1"}, "0020000D", 1),
        (Level.STUDY, {"StudyDate": "19000101", "PatientID": "OUT1"}, "0020000D", 0),
        (Level.STUDY, {"AccessionNumber": "A1", "0010,0020": "OUT1"}, "0020000D", 1),
        (Level.SERIES, {"StudyInstanceUID": UID, "Modality": "CT"}, "0020000E", 2),
        (Level.SERIES, {"StudyInstanceUID": UID, "Modality": "MR"}, "0020000E", 0),
        (Level.IMAGE, {"StudyInstanceUID": UID, "SeriesInstanceUID": SERIES}, "00080018", 3),
    ],
)
def test_it_is_searched_at_every_level(
    archive: RemoteAE, ours: Pool, level: Level, keys: dict[str, str], tag: str, count: int
) -> None:
    wanted = {"0020000D": "StudyInstanceUID", "0020000E": "SeriesInstanceUID"}.get(tag, "SOPInstanceUID")
    returns = ("PatientName",) if level is Level.PATIENT else (wanted,)
    found = list(find(ours, archive, Search(level, keys, returns)))
    assert len({text_of(match, tag) for match in found}) == len(found) == count


def test_what_it_does_not_agree_to_is_not_asked_for(archive: RemoteAE, ours: Pool) -> None:
    with pytest.raises(RemoteError, match="does not offer relational queries"):
        list(find(ours, archive, Search(Level.SERIES, {"PatientID": "OUT1"}, relational=True)))


def test_names_come_with_all_characters(archive: RemoteAE, ours: Pool) -> None:
    (match,) = find(ours, archive, Search(Level.STUDY, {"StudyInstanceUID": UID}, ("PatientName", "StudyDescription")))
    assert (text_of(match, "00100010"), first_value(match, "00081030")) == ("Müller^Jörg", "Thorax")


def test_a_limit_ends_it_in_order(archive: RemoteAE, ours: Pool) -> None:
    search = Search(Level.IMAGE, {"StudyInstanceUID": UID, "SeriesInstanceUID": SERIES}, ("SOPInstanceUID",))
    assert len(list(find(ours, archive, search, limit=2))) == 2


def test_whoever_stops_reading_ends_the_association(archive: RemoteAE, ours: Pool) -> None:
    search = Search(Level.IMAGE, {"StudyInstanceUID": UID, "SeriesInstanceUID": SERIES}, ("SOPInstanceUID",))
    for _ in range(5):
        matches = find(ours, archive, search)
        next(matches)
        matches.close()  # type: ignore[attr-defined]
    assert ours._counts[archive.name] == 0


@pytest.mark.parametrize("keys", [{"NoSuchKey": "1"}, {"Rows": "many"}])
def test_what_cannot_be_asked_for_is_told_without_asking(ours: Pool, keys: dict[str, str]) -> None:
    with pytest.raises(InvalidIdentifier):
        list(find(ours, remote(1), Search(Level.STUDY, keys)))


class Taken:
    """What was retrieved; `full` after so many."""

    def __init__(self, full: int = 100) -> None:
        self.data: dict[str, bytes] = {}
        self.classes: set[str] = set()
        self._full = full

    def __call__(self, sop_class: str, uid: str, transfer_syntax: str, pieces: object) -> None:
        if len(self.data) >= self._full:
            raise StorageFull("no room")
        assert transfer_syntax == ExplicitVRLittleEndian
        self.classes.add(sop_class)
        self.data[uid] = b"".join(map(bytes, pieces))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(UID), STUDY),
        (Wanted(UID, (SERIES,), sop_classes=frozenset({STUDY[0].SOPClassUID})), STUDY[:3]),
        (Wanted(UID, (SERIES,), tuple(each.SOPInstanceUID for each in STUDY[1:3])), STUDY[1:3]),
    ],
)
def test_instances_come_by_c_get_byte_for_byte(
    archive: RemoteAE, ours: Pool, wanted: Wanted, expected: list[Dataset]
) -> None:
    taken, told = Taken(), list[int]()
    done = retrieve(ours, archive, wanted, taken, Progress(told=lambda so_far: told.append(so_far.taken)))
    assert (done.way, done.taken, done.completed, done.failed, done.status) == (
        "C-GET", len(expected), len(expected), 0, 0,
    )  # fmt: skip
    assert taken.data == {each.SOPInstanceUID: Instance.of(each).data for each in expected}
    assert sorted(set(told)) == list(range(0 if told[0] == 0 else 1, len(expected) + 1))


def test_an_instance_that_cannot_be_stored_costs_no_other(archive: RemoteAE, ours: Pool) -> None:
    taken = Taken(full=4)
    done = retrieve(ours, archive, Wanted(UID), taken, Progress())
    assert (done.taken, done.failed) == (4, 2)
    assert "no room" in done.reasons[0]


def test_it_can_be_cancelled(archive: RemoteAE, ours: Pool) -> None:
    taken = Taken()
    done = retrieve(ours, archive, Wanted(UID), taken, Progress(stop=lambda: len(taken.data) >= 2))
    assert 2 <= done.taken <= 6
    assert done.status in (0xFE00, 0)
    assert ours._counts[archive.name] == 0


def test_a_move_to_a_destination_that_it_does_not_know_is_refused(archive: RemoteAE, ours: Pool) -> None:
    with pytest.raises(RemoteError, match="answered a C-MOVE with A801"):
        retrieve(ours, archive, Wanted(UID), Taken(), Progress(), may_get=False)


def test_a_remote_that_offers_neither_says_so(tmp_path: Path, ours: Pool) -> None:
    with dcmtk.StoreSCP(tmp_path / "in") as scp:
        for ask in (
            lambda there: list(find(ours, there, Search(Level.STUDY))),
            lambda there: retrieve(ours, there, Wanted("1.2.3"), Taken(), Progress()),
        ):
            with pytest.raises(RemoteError, match="does not offer this service"):
                ask(remote(scp.port))
    with pytest.raises(RemoteUnreachable):
        list(find(ours, remote(scp.port), Search(Level.STUDY)))


class WorklistSCP(ServerProcess):
    """wlmscpfs with the items of one AE title."""

    def __init__(self, directory: Path, *items: Dataset) -> None:
        self._directory = directory
        folder = directory / "RIS"
        folder.mkdir(parents=True)
        (folder / "lockfile").touch()
        for number, item in enumerate(items):
            item.save_as(folder / f"{number}.wl", implicit_vr=False, little_endian=True)
        super().__init__(directory / "log")

    def command(self) -> list[str]:
        return [dcmtk.require("wlmscpfs"), "-dfp", str(self._directory), str(self.port)]


def item(number: int, modality: str) -> Dataset:
    found = Dataset()
    found.SpecificCharacterSet = "ISO_IR 100"
    found.AccessionNumber, found.PatientName, found.PatientID = f"ACC{number}", "Müller^Jörg", f"P{number}"
    found.PatientBirthDate, found.PatientSex, found.StudyInstanceUID = "19700101", "M", f"1.2.3.{number}"
    found.RequestedProcedureID, found.RequestedProcedureDescription = f"R{number}", "Thorax"
    step = Dataset()
    step.Modality, step.ScheduledStationAETitle = modality, "CT1"
    step.ScheduledProcedureStepStartDate, step.ScheduledProcedureStepStartTime = "20260301", "0900"
    step.ScheduledProcedureStepID, step.ScheduledProcedureStepDescription = f"S{number}", "CT"
    found.ScheduledProcedureStepSequence = [step]
    return found


def test_a_worklist_is_asked_for(tmp_path: Path, ours: Pool) -> None:
    with WorklistSCP(tmp_path / "worklist", item(1, "CT"), item(2, "MR")) as scp:
        ris = remote(scp.port, "RIS")
        assert len(list(find_worklist(ours, ris, {}))) == 2
        keys = {"ScheduledProcedureStepSequence.Modality": "CT", "PatientName": "M*"}
        (match,) = find_worklist(ours, ris, keys)
        assert (text_of(match, "00080050"), text_of(match, "00100010")) == ("ACC1", "Müller^Jörg")
        assert text_of(match["00400100"]["Value"][0], "00400009") == "S1"
