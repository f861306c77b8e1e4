"""STOW-RS of metadata with bulk data apart, in DICOM JSON and as XML (PS3.18 10.5.1.4)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from datasets import make_ct, uid
from pydicom.encaps import generate_frames
from servers import config, leftovers, running
from webclients import BOUNDARY, post, values

from pacs_server.app.server import PacsServer
from pacs_server.web.dicomweb import storing_metadata

FAILED, STORED, OTHERS = "00081198", "00081199", "0008119A"
REASON, INSTANCE = "00081197", "00081155"
JSON, XML = "application/dicom+json", "application/dicom+xml"
Part = tuple[str, bytes]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PacsServer]:
    with running(config(tmp_path_factory.mktemp("stow"), web=True)) as server:
        yield server
        assert leftovers(server.config) == []


def send(pacs: PacsServer, kind: str, *parts: Part, path: str = "/studies") -> Any:
    line = BOUNDARY.encode()
    body = b"".join(b"--%s\r\n%s\r\n\r\n%s\r\n" % (line, head.encode(), data) for head, data in parts)
    content_type = f'multipart/related; type="{kind}"; boundary="{BOUNDARY}"'
    return post(pacs, body + b"--%s--\r\n" % line, path, {"Content-Type": content_type})


def image(**attributes: Any) -> pydicom.Dataset:
    ds = make_ct(**attributes)
    ds["PixelData"].VR = "OW"
    return ds


def metadata(*data_sets: Any) -> Part:
    return f"Content-Type: {JSON}", json.dumps(data_sets).encode()


def bulk(location: str, data: bytes, media_type: str = "application/octet-stream") -> Part:
    return f"Content-Type: {media_type}\r\nContent-Location: {location}", data


def apart(ds: pydicom.Dataset, location: str) -> dict[str, Any]:
    """The JSON of an image whose pixels are elsewhere."""
    told: dict[str, Any] = ds.to_json_dict()
    vr = told["7FE00010"]["vr"]
    return told | {"7FE00010": {"vr": vr, "BulkDataURI": location}}


def kept(pacs: PacsServer, ds: pydicom.Dataset) -> pydicom.Dataset:
    instance = pacs.archive.archive.find(str(ds.SOPInstanceUID))
    assert instance is not None
    return pydicom.dcmread(Path(pacs.config.storage.directory) / instance.path)


def test_json_with_bulk_data(pacs: PacsServer) -> None:
    first, second = image(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 192"), image()
    answer = send(
        pacs, JSON, metadata(apart(first, "bulk/1"), apart(second, "http://x/2")),
        bulk("http://x/2", second.PixelData), bulk("bulk/1", first.PixelData),
    )  # fmt: skip
    assert answer.status_code == 200
    assert values(answer.json(), STORED, INSTANCE) == [first.SOPInstanceUID, second.SOPInstanceUID]
    for ds in (first, second):
        back = kept(pacs, ds)
        assert back.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert back.PatientName == ds.PatientName
        assert np.array_equal(back.pixel_array, ds.pixel_array)


def test_xml_with_bulk_data(pacs: PacsServer) -> None:
    ds = image()
    told = "".join(
        f'<DicomAttribute tag="{element.tag:08X}" vr="{element.VR}">'
        + "".join(f'<Value number="{n}">{value}</Value>' for n, value in enumerate(_values(element), 1))
        + "</DicomAttribute>"
        for element in ds
        if element.tag != 0x7FE00010 and element.VR != "PN"
    )
    pixels = '<DicomAttribute tag="7FE00010" vr="OW"><BulkData uri="p"/></DicomAttribute>'
    document = f"<NativeDicomModel>{told}{pixels}</NativeDicomModel>".encode()
    answer = send(pacs, XML, (f"Content-Type: {XML}", document), bulk("p", ds.PixelData))
    assert answer.status_code == 200
    assert np.array_equal(kept(pacs, ds).pixel_array, ds.pixel_array)


def _values(element: pydicom.DataElement) -> list[object]:
    return list(element.value) if element.VM > 1 else [element.value]


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "image/jpeg"),
        ("examples_ybr_color.dcm", "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50"),
        ("examples_jpeg2k.dcm", "image/jp2"),
        ("SC_rgb_rle_2frame.dcm", "image/dicom-rle"),
    ],
)
def test_frames_that_are_compressed(pacs: PacsServer, name: str, media_type: str) -> None:
    ds = pydicom.dcmread(pydicom.data.get_testdata_file(name))
    ds.SOPInstanceUID = uid()
    number = int(ds.get("NumberOfFrames") or 1)
    frames = list(generate_frames(ds.PixelData, number_of_frames=number))
    answer = send(
        pacs, JSON, metadata(apart(ds, "f")), *(bulk("f", frame, media_type) for frame in frames)
    )  # fmt: skip
    assert answer.status_code == 200
    back = kept(pacs, ds)
    assert back.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
    assert list(generate_frames(back.PixelData, number_of_frames=number)) == frames


def test_metadata_alone(pacs: PacsServer) -> None:
    ds = image()
    answer = post(pacs, ds.to_json().encode(), headers={"Content-Type": JSON})
    assert answer.status_code == 200
    assert kept(pacs, ds).PixelData == ds.PixelData


def test_one_instance_fails_alone(pacs: PacsServer) -> None:
    good, missing, misfit, nameless, wrong = (image() for _ in range(5))
    negative = misfit.to_json_dict() | {"00280010": {"vr": "US", "Value": [-1]}}
    answer = send(
        pacs, JSON,
        metadata(apart(good, "g"), apart(missing, "m"), negative, wrong.to_json_dict() | {"x": {}}),
        metadata({k: v for k, v in nameless.to_json_dict().items() if k != "00080018"}),
        (f"Content-Type: {JSON}", b'[{"00080018": '),
        bulk("g", good.PixelData), ("Content-Type: application/octet-stream", b"without a location"),
    )  # fmt: skip
    assert answer.status_code == 202
    assert values(answer.json(), STORED, INSTANCE) == [good.SOPInstanceUID]
    assert values(answer.json(), FAILED, INSTANCE) == [ds.SOPInstanceUID for ds in (wrong, missing, misfit)]
    assert values(answer.json(), FAILED, REASON) == [0xC000] * 3
    assert values(answer.json(), OTHERS, REASON) == [0xC000] * 3


def test_the_study_of_the_url(pacs: PacsServer) -> None:
    ds = image()
    answer = send(pacs, JSON, metadata(ds.to_json_dict()), path=f"/studies/{uid()}")
    assert answer.status_code == 409
    assert values(answer.json(), FAILED, REASON) == [0xA900]


@pytest.mark.parametrize("document", [b"[]", b"", b"null", b"[1]", b'"x"', b"[" * 100_000, b'{"1": {}}', b"\xff"])
def test_metadata_that_is_none(pacs: PacsServer, document: bytes) -> None:
    answer = post(pacs, document, headers={"Content-Type": JSON})
    assert answer.status_code in (400, 409)


@pytest.mark.parametrize(
    "document",
    [b" " * (16 << 20) + b"[]", b"[" + b"{}," * 400_000 + b"{}]", b"[" + b"1," * 2_000_001 + b"1]"],
    ids=["bytes", "objects", "values"],
)
def test_too_much_metadata(pacs: PacsServer, document: bytes) -> None:
    answer = post(pacs, document, headers={"Content-Type": JSON})
    assert answer.status_code == 409
    assert values(answer.json(), OTHERS, REASON) == [0xC000]


def test_the_number_of_data_sets_is_bounded(pacs: PacsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing_metadata, "_MOST_DATA_SETS", 3)
    many = send(pacs, JSON, metadata(*({} for _ in range(4))))
    assert many.status_code == 409
    # One failure tells of all of them.
    assert len(values(many.json(), OTHERS)) == 1
