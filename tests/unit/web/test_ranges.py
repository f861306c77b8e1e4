"""Conditional requests and byte ranges (RFC 9110)."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from pacs_server.web.dicomweb.ranges import ByteRange, byte_range, conditions

HEADERS = {"etag": '"a"', "last-modified": "Sun, 29 Nov 2026 10:00:00 GMT"}


def request(method: str = "GET", **headers: str) -> Request:
    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": "/", "headers": told})


@pytest.mark.parametrize(
    ("told", "fresh"),
    [
        *[({"if_none_match": '"a"'}, True), ({"if_none_match": 'W/"a"'}, True), ({"if_none_match": '"b", "a"'}, True)],
        *[({"if_none_match": "*"}, True), ({"if_none_match": '"b"'}, False), ({}, False)],
        ({"if_modified_since": "Sun, 29 Nov 2026 10:00:00 GMT"}, True),
        ({"if_modified_since": "Sun, 29 Nov 2026 09:59:59 GMT"}, False),
        ({"if_modified_since": "yesterday"}, False),
        # RFC 9110 13.2.2: the tag stands before the time.
        ({"if_none_match": '"b"', "if_modified_since": "Sun, 29 Nov 2026 10:00:00 GMT"}, False),
    ],
)
def test_what_the_client_has_is_not_sent_again(told: dict[str, str], fresh: bool) -> None:
    answer = conditions(request(**told), HEADERS)
    assert (answer is not None) == fresh
    if answer is not None:
        assert (answer.status_code, answer.headers["etag"]) == (304, '"a"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[("bytes=0-9", (0, 10)), ("bytes=90-", (90, 100)), ("bytes=-5", (95, 100)), ("bytes=-500", (0, 100))],
        *[("bytes=99-500", (99, 100)), ("bytes=0-0", (0, 1))],
        *[("bytes=100-", 416), ("bytes=500-600", 416), ("bytes=-0", 416)],
        *[("bytes=9-5", None), ("bytes=0-1,3-4", None), ("items=0-1", None), ("bytes=-", None), ("bytes=a-b", None)],
        *[("", None), ("bytes=" + "9" * 40 + "-", None)],
    ],
)
def test_ranges(text: str, expected: tuple[int, int] | int | None) -> None:
    found = byte_range(request(range=text), HEADERS, 100)
    if isinstance(found, Response):
        assert (found.status_code, found.headers["content-range"]) == (expected, "bytes */100")
    else:
        assert found == (None if expected is None else ByteRange(*expected))  # type: ignore[misc]


def test_a_range_is_for_get_and_for_the_bytes_that_the_client_has() -> None:
    assert byte_range(request(method="HEAD", range="bytes=0-9"), HEADERS, 100) is None
    assert byte_range(request(range="bytes=0-9", if_range='"b"'), HEADERS, 100) is None
    for same in HEADERS.values():
        assert byte_range(request(range="bytes=0-9", if_range=same), HEADERS, 100) == ByteRange(0, 10)
