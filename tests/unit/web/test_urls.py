"""The address under which clients reach this server."""

import pytest
from starlette.requests import Request

from pacs_server.config import WebConfig
from pacs_server.web.urls import base_url

PROXY = WebConfig.model_validate({"trusted_proxies": ["10.0.0.1"]})


def request(address: str = "127.0.0.1", scheme: str = "http", **headers: str | list[str]) -> Request:
    return Request(
        {
            "type": "http",
            "scheme": scheme,
            "server": ("127.0.0.1", 8080),
            "client": (address, 1234),
            "headers": [
                (name.replace("_", "-").encode(), line.encode())
                for name, lines in headers.items()
                for line in ([lines] if isinstance(lines, str) else lines)
            ],
        }
    )


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "localhost:9000"}, "http://localhost:9000"),
        # dicomweb-client leaves the port out.
        ({"host": "127.0.0.1"}, "http://127.0.0.1:8080"),
        ({"host": "[::1]:8080"}, "http://[::1]:8080"),
        ({"host": "[::1]"}, "http://[::1]:8080"),
        ({}, "http://127.0.0.1:8080"),
        ({"host": "a:8080", "x_forwarded_proto": "https", "x_forwarded_host": "evil"}, "http://a:8080"),
    ],
)
def test_what_the_request_says(headers: dict[str, str], expected: str) -> None:
    assert base_url(request(**headers), PROXY) == expected


def test_what_the_settings_say_comes_first() -> None:
    settings = WebConfig(public_url="https://pacs.example.org/pacs/")
    assert base_url(request(host="other"), settings) == "https://pacs.example.org/pacs"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x_forwarded_proto": "https", "x_forwarded_host": "p.example"}, "https://p.example"),
        ({"forwarded": 'for=1.2.3.4;proto=https;host="p.example"'}, "https://p.example"),
        (
            {"forwarded": "for=1.2.3.4;proto=http;host=evil, for=5.6.7.8;proto=https;host=p.example"},
            "https://p.example",
        ),
        ({"x_forwarded_proto": "https", "x_forwarded_prefix": "/pacs/", "host": "p.example"}, "https://p.example/pacs"),
        ({"x_forwarded_proto": "https", "x_forwarded_port": "8443", "host": "p.example"}, "https://p.example:8443"),
        # The proxy adds its line after that of the client.
        ({"x_forwarded_host": ["evil", "p.example"], "x_forwarded_proto": ["http", "https"]}, "https://p.example"),
        ({"forwarded": ["host=evil;proto=http", "host=p.example;proto=https"]}, "https://p.example"),
        (
            {"x_forwarded_prefix": ["/evil", "/pacs"], "x_forwarded_port": ["1", "8443"], "host": "p"},
            "http://p:8443/pacs",
        ),
        ({"x_forwarded_proto": "javascript", "host": "p.example"}, "http://p.example"),
    ],
)
def test_what_a_trusted_proxy_says(headers: dict[str, str | list[str]], expected: str) -> None:
    assert base_url(request("10.0.0.1", **headers), PROXY) == expected
