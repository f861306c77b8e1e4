"""Heads of requests: what is refused, and what an application is told."""

import pytest

from pacs_server.web.head import Header, Refusal, read_head

HOST = (b"host", b"pacs.example.org")


def refused(method: bytes, target: bytes, version: str, *headers: Header, max_body: int = 0) -> int:
    with pytest.raises(Refusal) as raised:
        read_head(method, target, version, list(headers), max_body)
    return raised.value.status


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", b""),
        (b"/studies?PatientName=M%C3%BCller*", "/studies", b"PatientName=M%C3%BCller*"),
        (b"/a%20b//c", "/a b//c", b""),
        (b"/a?b#c", "/a", b"b"),
        (b"http://pacs/a?b", "/a", b"b"),
        (b"http://pacs", "/", b""),
        (b"/a..b/.well", "/a..b/.well", b""),
    ],
)
def test_targets(target: bytes, path: str, query: bytes) -> None:
    head = read_head(b"GET", target, "1.1", [HOST], 0)
    assert (head.path, head.query) == (path, query)


@pytest.mark.parametrize(
    "target",
    [
        *(b"/a%00b", b"/%0d%0aX:y", b"/%7f", b"/../etc/passwd", b"/a/%2e%2e/b", b"/a/%2E./b", b"/a/.", b"/a%2f..%2fb"),
        *(b"/%zz", b"/%", b"/%1", b"a", b"ftp://pacs/", b"http:///a", b"http://a b/", b"*"),
    ],
)
def test_targets_that_are_refused(target: bytes) -> None:
    assert refused(b"GET", target, "1.1", HOST) == 400


def test_the_authority_of_the_target_takes_the_place_of_the_host() -> None:
    """RFC 9112 3.2.2."""
    head = read_head(b"GET", b"http://evil.example.org:81/a", "1.1", [(b"accept", b"*/*"), HOST], 0)
    assert head.headers == [(b"host", b"evil.example.org:81"), (b"accept", b"*/*")]
    assert head.raw_path == b"/a"


def test_a_request_names_one_host() -> None:
    """RFC 9112 3.2."""
    assert refused(b"GET", b"/", "1.1") == 400
    assert refused(b"GET", b"/", "1.1", HOST, HOST) == 400
    assert refused(b"GET", b"/", "1.0", HOST, HOST) == 400
    assert refused(b"GET", b"/", "1.1", (b"host", b"a b")) == 400
    assert read_head(b"GET", b"/", "1.0", [], 0).path == "/"


@pytest.mark.parametrize(("version", "status"), [("0.9", 505), ("2.0", 505), ("1.0", None), ("1.1", None)], ids=str)
def test_versions(version: str, status: int | None) -> None:
    if status is None:
        assert read_head(b"GET", b"/", version, [HOST], 0).version == version
    else:
        assert refused(b"GET", b"/", version, HOST) == status


def test_the_length_of_the_body() -> None:
    assert read_head(b"GET", b"/", "1.1", [HOST], 0).length == 0
    assert read_head(b"POST", b"/", "1.1", [HOST, (b"content-length", b"7")], 7).length == 7
    assert read_head(b"POST", b"/", "1.1", [HOST, (b"transfer-encoding", b" Chunked")], 7).length is None
    assert refused(b"POST", b"/", "1.1", HOST, (b"content-length", b"8"), max_body=7) == 413
    assert refused(b"POST", b"/", "1.0", HOST, (b"transfer-encoding", b"chunked")) == 400
    assert refused(b"POST", b"/", "1.1", HOST, (b"transfer-encoding", b"gzip, chunked")) == 501
    assert refused(b"POST", b"/", "1.1", HOST, (b"content-encoding", b"gzip")) == 415
    assert read_head(b"POST", b"/", "1.1", [HOST, (b"content-encoding", b"identity")], 0).length == 0


def test_expectations() -> None:
    assert read_head(b"POST", b"/", "1.1", [HOST, (b"expect", b"100-Continue")], 0).expects_continue
    assert not read_head(b"POST", b"/", "1.0", [HOST, (b"expect", b"100-continue")], 0).expects_continue
    assert refused(b"POST", b"/", "1.1", HOST, (b"expect", b"miracles")) == 417


def test_only_options_is_about_the_whole_server() -> None:
    assert read_head(b"OPTIONS", b"*", "1.1", [HOST], 0).path == "*"
    assert refused(b"CONNECT", b"a:80", "1.1", HOST) == 405
