"""What every request goes through before a door sees it."""

from collections.abc import Callable

import pytest
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from pacs_server.config import WebConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.errors import InstanceNotFound, PacsError
from pacs_server.web.caller import caller_of
from pacs_server.web.middleware import Gate
from pacs_server.web.status import STATUS_OF

ANN = Caller(Door.WEB, "127.0.0.1", user="ann")


async def identify(request: HTTPConnection) -> Caller | Response:
    return ANN


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(caller_of(Request(scope)).user)(scope, receive, send)


def client(
    app: Callable[..., object] = hello, base_url: str = "http://127.0.0.1:8080", **settings: object
) -> TestClient:
    web = WebConfig.model_validate(settings)
    return TestClient(Gate(app, lambda: web, identify), base_url=base_url, client=("127.0.0.1", 1))


def test_the_caller_is_known_and_answers_are_protected() -> None:
    answer = client().get("/")
    assert (answer.status_code, answer.text) == (200, "ann")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_another_name_on_loopback_is_refused(host: str) -> None:
    assert client().get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("name", ["Host", "X-Forwarded-Host"])
@pytest.mark.parametrize("host", ["[", "[127.0.0.1", "127.0.0.1]", "[::1"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_host_header_that_names_no_host_is_a_bad_request(name: str, host: str, method: str) -> None:
    told = {name: host, "Origin": "http://127.0.0.1:8080"}
    proxies = ["127.0.0.1"] if name == "X-Forwarded-Host" else []
    answer = client(trusted_proxies=proxies).request(method, "/", headers=told)
    assert (answer.status_code, "names no host" in answer.text) == (400, True)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "[::1]:1", "pacs.example.org"])
def test_our_names_are_taken(host: str) -> None:
    assert client(public_url="https://pacs.example.org").get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"])
@pytest.mark.parametrize(("proxies", "status"), [(["127.0.0.1"], 400), (["192.0.2.1"], 200)])
def test_a_client_chooses_no_address_by_the_kind_of_header_that_the_proxy_does_not_write(
    name: str, proxies: list[str], status: int
) -> None:
    told = {"Forwarded": "for=10.9.9.9;host=evil.example;proto=https", name: "192.0.2.7"}
    assert client(trusted_proxies=proxies).get("/", headers=told).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://127.0.0.1:8080"}, 200),
        ({"Origin": "http://viewer.example"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_a_change_comes_from_our_own_pages(headers: dict[str, str], status: int) -> None:
    web = client(cors_origins=["http://viewer.example"])
    assert web.post("/", headers=headers).status_code == status
    # Reading needs no such check: other pages cannot see the answer.
    assert web.get("/", headers=headers).status_code == 200


def test_scripts_of_allowed_origins_read_answers() -> None:
    web = client(cors_origins=["http://viewer.example"])
    allowed = web.get("/", headers={"Origin": "http://viewer.example"})
    assert allowed.headers["access-control-allow-origin"] == "http://viewer.example"
    assert {"etag", "retry-after"} <= set(allowed.headers["access-control-expose-headers"].split(", "))
    assert "access-control-allow-origin" not in web.get("/", headers={"Origin": "http://evil.example"}).headers
    anybody = client(cors_origins=["*"]).get("/", headers={"Origin": "http://evil.example"})
    assert anybody.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in anybody.headers


def test_a_preflight_needs_no_login() -> None:
    asked = {"Origin": "http://viewer.example", "Access-Control-Request-Method": "POST"}
    answer = client(cors_origins=["http://viewer.example"]).options("/", headers=asked)
    assert answer.status_code == 204
    assert "authorization" in answer.headers["access-control-allow-headers"]


def failing(error: Exception) -> TestClient:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return client(app)


def test_an_error_says_what_is_wrong() -> None:
    answer = failing(InstanceNotFound("no such instance")).get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["detail"] == "no such instance"
    assert "retry-after" not in answer.headers


@pytest.mark.parametrize("error", sorted((error for error in STATUS_OF if STATUS_OF[error] == 503), key=repr))
def test_what_may_pass_says_when_to_try_again(error: type[PacsError]) -> None:
    answer = failing(error("away")).get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")


def test_an_error_of_the_program_tells_nothing() -> None:
    answer = failing(ValueError("secret")).get("/")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    page = failing(ValueError("secret")).get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert "secret" not in page.text


def all_errors(kind: type[PacsError] = PacsError) -> set[type[PacsError]]:
    return {each for child in kind.__subclasses__() for each in (child, *all_errors(child))}


def test_every_error_has_a_status() -> None:
    assert {error for error in all_errors() if error.__module__ == "pacs_server.errors"} == set(STATUS_OF)
