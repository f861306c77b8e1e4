"""Frames over HTTP: real requests to a server in this process, and dicomweb-client as the client."""

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pydicom
import pytest
import webclients
from compressed import COLOUR, GRAY12, LOSSLESS, compressed
from datasets import make_ct, parse_data_set, pydicom_test_files
from dicomweb_client.api import DICOMwebClient
from pydicom.encaps import generate_frames
from pydicom.uid import (
    MPEG2MPML,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from servers import config, running
from webarchive import WebArchive, instance_url

from pacs_server.web.protocol import HTTPConnection
from pacs_server.web.threads import Threads

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
NATIVE = str(ExplicitVRLittleEndian)
# What OHIF's microscopy mode sends.
MICROSCOPY = (
    "multipart/related; type=application/octet-stream; transfer-syntax=*, "
    "multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50, "
    "multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.80, "
    "multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.81, "
    "multipart/related; type=image/jp2; transfer-syntax=1.2.840.10008.1.2.4.90, "
    "multipart/related; type=image/jp2; transfer-syntax=1.2.840.10008.1.2.4.91, "
    "multipart/related; type=image/jpx; transfer-syntax=1.2.840.10008.1.2.4.92, "
    "multipart/related; type=image/jpx; transfer-syntax=1.2.840.10008.1.2.4.93"
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebArchive]:
    directory = tmp_path_factory.mktemp("frames")
    with running(config(directory, web=True)) as pacs:
        archive = WebArchive(pacs, directory)
        yield archive
        archive.http.close()


def encoded(name: str, array: np.ndarray) -> tuple[str, list[bytes]]:
    syntax, encoder = LOSSLESS[name]
    return str(syntax), [encoder(frame) for frame in array]


@pytest.fixture(scope="module")
def jls(archive: WebArchive) -> pydicom.Dataset:
    syntax, frames = encoded("jpeg-ls", GRAY12)
    return archive.store(compressed(syntax, frames, GRAY12), syntax)


@pytest.fixture(scope="module")
def ct(archive: WebArchive) -> pydicom.Dataset:
    path = archive.scratch / "ct.dcm"
    make_ct().save_as(path, enforce_file_format=True)
    return archive.import_file(path)


def parts(response: httpx.Response) -> list[tuple[str, bytes]]:
    """The content type and the bytes of each part, which has no other headers."""
    assert response.headers["content-type"].startswith('multipart/related; type="'), response.text
    found = webclients.parts(response)
    assert all(list(head) == ["Content-Type"] for head, _ in found)
    return [(head["Content-Type"], data) for head, data in found]


def test_frames_come_in_the_order_of_the_list_also_twice(archive: WebArchive, jls: pydicom.Dataset) -> None:
    stored = list(generate_frames(jls.PixelData, number_of_frames=2))
    answer = archive.frames(jls, "2,1,2", "multipart/related; type=image/jls")
    kind = f"image/jls; transfer-syntax={JPEGLSLossless}"
    assert parts(answer) == [(kind, stored[1]), (kind, stored[0]), (kind, stored[1])]
    assert int(answer.headers["content-length"]) == len(answer.content)


ACCEPTS = [
    (None, "application/octet-stream", NATIVE),
    ("*/*", "application/octet-stream", NATIVE),
    ('multipart/related; type="*/*"', "image/jls", str(JPEGLSLossless)),
    ("multipart/related", "image/jls", str(JPEGLSLossless)),
    ('multipart/related; type="image/*"', "image/jls", str(JPEGLSLossless)),
    ("multipart/related; type=application/octet-stream", "application/octet-stream", NATIVE),
    ('multipart/related; type="application/octet-stream"', "application/octet-stream", NATIVE),
    (f"multipart/related; type=application/octet-stream; transfer-syntax={NATIVE}", "application/octet-stream", NATIVE),
    (
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
        "application/octet-stream",
        str(JPEGLSLossless),
    ),
    (MICROSCOPY, "image/jls", str(JPEGLSLossless)),
    ("multipart/related; type=image/jp2", "image/jp2", str(JPEG2000Lossless)),
    ("multipart/related; type=image/jpeg", "image/jpeg", str(JPEGLosslessSV1)),
    ("multipart/related; type=image/dicom-rle", "image/dicom-rle", str(RLELossless)),
    ("multipart/related; type=image/jphc", "image/jphc", "1.2.840.10008.1.2.4.201"),
    ("multipart/related; type=image/jxl", "image/jxl", "1.2.840.10008.1.2.4.110"),
    (
        "multipart/related; type=image/jp2; q=0.5, multipart/related; type=image/dicom-rle",
        "image/dicom-rle",
        str(RLELossless),
    ),
    (
        "multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50, "
        "multipart/related; type=application/octet-stream",
        "application/octet-stream",
        NATIVE,
    ),
]


@pytest.mark.parametrize(("accept", "media_type", "syntax"), ACCEPTS)
def test_the_transfer_syntax_is_what_the_client_accepts(
    archive: WebArchive, jls: pydicom.Dataset, accept: str | None, media_type: str, syntax: str
) -> None:
    [(kind, data)] = parts(archive.frames(jls, "2", accept))
    assert kind == f"{media_type}; transfer-syntax={syntax}"
    if syntax == NATIVE:
        assert data == GRAY12[1].tobytes()
    else:
        again = parse_data_set(compressed(syntax, [data], GRAY12[1:]), syntax)
        again.file_meta.TransferSyntaxUID = syntax
        if syntax.endswith(("4.110",)):
            return  # pydicom has no decoder
        assert np.array_equal(again.pixel_array, GRAY12[1])


@pytest.mark.parametrize(
    "accept",
    [
        "multipart/related; type=image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50",
        "multipart/related; type=image/jls; transfer-syntax=1.2.840.10008.1.2.4.90",
        "text/html",
        "application/dicom",
        "multipart/related; type=video/mp4",
        "*/*; q=0",
    ],
)
def test_what_cannot_be_had_is_406_with_a_reason(archive: WebArchive, jls: pydicom.Dataset, accept: str) -> None:
    answer = archive.frames(jls, "1", accept)
    assert answer.status_code == 406
    assert str(JPEGLSLossless) in answer.json()["detail"]


def test_one_frame_may_come_by_itself_but_not_several(archive: WebArchive, jls: pydicom.Dataset) -> None:
    answer = archive.frames(jls, "1", "application/octet-stream")
    assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={NATIVE}"
    assert answer.content == GRAY12[0].tobytes()
    answer = archive.frames(jls, "1", "application/octet-stream; transfer-syntax=*")
    assert answer.headers["content-type"] == f"application/octet-stream; transfer-syntax={JPEGLSLossless}"
    assert archive.frames(jls, "1,2", "application/octet-stream").status_code == 406
    assert len(parts(archive.frames(jls, "1,2", "application/octet-stream, */*; q=0.1"))) == 2


@pytest.mark.parametrize(("numbers", "status"), [("0", 404), ("3", 404), ("1,3", 404), ("1,,2", 400), ("a", 400)])
def test_lists_that_name_no_frames(archive: WebArchive, jls: pydicom.Dataset, numbers: str, status: int) -> None:
    assert archive.frames(jls, numbers, "*/*").status_code == status
    assert archive.frames(jls, "-1", "*/*").status_code == 400
    assert archive.frames(jls, "%EF%BC%91", "*/*").status_code == 400


def test_an_unknown_instance_and_one_without_pixels_are_404(archive: WebArchive, jls: pydicom.Dataset) -> None:
    other = pydicom.Dataset()
    other.StudyInstanceUID, other.SeriesInstanceUID = jls.StudyInstanceUID, jls.SeriesInstanceUID
    other.SOPInstanceUID = "1.2.3"
    assert archive.frames(other, "1", "*/*").status_code == 404
    # The right instance below another study.
    other.StudyInstanceUID, other.SOPInstanceUID = "1.2.3", jls.SOPInstanceUID
    assert archive.frames(other, "1", "*/*").status_code == 404
    path = next(path for path in pydicom_test_files() if path.name == "rtplan.dcm")
    assert archive.frames(archive.import_file(path), "1", "*/*").status_code == 404


def test_a_client_that_has_the_frames_is_told_so(archive: WebArchive, jls: pydicom.Dataset) -> None:
    first = archive.frames(jls, "1", "*/*")
    tag = first.headers["etag"]
    again = archive.frames(jls, "1", "*/*", **{"If-None-Match": f'"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert archive.frames(jls, "2", "*/*", **{"If-None-Match": tag}).status_code == 200
    assert archive.frames(jls, "1", MICROSCOPY, **{"If-None-Match": tag}).status_code == 200


def test_head_tells_length_and_type(archive: WebArchive, ct: pydicom.Dataset) -> None:
    url = f"{instance_url(archive.url, ct)}/frames/1"
    answer = archive.http.head(url, headers={"accept": "application/octet-stream"})
    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(ct.PixelData)))
    assert answer.content == b""


def test_a_video_has_no_frames_to_be_told_apart(archive: WebArchive) -> None:
    data = compressed(MPEG2MPML, [b"\0\0\1\xb3" + bytes(100)], COLOUR[:1], NumberOfFrames=20)
    answer = archive.frames(archive.store(data, str(MPEG2MPML)), "1", "*/*")
    assert answer.status_code == 406
    assert "cannot be told apart" in answer.json()["detail"]


def test_lossy_frames_are_decoded_by_default_and_stay_as_they_are_on_request(archive: WebArchive) -> None:
    path = next(path for path in pydicom_test_files() if path.name == "SC_rgb_jpeg_dcmtk.dcm")
    ds = archive.import_file(path)
    [(kind, data)] = parts(archive.frames(ds, "1", "*/*"))
    assert (kind, len(data)) == (f"application/octet-stream; transfer-syntax={NATIVE}", 100 * 100 * 3)
    [(kind, data)] = parts(archive.frames(ds, "1", "multipart/related; type=image/jpeg"))
    assert kind == f"image/jpeg; transfer-syntax={JPEGBaseline8Bit}"
    assert data == next(generate_frames(ds.PixelData, number_of_frames=1))


def test_a_large_frame_comes_in_pieces(archive: WebArchive) -> None:
    ds = make_ct(rows=2048, columns=1024)
    ds.PixelData = np.arange(2048 * 1024, dtype="<u2").tobytes()
    ds.save_as(archive.scratch / "large.dcm", enforce_file_format=True)
    ds = archive.import_file(archive.scratch / "large.dcm")
    answer = archive.frames(ds, "1", "application/octet-stream")
    assert answer.content == ds.PixelData
    assert int(answer.headers["content-length"]) == len(ds.PixelData)


def test_more_frames_than_are_looked_up_beforehand(archive: WebArchive) -> None:
    frames = [f"frame {n}".encode().ljust(9 + n % 7, b"\1") for n in range(200)]
    frames = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    ds = archive.store(compressed(JPEGLSLossless, frames, np.zeros((200, 4, 4), "u1")), str(JPEGLSLossless))
    wanted = ",".join(str(n) for n in range(200, 0, -1))
    answer = archive.frames(ds, wanted, "multipart/related; type=image/jls")
    assert [data for _, data in parts(answer)] == frames[::-1]
    assert "content-length" not in answer.headers


# ---------------------------------------------------------------- dicomweb-client


def test_dicomweb_client_reads_the_frames_of_every_codec(archive: WebArchive) -> None:
    client = DICOMwebClient(archive.url)
    for name in ("rle", "jpeg-ls", "jpeg-2000", "htj2k", "jpeg-lossless-sv1"):
        syntax, frames = encoded(name, GRAY12)
        ds = archive.store(compressed(syntax, frames, GRAY12), syntax)
        uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        stored = list(generate_frames(ds.PixelData, number_of_frames=2))
        assert client.retrieve_instance_frames(*uids, frame_numbers=[1, 2]) == stored
        native = client.retrieve_instance_frames(*uids, [2, 1], media_types=("application/octet-stream",))
        assert native == [GRAY12[1].tobytes(), GRAY12[0].tobytes()]


def test_every_file_of_pydicom_gives_its_first_frame(archive: WebArchive) -> None:
    client = DICOMwebClient(archive.url)
    seen = set()
    for path in pydicom_test_files():
        ds = pydicom.dcmread(path)
        if "PixelData" not in ds or "Rows" not in ds or path.stat().st_size > 40_000 or ds.SOPInstanceUID in seen:
            continue
        if ds.file_meta.TransferSyntaxUID.is_encapsulated:
            expected = next(generate_frames(ds.PixelData, number_of_frames=int(ds.get("NumberOfFrames") or 1)))
        elif path.name == "badVR.dcm" or ds.BitsAllocated == 1 or ds.original_encoding[1] is False:
            continue
        else:
            expected = ds.PixelData[: len(ds.PixelData) // int(ds.get("NumberOfFrames") or 1)]
        ds = archive.import_file(path)
        uids = (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
        [frame] = client.retrieve_instance_frames(*uids, frame_numbers=[1])
        assert frame == expected[: len(frame)], path.name
        assert len(expected) - len(frame) < 2, path.name
        seen.add(ds.SOPInstanceUID)
    assert len(seen) > 20


def test_a_frame_takes_one_thread_and_one_write(
    archive: WebArchive, ct: pydicom.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{instance_url(archive.url, ct)}/frames/1"
    pixels = archive.get(url, MICROSCOPY).content
    steps: list[str] = []

    def count(kind: type, name: str) -> None:
        plain = getattr(kind, name)

        def counted(*arguments: Any) -> Any:
            steps.append(name)
            return plain(*arguments)

        monkeypatch.setattr(kind, name, counted)

    count(Threads, "run")
    count(HTTPConnection, "write")
    assert archive.get(url, MICROSCOPY).content == pixels
    assert steps == ["run", "write"]
