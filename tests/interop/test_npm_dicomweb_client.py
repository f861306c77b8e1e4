"""The npm packages dicomweb-client and dcmjs, on which browser viewers are built, where there is node."""

import json
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import npm
import pytest
from compressed import GRAY12, LOSSLESS, compressed
from datasets import make_study, parse_data_set, write_part10
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless
from servers import config, running

# All of them, so that they run together and the client runs once.
pytestmark = pytest.mark.slow
PACKAGES = ("dicomweb-client@0.11.3", "dcmjs@0.51.1", "xhr2@0.2.1")
SCRIPT = Path(__file__).parent.parent / "dicomweb_client.mjs"
PATIENT, NAME = "NPM", "Müller^Jürgen"
SECONDS = 60.0


class Seen:
    """What was stored, and what the client made of the answers to each of its verbs."""

    def __init__(self, instances: list[Dataset], jls: Dataset, answers: dict[str, Any]) -> None:
        self.instances = instances
        self.first = instances[0]
        self.jls = jls
        self.answers = answers

    def __getitem__(self, verb: str) -> Any:
        """What the verb returned; fails if it did not."""
        answer = self.answers[verb]
        assert not (isinstance(answer, dict) and "error" in answer), (verb, answer)
        return answer

    def uids(self, verb: str) -> list[str]:
        """The SOP Instance UIDs of what the verb returned, in order."""
        return sorted(each["uid"] for each in self[verb])

    def stored(self, *, series: bool = False) -> list[str]:
        """Those of the study, or of the first series of it."""
        kept = [ds for ds in self.instances if not series or ds.SeriesInstanceUID == self.first.SeriesInstanceUID]
        return sorted(str(ds.SOPInstanceUID) for ds in kept)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    script = npm.installed("dicomweb-client", PACKAGES, SCRIPT)
    directory = tmp_path_factory.mktemp("npm")
    instances, [other], jls = make_study(2, 2, PatientID=PATIENT, PatientName=NAME), make_study(), encoded()
    first = instances[0]
    files = [str(write_part10(ds, directory / f"{n}.dcm")) for n, ds in enumerate([*instances, jls])]
    with running(config(directory, web=True)) as pacs:
        assert pacs.web_address is not None
        task = {
            "root": "http://{}:{}".format(*pacs.web_address),
            "files": files,
            "other": str(write_part10(other, directory / "other.dcm")),
            "otherStudy": other.StudyInstanceUID,
            "patient": PATIENT,
            "study": first.StudyInstanceUID,
            "series": first.SeriesInstanceUID,
            "image": first.SOPInstanceUID,
            "encoded": {
                "studyInstanceUID": jls.StudyInstanceUID,
                "seriesInstanceUID": jls.SeriesInstanceUID,
                "sopInstanceUID": jls.SOPInstanceUID,
            },
            "encodedSyntax": JPEGLSLossless,
        }
        given, made = directory / "task.json", directory / "answers.json"
        given.write_text(json.dumps(task))
        command = [npm.node(), str(script), str(given), str(made)]
        done = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        yield Seen(instances, jls, json.loads(made.read_text()))


def encoded() -> Dataset:
    """An image of two frames in JPEG-LS."""
    _, encoder = LOSSLESS["jpeg-ls"]
    ds = parse_data_set(compressed(JPEGLSLossless, [encoder(frame) for frame in GRAY12], GRAY12), JPEGLSLossless)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def values(found: list[dict[str, Any]], tag: str) -> list[str]:
    return sorted(match[tag]["Value"][0] for match in found)


def written(element: dict[str, Any]) -> list[str]:
    """The values of an element as text: dcmjs makes text of numbers."""
    return [str(value) for value in element.get("Value", [])]


def test_it_stores(seen: Seen) -> None:
    for verb, count in (("storeInstances", len(seen.instances) + 1), ("storeInstancesOfAStudy", 1)):
        answer = json.loads(seen[verb])
        assert len(answer["00081199"]["Value"]) == count
        assert "00081198" not in answer


def test_it_searches_at_every_level(seen: Seen) -> None:
    study, series = str(seen.first.StudyInstanceUID), sorted({str(ds.SeriesInstanceUID) for ds in seen.instances})
    [found] = seen["searchForStudies"]
    assert found["0020000D"]["Value"] == [study]
    assert found["00100010"]["Value"] == [{"Alphabetic": NAME}]
    assert values(seen["searchForSeries"], "0020000E") == values(seen["searchForAllSeries"], "0020000E") == series
    assert values(seen["searchForInstances"], "00080018") == seen.stored(series=True)
    assert values(seen["searchForInstancesOfAStudy"], "00080018") == seen.stored()
    assert values(seen["searchForAllInstances"], "00080018") == seen.stored()
    assert seen["searchForNothing"] == []


def test_dcmjs_naturalizes_the_metadata(seen: Seen) -> None:
    assert seen.uids("retrieveStudyMetadata") == seen.stored()
    assert seen.uids("retrieveSeriesMetadata") == seen.stored(series=True)
    [metadata] = seen["retrieveInstanceMetadata"]
    assert metadata == {
        "uid": seen.first.SOPInstanceUID,
        "name": NAME,
        "modality": "CT",
        "rows": 32,
        "number": 1,
        "imageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }


def test_dcmjs_makes_the_same_data_set_again(seen: Seen) -> None:
    received, again = seen["denaturalized"]
    # Pixel Data is a place here and no value, which dcmjs keeps for itself.
    tags = set(received) - {"7FE00010"}
    assert tags <= set(again)
    for tag in tags:
        assert again[tag]["vr"] == received[tag]["vr"]
        assert written(again[tag]) == written(received[tag]), tag


def test_it_retrieves_instances_that_dcmjs_reads(seen: Seen) -> None:
    assert seen.uids("retrieveStudy") == seen.stored()
    assert seen.uids("retrieveSeries") == seen.stored(series=True)
    for verb in ("retrieveInstance", "buildInstanceWadoURIUrl"):
        instance = seen[verb]
        assert (instance["uid"], instance["name"]) == (seen.first.SOPInstanceUID, NAME)
        assert instance["syntax"] == ExplicitVRLittleEndian
        assert instance["pixels"] == digest(seen.first.PixelData)
    compressed = seen["retrieveCompressedInstance"]
    assert (compressed["uid"], compressed["syntax"]) == (seen.jls.SOPInstanceUID, JPEGLSLossless)
    assert compressed["pixels"] == digest(next(generate_frames(seen.jls.PixelData, number_of_frames=2)))
    assert seen.answers["refused"]["status"] == 404


def test_it_retrieves_frames_and_bulk_data(seen: Seen) -> None:
    pixels = digest(seen.first.PixelData)
    for verb in ("retrieveInstanceFrames", "retrieveBulkData", "retrieveBulkDataByItself"):
        assert seen[verb] == [pixels], verb
    one, two = map(digest, generate_frames(seen.jls.PixelData, number_of_frames=2))
    assert seen["retrieveFramesInTheirMediaType"] == [two, one]
    assert seen["retrieveFramesByAnOldMediaType"] == [one]
    assert seen["retrieveFramesInAnyMediaType"] == [one]


def test_it_retrieves_pictures(seen: Seen) -> None:
    assert seen["retrieveInstanceRenderedAsPNG"] == ["\x89PNG"]
    rendered = ("retrieveInstanceRendered", "retrieveInstanceFramesRendered")
    for verb in (*rendered, "retrieveInstanceThumbnail", "retrieveInstanceFramesThumbnail"):
        [picture] = seen[verb]
        assert picture.startswith("\xff\xd8\xff"), verb
