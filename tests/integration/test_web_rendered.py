"""Pictures, thumbnails and WADO-URI over HTTP."""

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx2 as httpx
import numpy as np
import pydicom
import pytest
from compressed import GRAY12, LOSSLESS, compressed
from datasets import make_ct, pydicom_test_files
from dicomweb_client.api import DICOMwebClient
from PIL import Image
from pydicom.uid import (
    HEVCMP51,
    MPEG4HP41,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from servers import config, running
from webarchive import WebArchive, instance_url

from pacs_server.web.threads import Threads

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RAMP = (np.arange(100)[np.newaxis, :] * 10 + np.zeros((50, 1))).astype("<u2")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebArchive]:
    directory = tmp_path_factory.mktemp("rendered")
    with running(config(directory, web=True)) as pacs:
        archive = WebArchive(pacs, directory)
        yield archive
        archive.http.close()


def ramp(**attributes: Any) -> pydicom.Dataset:
    ds = make_ct(rows=50, columns=100, **{"WindowCenter": 500, "WindowWidth": 1000, **attributes})
    ds.PixelData = RAMP.tobytes()
    return ds


@pytest.fixture(scope="module")
def image(archive: WebArchive) -> pydicom.Dataset:
    return archive.add(ramp())


@pytest.fixture(scope="module")
def multi(archive: WebArchive) -> pydicom.Dataset:
    syntax, encoder = LOSSLESS["jpeg-ls"]
    array = np.stack([np.full((40, 60), level, "u2") for level in (0, 1000, 2000)])
    attributes = {"WindowCenter": 1000, "WindowWidth": 2001, "BitsStored": 12, "HighBit": 11, "FrameTime": "50"}
    return archive.store(compressed(syntax, [encoder(f) for f in array], array, **attributes), str(syntax))


def opened(answer: httpx.Response, media_type: str = "image/jpeg") -> Image.Image:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    image = Image.open(BytesIO(answer.content))
    assert Image.MIME[image.format or ""] == media_type
    return image


def shades(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(int)


WANTED = np.clip(((RAMP - 499.5) / 999 + 0.5) * 255, 0, 255)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "image/jpeg"),
        ("*/*", "image/jpeg"),
        ("image/*", "image/jpeg"),
        ("image/png", "image/png"),
        ("image/gif", "image/gif"),
        ("image/jpeg;q=0.5, image/png", "image/png"),
        ("text/html, image/avif, image/webp, */*;q=0.8", "image/jpeg"),
    ],
)
def test_an_instance_is_shown_as_the_client_accepts_it(
    archive: WebArchive, image: pydicom.Dataset, accept: str | None, media_type: str
) -> None:
    answer = archive.get(f"{instance_url(archive.url, image)}/rendered", accept)
    assert np.abs(shades(opened(answer, media_type)) - WANTED).max() <= 2
    again = archive.get(f"{instance_url(archive.url, image)}/frames/1/rendered", accept)
    assert np.array_equal(shades(opened(again, media_type)), shades(opened(answer, media_type)))


@pytest.mark.parametrize(
    "accept", ["text/html", "application/dicom", "image/webp", "multipart/related; type=video/mp4"]
)
def test_other_media_types_are_406(archive: WebArchive, image: pydicom.Dataset, accept: str) -> None:
    answer = archive.get(f"{instance_url(archive.url, image)}/rendered", accept)
    assert answer.status_code == 406
    assert "image/png" in answer.json()["detail"]


def test_the_parameters_of_the_standard(archive: WebArchive, image: pydicom.Dataset) -> None:
    url = f"{instance_url(archive.url, image)}/rendered"

    def got(**params: str) -> Image.Image:
        return opened(archive.get(url, "image/png", params=params), "image/png")

    assert got(viewport="50,50").size == (50, 25)
    part = got(viewport="40,40,10,0,40,40")
    assert np.abs(shades(part) - WANTED[:40, 10:50]).max() <= 1
    assert np.array_equal(shades(got(viewport="100,100,,,-100,50")), shades(got())[:, ::-1])
    exact = np.clip((RAMP - 100.0) / 50 + 0.5, 0, 1) * 255
    assert np.abs(shades(got(window="100,50,linear-exact")) - exact).max() <= 1
    sigmoid = 255 / (1 + np.exp(-4 * (RAMP - 100.0) / 50))
    assert np.abs(shades(got(window="100,50,sigmoid")) - sigmoid).max() <= 1
    assert set(shades(got(window="100,1,linear")).ravel()) == {0, 255}
    small, large = (archive.get(url, "image/jpeg", params={"quality": q}) for q in ("5", "100"))
    assert len(small.content) < len(large.content)


@pytest.mark.parametrize(
    "params",
    [
        {"viewport": "0,10"},
        {"viewport": "10"},
        {"viewport": "10,10,1"},
        {"viewport": "10,10,0,0,0,10"},
        {"viewport": "10,10,1000,0"},
        {"viewport": "10,10,1000,0,5,5"},
        {"viewport": "99999,99999"},
        {"window": "1,2"},
        {"window": "a,2,linear"},
        {"window": "1,0,linear"},
        {"window": "1,nan,linear"},
        {"window": "1,2,cubic"},
        {"quality": "0"},
        {"quality": "101"},
        {"quality": "x"},
        {"iccprofile": "maybe"},
    ],
)
def test_bad_parameters_are_400(archive: WebArchive, image: pydicom.Dataset, params: dict[str, str]) -> None:
    answer = archive.get(f"{instance_url(archive.url, image)}/rendered", params=params)
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_annotations_are_left_out_with_a_warning(archive: WebArchive, image: pydicom.Dataset) -> None:
    url = f"{instance_url(archive.url, image)}/rendered"
    answer = archive.get(url, params={"annotation": "patient,technique"})
    assert answer.content == archive.get(url).content
    assert answer.headers["warning"].startswith("299 ")
    assert "patient, technique" in answer.headers["warning"]


def test_a_multi_frame_image(archive: WebArchive, multi: pydicom.Dataset) -> None:
    url = instance_url(archive.url, multi)
    for number, level in ((1, 0), (2, 127), (3, 255)):
        answer = archive.get(f"{url}/frames/{number}/rendered")
        assert np.abs(shades(opened(answer)) - level).max() <= 2
    assert archive.get(f"{url}/rendered").content == archive.get(f"{url}/frames/2/rendered").content
    assert archive.get(f"{url}/frames/4/rendered").status_code == 404
    assert archive.get(f"{url}/frames/1,3/rendered", "image/jpeg").status_code == 406
    animated = opened(archive.get(f"{url}/rendered", "image/gif"), "image/gif")
    assert animated.n_frames == 3
    assert animated.info["duration"] == 50


def pictures(answer: httpx.Response) -> list[Image.Image]:
    assert answer.status_code == 200, answer.text
    kind = re.fullmatch('multipart/related; type="image/jpeg"; boundary=(.+)', answer.headers["content-type"])
    assert kind
    begin, *bodies, end = answer.content.split(f"--{kind[1]}".encode())
    assert (begin, end) == (b"", b"--\r\n")
    heads, files = zip(*(body.split(b"\r\n\r\n", 1) for body in bodies), strict=True)
    assert set(heads) == {b"\r\nContent-Type: image/jpeg"}
    return [Image.open(BytesIO(file[:-2])) for file in files]


def test_several_pictures_come_in_parts(archive: WebArchive, multi: pydicom.Dataset) -> None:
    url = instance_url(archive.url, multi)
    all_frames = pictures(archive.get(f"{url}/rendered", "multipart/related; type=image/jpeg"))
    assert [round(shades(image).mean() / 128) for image in all_frames] == [0, 1, 2]
    some = pictures(archive.get(f"{url}/frames/3,1/rendered", "multipart/related; type=image/jpeg"))
    assert [round(shades(image).mean() / 128) for image in some] == [2, 0]


def test_what_is_too_large_is_not_asked_for_again(archive: WebArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    url = instance_url(archive.url, archive.add(ramp()))
    assert archive.get(f"{url}/rendered").status_code == 200
    monkeypatch.setattr("pacs_server.services.rendering._MAX_PIXELS", 100)
    answer = archive.get(f"{url}/rendered?viewport=10,10")
    assert (answer.status_code, answer.headers.get("retry-after")) == (406, None)
    assert "too large" in answer.json()["detail"]


def test_a_series_and_a_study_are_shown_by_an_image_from_the_middle(archive: WebArchive) -> None:
    study, series = make_ct().StudyInstanceUID, make_ct().SeriesInstanceUID
    stored = [
        archive.add(ramp(study=study, series=series, InstanceNumber=n, WindowCenter=100 * n)) for n in range(1, 6)
    ]
    report = next(path for path in pydicom_test_files() if path.name == "rtplan.dcm")
    plan = pydicom.dcmread(report)
    plan.StudyInstanceUID = study
    archive.add(plan)
    middle = archive.get(f"{instance_url(archive.url, stored[2])}/rendered").content
    for url in (f"{archive.url}/studies/{study}", f"{archive.url}/studies/{study}/series/{series}"):
        assert archive.get(f"{url}/rendered").content == middle
        assert len(pictures(archive.get(f"{url}/rendered", "multipart/related; type=image/jpeg"))) == 5
        assert max(opened(archive.get(f"{url}/thumbnail")).size) == 256
    url = f"{archive.url}/studies/{study}/series/{plan.SeriesInstanceUID}/rendered"
    assert archive.get(url).status_code == 404


def test_thumbnails(archive: WebArchive, image: pydicom.Dataset, multi: pydicom.Dataset) -> None:
    url = instance_url(archive.url, image)
    assert opened(archive.get(f"{url}/thumbnail")).size == (256, 128)
    assert opened(archive.get(f"{url}/thumbnail", "image/png", params={"viewport": "64,64"}), "image/png").size == (
        64,
        32,
    )
    assert opened(archive.get(f"{instance_url(archive.url, multi)}/frames/3/thumbnail")).size == (256, 171)
    assert archive.get(f"{archive.url}/studies/1.2.3/thumbnail").status_code == 404


def test_a_client_that_has_the_picture_is_told_so(archive: WebArchive, image: pydicom.Dataset) -> None:
    url = f"{instance_url(archive.url, image)}/rendered"
    tag = archive.get(url).headers["etag"]
    answer = archive.get(url, **{"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert archive.get(url, params={"quality": "50"}, **{"If-None-Match": tag}).status_code == 200
    head = archive.http.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) == len(archive.get(url).content)


def test_what_cannot_be_decoded_is_406_with_the_reason(archive: WebArchive) -> None:
    ds = archive.store(compressed(RLELossless, [b"no RLE"], GRAY12[:1]), str(RLELossless))
    answer = archive.get(f"{instance_url(archive.url, ds)}/rendered")
    assert answer.status_code == 406
    assert "cannot be decoded" in answer.json()["detail"]


# ---------------------------------------------------------------- documents and videos


def pdf(document: bytes) -> pydicom.Dataset:
    ds = make_ct()
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    ds.EncapsulatedDocument, ds.MIMETypeOfEncapsulatedDocument = document, "application/pdf"
    ds.EncapsulatedDocumentLength = len(document)
    return ds


def test_a_document_comes_as_it_is(archive: WebArchive) -> None:
    document = b"%PDF-1.7 " + bytes(range(256)) * 1000 + b"\n%%EOF"
    document += b"\n" * (len(document) % 2 == 0)
    url = f"{instance_url(archive.url, archive.add(pdf(document)))}/rendered"
    for accept in (None, "*/*", "application/pdf", "text/html, application/pdf"):
        answer = archive.get(url, accept)
        assert (answer.headers["content-type"], answer.content) == ("application/pdf", document)
    assert "sandbox" in answer.headers["content-security-policy"]
    assert archive.get(url, "image/jpeg").status_code == 406
    of_series = re.sub("/instances/[^/]+", "", url)
    assert archive.get(of_series).content == document
    answer = archive.get(url, Range="bytes=5-99")
    assert (answer.status_code, answer.content) == (206, document[5:100])
    assert answer.headers["content-range"] == f"bytes 5-99/{len(document)}"
    assert archive.get(url, Range="bytes=-7").content == document[-7:]
    assert archive.get(url, Range=f"bytes={len(document) - 3}-").content == document[-3:]
    assert archive.get(url, Range=f"bytes={len(document)}-").status_code == 416
    assert archive.get(url, Range="bytes=0-1,4-5").status_code == 200
    assert archive.get(url, **{"Range": "bytes=5-99", "If-Range": '"old"'}).status_code == 200
    assert archive.get(url, **{"If-None-Match": answer.headers["etag"]}).status_code == 304


def test_a_video_comes_as_it_is_also_in_ranges_over_fragments(archive: WebArchive) -> None:
    data = compressed(
        str(MPEG4HP41), [b"first piece.", b"second piece", b"third"], np.zeros((3, 4, 4), "u1"), NumberOfFrames=90
    )
    url = f"{instance_url(archive.url, archive.store(data, str(MPEG4HP41)))}/rendered"
    video = b"first piece.second piecethird\0"
    answer = archive.get(url)
    assert (answer.headers["content-type"], answer.content) == ("video/mp4", video)
    assert answer.headers["accept-ranges"] == "bytes"
    assert archive.get(url, "video/mp4", Range="bytes=6-27").content == video[6:28]
    assert archive.get(url.replace("/rendered", "/frames/1/rendered")).status_code == 406


def test_hevc_has_a_media_type_without_capitals(archive: WebArchive) -> None:
    data = compressed(HEVCMP51, [b"stream"], np.zeros((1, 4, 4), "u1"))
    url = f"{instance_url(archive.url, archive.store(data, str(HEVCMP51)))}/rendered"
    assert archive.get(url, "video/H265").headers["content-type"] == "video/h265"


# ---------------------------------------------------------------- WADO-URI


def wado(archive: WebArchive, ds: pydicom.Dataset, **params: object) -> httpx.Response:
    named = {"requestType": "WADO", "studyUID": ds.StudyInstanceUID, "seriesUID": ds.SeriesInstanceUID}
    given = {**named, "objectUID": ds.SOPInstanceUID, **params}
    url = archive.url.replace("/dicom-web", "/wado")
    return archive.get(url, params={name: str(value) for name, value in given.items() if value is not None})


def test_an_instance_by_wado_uri(archive: WebArchive, image: pydicom.Dataset) -> None:
    answer = wado(archive, image, contentType="application/dicom")
    assert answer.headers["content-type"] == "application/dicom"
    assert b"127.0.0.1" not in answer.content
    assert int(answer.headers["content-length"]) == len(answer.content)
    got = pydicom.dcmread(BytesIO(answer.content))
    assert got == image
    assert "SourceApplicationEntityTitle" not in got.file_meta
    implicit = wado(archive, image, contentType="application/dicom", transferSyntax=ImplicitVRLittleEndian)
    got = pydicom.dcmread(BytesIO(implicit.content))
    assert got.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert got.PixelData == image.PixelData


def test_a_part_of_a_file_by_wado_uri(archive: WebArchive, image: pydicom.Dataset) -> None:
    whole = wado(archive, image, contentType="application/dicom")
    url, length = str(whole.url), len(whole.content)
    for text, part in (("0-9", slice(0, 10)), ("100-5000", slice(100, 5001)), ("-9", slice(length - 9, length))):
        answer = archive.get(url, Range=f"bytes={text}")
        assert (answer.status_code, answer.content) == (206, whole.content[part])
    assert archive.get(url, Range=f"bytes={length}-").status_code == 416
    assert archive.get(url, **{"If-None-Match": whole.headers["etag"]}).status_code == 304


def test_an_instance_transcoded_by_wado_uri(archive: WebArchive, multi: pydicom.Dataset) -> None:
    params = {"contentType": "application/dicom", "transferSyntax": ExplicitVRLittleEndian}
    got = pydicom.dcmread(BytesIO(wado(archive, multi, **params).content))
    assert np.array_equal(got.pixel_array, multi.pixel_array)
    got = pydicom.dcmread(BytesIO(wado(archive, multi, **params | {"transferSyntax": RLELossless}).content))
    assert got.file_meta.TransferSyntaxUID == RLELossless
    assert np.array_equal(got.pixel_array, multi.pixel_array)
    assert wado(archive, multi, **params | {"transferSyntax": "1.2.840.10008.1.2.4.50"}).status_code == 406


def test_a_picture_by_wado_uri(archive: WebArchive, image: pydicom.Dataset, multi: pydicom.Dataset) -> None:
    assert np.abs(shades(opened(wado(archive, image))) - WANTED).max() <= 2
    assert opened(wado(archive, image, contentType="image/png"), "image/png").size == (100, 50)
    assert opened(wado(archive, image, contentType="image/jp2, image/png"), "image/png").size == (100, 50)
    assert opened(wado(archive, image, rows=10)).size == (20, 10)
    assert opened(wado(archive, image, columns=50, rows=100)).size == (50, 25)
    part = opened(wado(archive, image, region="0.5,0,1,0.5", contentType="image/png"), "image/png")
    assert np.abs(shades(part) - WANTED[:25, 50:]).max() <= 1
    windowed = opened(wado(archive, image, windowCenter=100, windowWidth=1, contentType="image/png"), "image/png")
    assert set(shades(windowed).ravel()) == {0, 255}
    assert np.abs(shades(opened(wado(archive, multi, frameNumber=3))) - 255).max() <= 2
    assert len(wado(archive, image, imageQuality=1).content) < len(wado(archive, image, imageQuality=100).content)
    tag = wado(archive, image).headers["etag"]
    assert tag == wado(archive, image).headers["etag"]


@pytest.mark.parametrize(
    ("params", "status"),
    [
        ({"requestType": None}, 400),
        ({"requestType": "WADU"}, 400),
        ({"studyUID": None}, 400),
        ({"seriesUID": None}, 400),
        ({"objectUID": None}, 400),
        ({"objectUID": "1.2.3"}, 404),
        ({"studyUID": "1.2.3"}, 404),
        ({"anonymize": "yes"}, 400),
        ({"presentationUID": "1.2"}, 400),
        ({"frameNumber": "4"}, 400),
        ({"frameNumber": "0"}, 400),
        ({"windowCenter": "4"}, 400),
        ({"region": "0,0,1"}, 400),
        ({"region": "0.5,0,0.5,1"}, 400),
        ({"rows": "-3"}, 400),
        ({"imageQuality": "101"}, 400),
        ({"contentType": "text/html"}, 406),
    ],
)
def test_bad_requests_of_wado_uri(
    archive: WebArchive, multi: pydicom.Dataset, params: dict[str, str | None], status: int
) -> None:
    answer = wado(archive, multi, **params)
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_a_document_by_wado_uri(archive: WebArchive) -> None:
    ds = archive.add(pdf(b"%PDF-1.7 small"))
    assert wado(archive, ds).content == b"%PDF-1.7 small"
    assert wado(archive, ds, contentType="image/jpeg").status_code == 406


# ---------------------------------------------------------------- dicomweb-client


def test_dicomweb_client_shows_pictures(archive: WebArchive, image: pydicom.Dataset, multi: pydicom.Dataset) -> None:
    client = DICOMwebClient(archive.url)
    uids = (image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)
    for media_type in ("image/jpeg", "image/png"):
        data = client.retrieve_instance_rendered(*uids, media_types=(media_type,))
        assert Image.open(BytesIO(data)).size == (100, 50)
    data = client.retrieve_instance_rendered(*uids, media_types=("image/png",), params={"viewport": "10,10"})
    assert Image.open(BytesIO(data)).size == (10, 5)
    uids = (multi.StudyInstanceUID, multi.SeriesInstanceUID, multi.SOPInstanceUID)
    data = client.retrieve_instance_frames_rendered(*uids, frame_numbers=[3], media_types=("image/png",))
    assert shades(Image.open(BytesIO(data))).min() == 255


def test_a_report_is_a_page(archive: WebArchive) -> None:
    path = next(path for path in pydicom_test_files() if path.name == "test-SR.dcm")
    ds = archive.import_file(path)
    for answer in (archive.get(f"{instance_url(archive.url, ds)}/rendered", "text/html, */*;q=0.5"), wado(archive, ds)):
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "<li>" in answer.text
        assert "sandbox" in answer.headers["content-security-policy"]
    assert archive.get(f"{instance_url(archive.url, ds)}/rendered", "image/jpeg").status_code == 406


def test_one_thread_makes_all_of_a_picture(
    archive: WebArchive, image: pydicom.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handing a request over to a thread takes as long as opening the instance."""
    url = instance_url(archive.url, image)
    opened(archive.get(f"{url}/rendered"))
    run, ran = Threads.run, []

    def counted(self: Threads, function: Any, *arguments: Any) -> Any:
        # What is done once in a while has nothing to do with pictures.
        if getattr(function, "__name__", "") not in ("catch_up", "exist"):
            ran.append(function)
        return run(self, function, *arguments)

    monkeypatch.setattr(Threads, "run", counted)
    opened(archive.get(f"{url}/rendered", params={"viewport": "31,31"}))
    opened(archive.get(f"{url}/frames/1/rendered", params={"viewport": "31,31"}))
    opened(archive.get(f"{url}/thumbnail", params={"viewport": "31,31"}))
    opened(wado(archive, image, rows=31))
    assert wado(archive, image, contentType="application/dicom").status_code == 200
    assert len(ran) == 5
