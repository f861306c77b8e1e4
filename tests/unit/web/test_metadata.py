"""Metadata are compressed for those whom that helps."""

import zlib

import pytest
from starlette.requests import Request

from pacs_server.web.dicomweb.metadata import _packed, _packs


def request(client: str = "10.0.0.7", method: str = "GET", **headers: str) -> Request:
    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": "/", "headers": told, "client": (client, 1)})


@pytest.mark.parametrize(
    ("client", "coding", "packs"),
    [
        *[
            ("10.0.0.7", "gzip, deflate", True),
            ("10.0.0.7", "br;q=1.0, GZIP;q=0.5", True),
            ("fe80::1%eth0", "gzip", True),
        ],
        *[("10.0.0.7", "gzip;q=0", False), ("10.0.0.7", "br", False), ("10.0.0.7", "", False)],
        # On this machine bytes cost nothing.
        *[("127.0.0.1", "gzip", False), ("::1", "gzip", False)],
    ],
)
def test_metadata_are_compressed_for_other_machines(client: str, coding: str, packs: bool) -> None:
    assert _packs(request(client, accept_encoding=coding)) == packs


def test_compressed_pieces_are_one_gzip_file() -> None:
    assert zlib.decompress(b"".join(_packed(iter((b"[", b"{}" * 9000, b"]")))), 31) == b"[" + b"{}" * 9000 + b"]"
