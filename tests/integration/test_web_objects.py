"""Studies, series, instances, metadata and bulk data over HTTP: a server in this process, and dicomweb-client."""

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import httpx2 as httpx
import numpy as np
import pydicom
import pytest
from compressed import COLOUR, GRAY12, LOSSLESS, compressed
from datasets import make_ct, make_study, parse_data_set, uid
from dicomweb_client.api import DICOMwebClient
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless
from servers import config, eventually, running, stored_files
from webarchive import WebArchive
from webclients import parts

from pacs_server.app.server import PacsServer
from pacs_server.audit.events import Action, Event, EventID
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.services.retrieve import RetrieveService

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
DICOM, JSON, ZIP = "application/dicom", "application/dicom+json", "application/zip"
PARTS = 'multipart/related; type="application/dicom"'
XML_PARTS = 'multipart/related; type="application/dicom+xml"'
OCTETS = 'multipart/related; type="application/octet-stream"'
SENDER = "SECRETSENDER"


class Archive(WebArchive):
    """A running server that is asked by dicomweb-client as well."""

    sender = Origin(SENDER, "PACS", "10.9.8.7", Door.DIMSE)

    def __init__(self, pacs: PacsServer, scratch: Path) -> None:
        super().__init__(pacs, scratch)
        self.client = DICOMwebClient(self.url)

    def add_all(self, *instances: pydicom.Dataset) -> None:
        for ds in instances:
            self.add(ds)

    def interrupted(self, path: str, accept: str) -> tuple[bytes, Exception | None]:
        """What comes of an answer until it ends or breaks off, and how it breaks off."""
        received = b""
        with self.http.stream("GET", f"{self.url}/{path}", headers={"Accept": accept}) as response:
            assert response.status_code == 200
            try:
                for piece in response.iter_raw():
                    received += piece
            except httpx.TransportError as error:
                return received, error
        return received, None


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    directory = tmp_path_factory.mktemp("objects")
    with running(config(directory, web=True)) as pacs:
        archive = Archive(pacs, directory)
        yield archive
        archive.http.close()


@pytest.fixture(scope="module")
def study(archive: Archive) -> list[pydicom.Dataset]:
    """Two series of three small instances, and one large instance."""
    instances = make_study(2, 3)
    large = make_ct(instances[0].StudyInstanceUID, rows=512, columns=512, SeriesNumber=3)
    archive.add_all(*instances, large)
    return [*instances, large]


@pytest.fixture(scope="module")
def jls(archive: Archive) -> pydicom.Dataset:
    _, encoder = LOSSLESS["jpeg-ls"]
    data = compressed(JPEGLSLossless, [encoder(frame) for frame in GRAY12], GRAY12)
    ds = parse_data_set(data, JPEGLSLossless)
    archive.add_all(with_meta(ds))
    return ds


def with_meta(ds: pydicom.Dataset) -> pydicom.Dataset:
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    return ds


def path_of(ds: pydicom.Dataset, level: str = "instance") -> str:
    path = f"studies/{ds.StudyInstanceUID}"
    if level != "study":
        path += f"/series/{ds.SeriesInstanceUID}"
    return path if level != "instance" else f"{path}/instances/{ds.SOPInstanceUID}"


def begin_peak() -> None:
    """Let `peak` count from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The largest resident size of this process, in KiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def read(data: bytes) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(data))


def alike(one: pydicom.Dataset, other: pydicom.Dataset) -> bool:
    return one.to_json_dict() == other.to_json_dict()


# ------------------------------------------------------------------------------------ dicomweb-client


def test_dicomweb_client_retrieves_what_was_stored(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """Study, series and instance come as they were stored, in order."""
    one = study[0]
    assert all(alike(*pair) for pair in zip(archive.client.retrieve_study(one.StudyInstanceUID), study, strict=True))
    series = archive.client.retrieve_series(one.StudyInstanceUID, one.SeriesInstanceUID)
    assert all(alike(*pair) for pair in zip(series, study[:3], strict=True))
    uids = (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID)
    assert alike(archive.client.retrieve_instance(*uids), one)
    streamed = list(archive.client.iter_study(one.StudyInstanceUID))
    assert [ds.SOPInstanceUID for ds in streamed] == [ds.SOPInstanceUID for ds in study]


def test_dicomweb_client_retrieves_metadata_and_bulk_data(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """Metadata at every level, and the pixels by the URL in them."""
    one = study[0]
    uids = (one.StudyInstanceUID, one.SeriesInstanceUID, one.SOPInstanceUID)
    found = archive.client.retrieve_study_metadata(uids[0])
    assert [each["00080018"]["Value"][0] for each in found] == [ds.SOPInstanceUID for ds in study]
    assert archive.client.retrieve_series_metadata(*uids[:2]) == found[:3]
    assert archive.client.retrieve_instance_metadata(*uids) == found[0]
    assert archive.client.retrieve_bulkdata(found[0]["7FE00010"]["BulkDataURI"]) == [one.PixelData]
    plain = pydicom.Dataset.from_json({tag: each for tag, each in found[0].items() if "BulkDataURI" not in each})
    plain.SpecificCharacterSet = one.SpecificCharacterSet
    assert plain.to_json_dict() == {tag: each for tag, each in one.to_json_dict().items() if tag != "7FE00010"}


def test_dicomweb_client_asks_for_another_transfer_syntax(archive: Archive, jls: pydicom.Dataset) -> None:
    uids = (jls.StudyInstanceUID, jls.SeriesInstanceUID, jls.SOPInstanceUID)
    stored = archive.client.retrieve_instance(*uids)
    assert stored.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert stored.PixelData == jls.PixelData
    plain = archive.client.retrieve_instance(*uids, media_types=((DICOM, ExplicitVRLittleEndian),))
    assert plain.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (plain.pixel_array == GRAY12).all()


# ------------------------------------------------------------------------------------ parts, files, ZIP


def test_parts_say_what_they_are_and_never_who_sent_them(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """Each part has its real transfer syntax and its URL; the stored head, with the sender's address, stays here."""
    response = archive.get(path_of(study[0], "study"), PARTS)
    assert response.status_code == 200
    assert int(response.headers["content-length"]) == len(response.content)
    found = parts(response)
    assert [head["Content-Type"] for head, _ in found] == [f"{DICOM}; transfer-syntax={ExplicitVRLittleEndian}"] * 7
    assert [head["Content-Location"] for head, _ in found] == [f"{archive.url}/{path_of(ds)}" for ds in study]
    assert all(alike(read(data), ds) for (_, data), ds in zip(found, study, strict=True))
    assert any(SENDER.encode() in path.read_bytes() for path in stored_files(archive.pacs))
    assert SENDER.encode() not in response.content
    assert b"10.9.8.7" not in response.content


@pytest.mark.parametrize(
    ("accept", "kind"),
    [(None, "multipart/related"), ("*/*", "multipart/related"), (DICOM, DICOM), (f"image/png, {DICOM};q=0.1", DICOM)],
)
def test_one_instance_with_and_without_parts(
    archive: Archive, study: list[pydicom.Dataset], accept: str | None, kind: str
) -> None:
    """PS3.18 10.4.4: parts are the default, and an instance can be had as one file."""
    for one in (study[0], study[-1]):
        response = archive.get(path_of(one), accept)
        assert response.headers["content-type"].startswith(kind)
        assert alike(read(response.content if kind == DICOM else parts(response)[0][1]), one)


def test_ranges_and_conditions_of_one_file(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """HEAD, Range, If-None-Match, If-Modified-Since and If-Range, in memory and on disk."""
    for one in (study[0], study[-1]):
        path = path_of(one)
        whole = archive.get(path, DICOM)
        head = archive.get(path, DICOM, "HEAD")
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers, "date": ""} == {**whole.headers, "date": ""}
        size = len(whole.content)
        for asked, start, stop in (
            *[("bytes=0-0", 0, 1), ("bytes=100-400", 100, 401), (f"bytes={size - 5}-", size - 5, size)],
            *[("bytes=-7", size - 7, size), (f"bytes=500-{size * 2}", 500, size)],
        ):
            part = archive.get(path, DICOM, Range=asked)
            assert (part.status_code, part.content) == (206, whole.content[start:stop])
            assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert archive.get(path, DICOM, Range=f"bytes={size}-").status_code == 416
        for asked in ("bytes=0-1,5-6", "lines=1-2", "bytes=5-2", "bytes=-"):
            assert archive.get(path, DICOM, Range=asked).content == whole.content
        tag, modified = whole.headers["etag"], whole.headers["last-modified"]
        for condition in ({"If_None_Match": tag}, {"If_None_Match": f'"x", {tag}'}, {"If_Modified_Since": modified}):
            unchanged = archive.get(path, DICOM, **condition)
            assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
        assert archive.get(path, DICOM, If_None_Match='"x"', If_Modified_Since=modified).status_code == 200
        assert archive.get(path, DICOM, Range="bytes=0-9", If_Range='"x"').status_code == 200
        assert archive.get(path, DICOM, Range="bytes=0-9", If_Range=tag).status_code == 206


def test_a_study_as_a_zip_file(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """All instances with a DICOMDIR that refers to them."""
    response = archive.get(path_of(study[0], "study"), ZIP)
    assert response.headers["content-type"] == ZIP
    with zipfile.ZipFile(io.BytesIO(response.content)) as archived:
        assert archived.testzip() is None
        directory = read(archived.read("DICOMDIR"))
        listed = [
            "/".join(record.ReferencedFileID)
            for record in directory.DirectoryRecordSequence
            if record.DirectoryRecordType == "IMAGE"
        ]
        assert sorted(archived.namelist()) == sorted([*listed, "DICOMDIR"])
        assert all(alike(read(archived.read(name)), ds) for name, ds in zip(listed, study, strict=True))
    assert SENDER.encode() not in response.content


@pytest.mark.parametrize(
    ("level", "accept"),
    [("study", DICOM), ("study", "image/png"), ("instance", "application/pdf"), ("instance", f"{PARTS};q=0")],
)
def test_what_cannot_be_had_is_not_acceptable(
    archive: Archive, study: list[pydicom.Dataset], level: str, accept: str
) -> None:
    response = archive.get(path_of(study[0], level), accept)
    assert (response.status_code, response.headers["content-type"]) == (406, "application/problem+json")
    assert "multipart/related" in response.json()["detail"]


def test_transfer_syntaxes(archive: Archive) -> None:
    """Stored bytes if the client takes them, else what can be made without loss, and 406 if nothing can."""
    series = uid()
    plain = make_ct(series, series)
    implicit = make_ct(series, series, InstanceNumber=2)
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    archive.add_all(plain, implicit)
    _, encoder = LOSSLESS["rle"]
    data = compressed(RLELossless, [encoder(frame) for frame in COLOUR], COLOUR, InstanceNumber=3)
    rle = parse_data_set(data, RLELossless)
    rle.StudyInstanceUID = rle.SeriesInstanceUID = series
    archive.add_all(with_meta(rle))
    stored = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(RLELossless)]

    def syntaxes(*wanted: str, status: int = 200) -> list[str]:
        response = archive.get(
            f"studies/{series}", ", ".join(f"{PARTS}; transfer-syntax={each}" for each in wanted) or None
        )
        assert response.status_code == status
        if status == 406:
            return []
        told = [head["Content-Type"].partition("transfer-syntax=")[2] for head, _ in parts(response)]
        assert told == [read(data).file_meta.TransferSyntaxUID for _, data in parts(response)]
        return told

    # PS3.18 8.7.3: Implicit VR is not used in web services, but for those who take what is stored.
    assert syntaxes() == [stored[0], stored[0], stored[2]]
    assert syntaxes("*") == stored
    assert syntaxes(ImplicitVRLittleEndian, status=206) == [stored[1]]
    assert syntaxes(ExplicitVRLittleEndian) == [stored[0]] * 3
    assert syntaxes(RLELossless, ExplicitVRLittleEndian) == [stored[0], stored[0], stored[2]]
    assert syntaxes(RLELossless) == [stored[2]] * 3
    assert syntaxes(JPEGLSLossless) == [str(JPEGLSLossless)] * 3
    assert syntaxes(JPEGBaseline8Bit, status=406) == []
    again = archive.get(path_of(plain), f"{DICOM}; transfer-syntax={JPEGLSLossless}", Range="bytes=0-9")
    assert (again.status_code, again.headers["accept-ranges"]) == (200, "none")
    assert (read(again.content).pixel_array == plain.pixel_array).all()


@pytest.mark.parametrize(
    "path", ["studies/1.2", "studies/{study}/series/1.2", "studies/{study}/series/{series}/instances/1"]
)
@pytest.mark.parametrize("below", ["", "/metadata", "/bulkdata"])
def test_what_is_not_there(archive: Archive, study: list[pydicom.Dataset], path: str, below: str) -> None:
    path = path.format(study=study[0].StudyInstanceUID, series=study[0].SeriesInstanceUID)
    response = archive.get(path + below)
    assert response.status_code == 404
    assert archive.get(f"studies/{uid()}/series/{study[0].SeriesInstanceUID}").status_code == 404


def test_what_is_no_image_has_no_compressed_form(archive: Archive) -> None:
    """A report beside images that the client wants compressed comes as it is."""
    image = make_ct()
    report = make_ct(image.StudyInstanceUID, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")
    del report.PixelData
    archive.add_all(image, with_meta(report))
    found = parts(archive.get(f"studies/{image.StudyInstanceUID}", f"{PARTS}; transfer-syntax={JPEGLSLossless}"))
    told = [head["Content-Type"].partition("transfer-syntax=")[2] for head, _ in found]
    assert told == [JPEGLSLossless, ExplicitVRLittleEndian]
    assert alike(read(found[1][1]), report)


def test_an_instance_that_cannot_be_read_cuts_the_answer(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client notices that something is missing, and those that came before are whole."""
    instances = make_study(1, 4)
    archive.add_all(*instances)
    last = max(stored_files(archive.pacs), key=lambda path: path.stat().st_mtime_ns)
    data = last.read_bytes()
    last.write_bytes(data[:-1])
    assert archive.get(path_of(instances[0], "study"), ZIP).status_code == 409, "known before the first byte"
    # As if it became unreadable after that.
    monkeypatch.setattr(RetrieveService, "missing", lambda *_: [])
    for accept in (PARTS, ZIP):
        received, error = archive.interrupted(path_of(instances[0], "study"), accept)
        assert isinstance(error, httpx.RemoteProtocolError)
        assert received.count(b"DICM") == (3 if accept == PARTS else 0)
    assert archive.get(path_of(instances[3]), DICOM).status_code == 503
    last.write_bytes(data)
    assert len(parts(archive.get(path_of(instances[0], "study")))) == 4


def test_a_large_image_is_decoded_while_it_is_sent(archive: Archive) -> None:
    """Frame by frame: as a part, as a file, and any range of it."""
    pixels = np.random.default_rng(3).integers(0, 4096, (24, 300, 400)).astype("u2")
    syntax, encoder = LOSSLESS["rle"]
    rle = parse_data_set(compressed(syntax, [encoder(frame) for frame in pixels], pixels), syntax)
    archive.add_all(with_meta(rle))
    accept = f"{DICOM}; transfer-syntax={ExplicitVRLittleEndian}"
    whole = archive.get(path_of(rle), accept)
    assert int(whole.headers["content-length"]) == len(whole.content) > 5_000_000
    assert (read(whole.content).pixel_array == pixels).all()
    [(head, part)] = parts(archive.get(path_of(rle), f"{PARTS}; transfer-syntax={ExplicitVRLittleEndian}"))
    assert (head["Content-Type"], part) == (accept, whole.content)
    for start, stop in ((0, 200), (100, 700_000), (1_000_000, 1_000_001), (len(part) - 5, len(part))):
        found = archive.get(path_of(rle), accept, Range=f"bytes={start}-{stop - 1}")
        assert (found.status_code, found.content) == (206, part[start:stop])


@pytest.mark.alone
def test_memory_does_not_grow_with_what_is_sent(archive: Archive) -> None:
    """An instance of 96 MiB goes out in pieces, in whatever form."""
    large = make_ct(rows=6144, columns=8192)
    archive.add_all(large)
    path = path_of(large)
    del large.PixelData
    [metadata] = archive.get(f"{path}/metadata").json()
    begin_peak()
    before = peak()
    for url, accept in (
        *[(path, PARTS), (path, DICOM), (path, ZIP), (path, OCTETS)],
        *[(f"{path}/bulkdata/7FE00010", "*/*"), (f"{path}/bulkdata/7FE00010", OCTETS)],
    ):
        size = 0
        with archive.http.stream("GET", f"{archive.url}/{url}", headers={"Accept": accept}) as response:
            for piece in response.iter_raw():
                size += len(piece)
        assert size >= (96 if accept != ZIP else 0) << 20
    assert peak() - before < 24 << 10
    assert metadata["00280010"]["Value"] == [6144]


# ------------------------------------------------------------------------------------ metadata


def test_metadata_are_validated_and_packed(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """A viewer that has the metadata already is told so; HEAD sends none."""
    path = f"{path_of(study[0], 'study')}/metadata"
    response = archive.get(path, JSON, Accept_Encoding="gzip")
    assert response.headers["content-type"] == JSON
    assert "content-encoding" not in response.headers
    again = archive.get(path, JSON, If_None_Match=response.headers["etag"])
    assert (again.status_code, again.content) == (304, b"")
    head = archive.get(path, JSON, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert archive.get(path, "application/json").headers["content-type"] == "application/json"
    assert archive.get(path, "text/html").status_code == 406
    other = make_ct(study[0].StudyInstanceUID, SeriesNumber=9)
    archive.add_all(other)
    assert len(archive.get(path, JSON, If_None_Match=response.headers["etag"]).json()) == 8
    archive.pacs.archive.archive.checkpoints.take_everywhere()


def test_metadata_in_xml(archive: Archive, study: list[pydicom.Dataset]) -> None:
    """Each instance is a part, in the Native DICOM Model, with the digits that were sent."""
    one = make_ct(SliceThickness="1.50", InstanceNumber=7)
    archive.add_all(one)
    [(head, document)] = parts(archive.get(f"{path_of(one)}/metadata", f"{XML_PARTS}, {JSON};q=0.5"))
    assert head["Content-Type"] == "application/dicom+xml"
    model = ElementTree.fromstring(document)
    name = "{http://dicom.nema.org/PS3.19/models/NativeDICOM}"
    found = {each.get("keyword"): each for each in model.iter(f"{name}DicomAttribute")}
    assert found["SliceThickness"].findtext(f"{name}Value") == "1.50"
    assert found["InstanceNumber"].findtext(f"{name}Value") == "7"
    uri = found["PixelData"].find(f"{name}BulkData")
    assert uri is not None
    assert uri.get("uri") == f"{archive.url}/{path_of(one)}/bulkdata/7FE00010"
    assert len(parts(archive.get(f"{path_of(study[0], 'series')}/metadata", XML_PARTS))) == 3


def test_urls_in_metadata_are_those_that_the_client_uses(archive: Archive, study: list[pydicom.Dataset]) -> None:
    port = archive.url.rpartition(":")[2].partition("/")[0]
    for host in ("localhost", f"localhost:{port}"):
        [found] = archive.get(f"{path_of(study[0])}/metadata", JSON, Host=host).json()
        expected = f"http://localhost:{port}/dicom-web/{path_of(study[0])}/bulkdata/7FE00010"
        assert found["7FE00010"]["BulkDataURI"] == expected


def test_metadata_are_kept_behind_the_answer(archive: Archive) -> None:
    """Nobody has to ask for metadata to have them kept."""
    [one] = make_study(1, 1)
    archive.add_all(one)
    index = archive.pacs.archive.metadata._index
    stored = archive.pacs.archive.archive.find(one.SOPInstanceUID)
    assert stored is not None
    assert eventually(lambda: next(index.kept([stored])) is not None)


# ------------------------------------------------------------------------------------ bulk data


def test_bulk_data_by_range_and_by_parts(archive: Archive, study: list[pydicom.Dataset]) -> None:
    large = study[-1]
    path = f"{path_of(large)}/bulkdata/7FE00010"
    whole = archive.get(path)
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.content == large.PixelData
    assert int(whole.headers["content-length"]) == len(large.PixelData)
    assert archive.get(path, Range="bytes=1000-300999").content == large.PixelData[1000:301000]
    assert archive.get(path, If_None_Match=whole.headers["etag"]).status_code == 304
    [(head, data)] = parts(archive.get(path, OCTETS))
    assert (head["Content-Type"], data) == ("application/octet-stream", large.PixelData)
    assert head["Content-Location"] == f"{archive.url}/{path}"
    for missing in ("7FE00011", "x", "00080000", "00081140/1/00081150"):
        assert archive.get(f"{path_of(large)}/bulkdata/{missing}").status_code == 404
    assert archive.get(path, "image/png").status_code == 406


def test_compressed_bulk_data_are_frames(archive: Archive, jls: pydicom.Dataset) -> None:
    stored = list(generate_frames(jls.PixelData, number_of_frames=2))
    found = parts(archive.get(f"{path_of(jls)}/bulkdata/7FE00010", 'multipart/related; type="image/jls"'))
    assert [data for _, data in found] == stored
    assert {head["Content-Type"] for head, _ in found} == {f"image/jls; transfer-syntax={JPEGLSLossless}"}


def test_documents_and_videos(archive: Archive) -> None:
    """A PDF as what it is; a video as one stream with ranges, whatever its fragments."""
    pdf = make_ct(MIMETypeOfEncapsulatedDocument="application/pdf")
    pdf.EncapsulatedDocument = b"%PDF-1.4" + bytes(2000)
    video = make_ct(NumberOfFrames=50)
    video.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    stream = bytes(range(256)) * 40
    video.PixelData = pydicom.encaps.encapsulate([stream[:5000], stream[5000:]], has_bot=False)
    video["PixelData"].is_undefined_length = True
    video["PixelData"].VR = "OB"
    archive.add_all(pdf, video)
    path = f"{path_of(pdf)}/bulkdata/00420011"
    assert archive.get(path, "application/pdf").headers["content-type"] == "application/pdf"
    assert archive.get(f"{path}?accept=application/pdf", "text/html").content == pdf.EncapsulatedDocument
    path = f"{path_of(video)}/bulkdata/7FE00010"
    assert archive.get(path, "video/mp4").content == stream
    part = archive.get(path, "video/mp4", Range="bytes=4990-5009")
    assert (part.status_code, part.content) == (206, stream[4990:5010])


@pytest.mark.parametrize("below", ["/bulkdata", ""])
def test_all_bulk_data_of_a_study(archive: Archive, study: list[pydicom.Dataset], below: str) -> None:
    """PS3.18 10.4.3.3.5: each with the URL that stands in the metadata."""
    found = parts(archive.get(path_of(study[1], "series") + below, OCTETS))
    told = archive.get(f"{path_of(study[1], 'series')}/metadata").json()
    assert [head["Content-Location"] for head, _ in found] == [each["7FE00010"]["BulkDataURI"] for each in told]
    assert all(data == study[1].PixelData for _, data in found)


# ------------------------------------------------------------------------------------ the audit trail


def test_retrievals_are_in_the_audit_trail(archive: Archive) -> None:
    """Before and after, with the numbers, as C-GET has them."""
    instances = make_study(1, 3)
    archive.add_all(*instances)
    study = instances[0].StudyInstanceUID
    for path in (f"studies/{study}", f"studies/{study}/metadata"):
        archive.get(path, method="HEAD")
        before = len(events(archive, study))
        archive.get(path)
        # The second record is written when everything was sent.
        assert eventually(lambda before=before: len(events(archive, study)) == before + 2)  # type: ignore[misc]
        after = events(archive, study)[before:]
        assert [event.event_id for event in after] == [EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED]
        assert after[1].detail == "3 of 3 sent, 0 failed"
        assert after[0].participants[-1].address == "127.0.0.1"


def events(archive: Archive, study: str) -> list[Event]:
    """What the audit trail tells of the retrievals of a study."""
    trail = archive.pacs.archive.trail
    assert trail is not None
    found = [record.event for record in trail.records_between(None, None)]
    kinds = (EventID.BEGIN_TRANSFERRING, EventID.INSTANCES_TRANSFERRED)
    sent = [event for event in found if event.event_id in kinds and event.action is not Action.CREATE]
    return [event for event in sent if study in {subject.study_instance_uid for subject in event.subjects}]
