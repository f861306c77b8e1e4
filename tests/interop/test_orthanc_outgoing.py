"""Orthanc as a DIMSE remote: sent to, searched and fetched from."""

import shutil
from collections.abc import Iterator

import pytest
from datasets import make_study, pydicom_test_files
from orthanc import Orthanc
from outgoing import outgoing, pool, remote
from rawpeer import Instance

from pacs_server.dicom.json_model import text_of
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.scu.dimse_sender import DIMSESender
from pacs_server.scu.echo import echo
from pacs_server.scu.find import find
from pacs_server.scu.retrieving import Progress, Wanted, retrieve
from pacs_server.scu.search import Search
from pacs_server.scu.sending import Outgoing

pytestmark = [
    pytest.mark.interop,
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("Orthanc") is None, reason="needs Orthanc; Debian and Ubuntu: apt-get install orthanc"
    ),
]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


def test_a_study_goes_there_is_found_and_comes_back(orthanc: Orthanc) -> None:
    study = make_study(2, 3, PatientID="ORTHANC1", PatientName="Müller^Jörg")
    uid = str(study[0].StudyInstanceUID)
    there = remote(orthanc.port, "ORTHANC")
    with pool() as ours:
        assert echo(ours, there).round_trip > 0
        with DIMSESender(ours, there) as sender:
            assert {sender.send(outgoing(each)).status for each in study} == {0}
        (match,) = find(
            ours, there, Search(Level.STUDY, {"PatientID": "ORTHANC1"}, ("PatientName", "StudyInstanceUID"))
        )
        assert (text_of(match, "00100010"), text_of(match, "0020000D")) == ("Müller^Jörg", uid)
        series = find(ours, there, Search(Level.SERIES, {"StudyInstanceUID": uid}, ("SeriesInstanceUID",)))
        assert len(list(series)) == 2
        came: dict[str, bytes] = {}
        done = retrieve(
            ours,
            there,
            Wanted(uid, sop_classes=frozenset({str(study[0].SOPClassUID)})),
            lambda sop_class, sop, syntax, pieces: came.update({sop: b"".join(map(bytes, pieces))}),
            Progress(),
        )
        assert (done.way, done.taken, done.failed) == ("C-GET", 6, 0)
        assert came == {each.SOPInstanceUID: Instance.of(each).data for each in study}


def test_compressed_instances_come_back_as_they_are(orthanc: Orthanc) -> None:
    (path,) = [path for path in pydicom_test_files() if path.name == "MR_small_RLE.dcm"]
    instance = Instance.read(path)
    there = remote(orthanc.port, "ORTHANC")
    with pool() as ours:
        with DIMSESender(ours, there) as sender:
            uids = InstanceUIDs("", "", instance.sop_instance_uid)
            assert sender.send(Outgoing(uids, *instance.kind, lambda: instance.data)).is_success
        (match,) = find(ours, there, Search(Level.STUDY, {"ModalitiesInStudy": "MR"}, ("StudyInstanceUID",)))
        syntaxes: list[str] = []

        def take(sop_class: str, sop: str, syntax: str, pieces: object) -> None:
            syntaxes.append(syntax)

        wanted = Wanted(text_of(match, "0020000D"), sop_classes=frozenset({instance.sop_class_uid}))
        assert retrieve(ours, there, wanted, take, Progress()).taken == 1
        assert syntaxes == [instance.transfer_syntax_uid]
