"""What a client accepts (PS3.18 8.7)."""

import pytest
from starlette.requests import Request

from pacs_server.errors import NotAcceptable
from pacs_server.kit.media_types import media_type_of
from pacs_server.web.accept import Accepted, accepted, choose

JSON, XML, DICOM = "application/dicom+json", "application/dicom+xml", "application/dicom"


def request(*accept: str, query: str = "") -> Request:
    headers = [(b"accept", text.encode()) for text in accept]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/dicom+json", [Accepted(JSON, False)]),
        ("*/*", [Accepted("*/*")]),
        ('multipart/related; type="application/dicom"', [Accepted(DICOM, True)]),
        ("multipart/related; type=application/dicom; transfer-syntax=*", [Accepted(DICOM, True, "*")]),
        ('multipart/related; type="*/*"', [Accepted("*/*", True)]),
        ("multipart/related", [Accepted("*/*", True)]),
        (
            "text/html,application/json;q=0.9",
            [Accepted("text/html", False), Accepted("application/json", False, "", 0.9)],
        ),
        ("a/b;q=0.1, c/d", [Accepted("c/d", False), Accepted("a/b", False, "", 0.1)]),
        ("a/b;q=0", []),
        ("nonsense", [Accepted("*/*")]),
        # What older clients call them; the answer has the name of the Standard.
        ("image/x-jls", [Accepted("image/jls", False)]),
        ('multipart/related; type="image/x-dicom-rle"', [Accepted("image/dicom-rle", True)]),
        (
            'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1, '
            'multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.80',
            [
                Accepted("application/octet-stream", True, "1.2.840.10008.1.2.1"),
                Accepted("image/jls", True, "1.2.840.10008.1.2.4.80"),
            ],
        ),
    ],
)
def test_ranges_of_the_header(text: str, expected: list[Accepted]) -> None:
    assert accepted(request(text)) == expected


def test_nothing_said_is_anything() -> None:
    assert accepted(request()) == [Accepted("*/*")]


def test_the_query_parameter_stands_before_the_header() -> None:
    assert accepted(request("text/html", query="accept=application/dicom%2Bjson")) == [Accepted(JSON, False)]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("*/*", JSON), (f"{XML}, {JSON};q=0.5", XML), ("application/*", JSON), (f"text/html, {XML}", XML)],
)
def test_the_best_that_is_offered_is_chosen(text: str, chosen: str) -> None:
    assert choose(request(text), [JSON, XML]) == chosen


def test_what_cannot_be_had_is_said() -> None:
    with pytest.raises(NotAcceptable, match=r"there is application/dicom\+json"):
        choose(request("image/png"), [JSON])


def test_a_quoted_parameter_may_hold_separators() -> None:
    assert media_type_of('Multipart/Related; boundary="a;b,c\\"d"; TYPE=x/y') == (
        "multipart/related",
        {"boundary": 'a;b,c"d', "type": "x/y"},
    )
