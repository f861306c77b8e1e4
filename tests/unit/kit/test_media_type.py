"""Media types are read as clients write them."""

import pytest

from pacs_server.kit.media_type import MediaType, parse_media_type


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("application/dicom", "application/dicom", {}),
        (" Application/DICOM ; Transfer-Syntax=1.2.3 ", "application/dicom", {"transfer-syntax": "1.2.3"}),
        (
            'multipart/related; type="application/dicom"; boundary="a b;c=\\"d"',
            "multipart/related",
            {"type": "application/dicom", "boundary": 'a b;c="d'},
        ),
        (
            "multipart/related;type=application/dicom+json;boundary=--x:y",
            "multipart/related",
            {"type": "application/dicom+json", "boundary": "--x:y"},
        ),
        ("a/b; c=1; C=2;", "a/b", {"c": "1"}),
        ("a/b; c=", "a/b", {"c": ""}),
    ],
)
def test_media_types(text: str, name: str, parameters: dict[str, str]) -> None:
    assert parse_media_type(text) == MediaType(name, parameters)


@pytest.mark.parametrize("text", ["", "dicom", "a/", "/b", "a/b c", 'a/b; c="x', "a/b; c d", "a/b, c/d"])
def test_what_is_no_media_type(text: str) -> None:
    assert parse_media_type(text) is None
