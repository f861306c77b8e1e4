"""Structured reports as pages: everything of the content tree is there, and nothing of it is markup."""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import datasets
import pydicom
import pytest
from datasets import encoded
from pydicom.dataset import Dataset

from pacs_server.dicom.element_stream import DataSetBytes
from pacs_server.dicom.report import html_of
from pacs_server.errors import TranscodeError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
EXPLICIT = "1.2.840.10008.1.2.1"
REPORTS = [path for path in datasets.pydicom_test_files() if path.name in ("test-SR.dcm", "reportsi.dcm")]


def page(data: bytes, syntax: str) -> str:
    return html_of(DataSetBytes(lambda offset, length: data[offset : offset + length], len(data), syntax))


def content(item: Dataset) -> Iterator[Dataset]:
    for each in item.get("ContentSequence", []):
        yield each
        yield from content(each)


@pytest.mark.parametrize("path", REPORTS, ids=[path.name for path in REPORTS])
def test_all_content_of_a_report_is_on_its_page(path: Path) -> None:
    syntax, data = datasets.data_set_bytes(path)
    text = " ".join(unescape(re.sub("<[^>]*>", " ", page(data, syntax))).split())
    items = list(content(pydicom.dcmread(path)))
    assert items
    for item in items:
        if "ConceptNameCodeSequence" in item:
            assert " ".join(item.ConceptNameCodeSequence[0].CodeMeaning.split()) in text
        if item.get("ValueType") == "TEXT":
            assert " ".join(item.TextValue.split()) in text
        if item.get("ValueType") == "CODE":
            assert item.ConceptCodeSequence[0].CodeMeaning in text
        if item.get("ValueType") == "NUM" and item.get("MeasuredValueSequence"):
            assert str(item.MeasuredValueSequence[0].NumericValue) in text


def test_text_is_never_markup_and_keeps_its_characters() -> None:
    item, name = Dataset(), Dataset()
    name.CodeMeaning, name.CodeValue, name.CodingSchemeDesignator = "<b>Finding</b>", "1", "99"
    item.ValueType, item.TextValue, item.ConceptNameCodeSequence = "TEXT", '<script>alert("ü")</script>', [name]
    ds = datasets.make_ct(SpecificCharacterSet="ISO_IR 192", PatientName="Müller^<i>Jörg", ContentSequence=[item])
    html = page(encoded(ds), EXPLICIT)
    assert "<script" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;alert(&quot;ü&quot;)&lt;/script&gt;" in html
    assert "Müller &lt;i&gt;Jörg" in html


def test_values_of_every_kind() -> None:
    def item(kind: str, **attributes: object) -> Dataset:
        ds = Dataset()
        ds.ValueType = kind
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return ds

    unit, measured, image = Dataset(), Dataset(), Dataset()
    unit.CodeValue, unit.CodeMeaning = "mm", "millimeter"
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "12.5", [unit]
    image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber = "1.2.3.4", [2, 3]
    items = [
        item("NUM", MeasuredValueSequence=[measured]),
        item("IMAGE", ReferencedSOPSequence=[image]),
        item("SCOORD", GraphicType="POINT", GraphicData=[1.5, 2]),
        item("PNAME", PersonName="Doe^Jane"),
        item("DATETIME", DateTime="20261129161500"),
        item("CONTAINER"),
    ]
    html = page(encoded(datasets.make_ct(ContentSequence=items)), EXPLICIT)
    found = re.findall("<li>(.*?)</li>", html)
    assert found == ["12.5 mm", "instance 1.2.3.4, frames 2, 3", "POINT 1.5 2", "Doe Jane", "20261129161500", ""]


def test_a_malformed_report_is_an_error() -> None:
    with pytest.raises(TranscodeError):
        page(encoded(datasets.make_ct())[:-100] + b"\xff", EXPLICIT)
