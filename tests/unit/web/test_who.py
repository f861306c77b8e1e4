"""Where a request comes from, and what it shows: addresses behind proxies, certificates, the Authorization header."""

import base64
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import anyio
import pytest
from argon2 import PasswordHasher
from starlette.requests import HTTPConnection

from pacs_server.config import Config
from pacs_server.config.passwords import PasswordChecker, Verdict
from pacs_server.config.sections.web import WebConfig
from pacs_server.config.users import add_user, set_password
from pacs_server.dicom.caller import Role
from pacs_server.errors import ResourceLimitation
from pacs_server.services.access import takes_certificates
from pacs_server.web import policy
from pacs_server.web.addresses import Visitor, visitor_of
from pacs_server.web.credentials import CookieNames, Password, Token, shown
from pacs_server.web.oidc import Person
from pacs_server.web.passwords import Passwords

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
PROXIES = {"trusted_proxies": ["127.0.0.1", "10.1.0.0/16"]}


def request(
    client: str = "127.0.0.1", server: str = "127.0.0.1", scheme: str = "http", **headers: str
) -> HTTPConnection:
    return HTTPConnection(
        {
            "type": "http",
            "scheme": scheme,
            "client": (client, 40000),
            "server": (server, 8080),
            "path": "/",
            "query_string": b"",
            "headers": [(b"host", b"127.0.0.1:8080")]
            + [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
            "extensions": {"tls": {"peer_names": ("ct1.example.org",)}} if scheme == "https" else {},
        }
    )


def visitor(asked: HTTPConnection, **settings: Any) -> Visitor:
    return visitor_of(asked, WebConfig.model_validate(settings))


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({}, "127.0.0.1"),
        ({"x_forwarded_for": "192.0.2.7"}, "192.0.2.7"),
        # What stands before the last address that is no proxy's, anybody can have made up.
        ({"x_forwarded_for": "8.8.8.8, 192.0.2.7, 10.1.2.3"}, "192.0.2.7"),
        ({"x_forwarded_for": "10.1.2.3, 10.1.2.4"}, "10.1.2.3"),
        ({"x_forwarded_for": "192.0.2.7:4711"}, "192.0.2.7"),
        ({"x_forwarded_for": "rubbish"}, "127.0.0.1"),
        ({"x_forwarded_for": "192.0.2.7, rubbish, 10.1.2.3"}, "10.1.2.3"),
        ({"x_forwarded_for": ""}, "127.0.0.1"),
        ({"forwarded": 'for="[2001:db8::1]:4711";proto=https'}, "2001:db8::1"),
        ({"forwarded": "for=8.8.8.8, proto=https;FOR=192.0.2.7;by=10.1.0.1"}, "192.0.2.7"),
        ({"forwarded": "for=unknown"}, "127.0.0.1"),
        # A proxy that listens for IPv4 and IPv6 on one socket tells of an IPv4 client like this.
        ({"x_forwarded_for": "8.8.8.8, ::ffff:192.0.2.7, ::ffff:10.1.2.3"}, "192.0.2.7"),
        ({"forwarded": 'for="[::ffff:192.0.2.7]:4711"'}, "192.0.2.7"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(headers: dict[str, str], address: str) -> None:
    found = visitor(request(**headers), **PROXIES)
    assert (found.address, found.local) == (address, False)


def test_headers_of_others_do_not_count() -> None:
    told = {"x_forwarded_for": "192.0.2.7", "x_forwarded_proto": "https", "forwarded": "for=192.0.2.8;proto=https"}
    assert visitor(request("192.0.2.1", **told), **PROXIES) == Visitor("192.0.2.1", https=False, local=False)
    assert visitor(request(**told)) == Visitor("127.0.0.1", https=False, local=False)
    assert visitor(request(x_forwarded_proto="https"), **PROXIES).https


@pytest.mark.parametrize(
    ("client", "server", "local"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("127.0.0.1", "192.0.2.1", False),
        ("192.0.2.7", "127.0.0.1", False),
    ],
)
def test_only_both_ends_on_this_machine_are_local(client: str, server: str, local: bool) -> None:
    assert visitor(request(client, server)).local is local


def test_a_proxy_shows_its_own_certificate() -> None:
    assert visitor(request(scheme="https")).certificate == ("ct1.example.org",)
    assert visitor(request(scheme="https"), **PROXIES).certificate == ()


@pytest.mark.parametrize(
    ("rule", "role"),
    [
        ({"certificate": ["*.example.org"]}, Role.CONTRIBUTOR),
        ({"certificate": ["ct1.example.org"], "allow": ["find", "get"]}, Role.READER),
        ({"certificate": ["ct1.example.org"], "allow": ["store"]}, None),
        ({"certificate": ["ct1.example.org"], "addresses": ["192.0.2.0/24"]}, None),
        ({"certificate": ["ct2.example.org"]}, None),
        # A rule about AE titles says nothing of certificates.
        ({}, None),
    ],
)
def test_a_certificate_gives_what_its_rule_allows(rule: dict[str, Any], role: Role | None) -> None:
    config = Config.model_validate({"access_control": {"peers": [{"ae_title": "CT1", **rule}]}})
    found = policy._of_certificate(Visitor("127.0.0.1", True, False, ("ct1.example.org",)), config)
    assert (found.role if found else None) == role
    if found:
        assert (found.user, found.ae_title) == ("certificate:ct1.example.org", "CT1")


@pytest.mark.parametrize(
    ("ca", "names", "takes"), [("ca.pem", ["*"], True), (None, ["*"], False), ("ca.pem", [], False)]
)
def test_certificates_are_a_way_to_log_in_with_an_authority_and_a_rule(
    ca: str | None, names: list[str], takes: bool
) -> None:
    config = Config.model_validate(
        {
            "web": {"tls": {"client_ca_path": ca}},
            "access_control": {"peers": [{"ae_title": "CT1", "certificate": names}]},
        }
    )
    assert takes_certificates(config) is takes


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (basic(b"anna:pass:word"), Password("anna", b"pass:word")),
        (basic("Jörg:pässwörd".encode()).replace("Basic", "BASIC"), Password("Jörg", "pässwörd".encode())),
        (basic(b"anna"), None),
        (basic(b"\xff:x"), None),
        ("Basic ???", None),
        ("Bearer abc", Token("abc")),
        ("bearer  abc", Token("abc")),
        ("Bearer", None),
        ("Bearer " + "x" * 20_000, None),
        ("", None),
        ("Negotiate abc", None),
    ],
)
def test_the_authorization_header(header: str, expected: object) -> None:
    assert shown(request(authorization=header)) == expected


def test_cookies_of_two_archives_and_of_plain_pages_are_kept_apart() -> None:
    names = {CookieNames(archive, secure).of("session") for archive in ("a", "b") for secure in (True, False)}
    assert names == {"pacs-session-a", "pacs-session-b", "__Host-pacs-session-a", "__Host-pacs-session-b"}


class Clock:
    """Time that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_password_that_comes_with_each_request_is_checked_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacs_server.config.users.HASHER", CHEAP)
    path = tmp_path / "users"
    add_user(path, "anna", "correct horse")
    clock, users = Clock(), PasswordChecker()
    checked = Mock(wraps=users.identify)
    monkeypatch.setattr(users, "identify", checked)
    passwords = Passwords(users, clock=clock)

    async def tell() -> None:
        async def check(password: bytes) -> tuple[Verdict, bool]:
            verdict, _, looked = await passwords.check_again(path, "anna", password, "10.0.0.1")
            return verdict, looked

        assert await check(b"correct horse") == (Verdict.RIGHT, True)
        assert await check(b"correct horse") == (Verdict.RIGHT, False)
        assert await check(b"wrong horse") == (Verdict.WRONG, True)
        clock.now += 301
        assert await check(b"correct horse") == (Verdict.RIGHT, True)
        set_password(path, "anna", "another horse")
        assert await check(b"correct horse") == (Verdict.WRONG, True)

    anyio.run(tell)
    assert checked.call_count == 4


def test_a_flood_of_logins_takes_few_threads_and_the_rest_is_put_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = PasswordChecker()
    goes_on, busy = threading.Event(), []

    def slow(*_: object) -> tuple[Verdict, None]:
        busy.append(threading.current_thread())
        goes_on.wait(60)
        return Verdict.WRONG, None

    monkeypatch.setattr(users, "identify", slow)
    passwords = Passwords(users)
    put_off: list[str] = []

    async def tell() -> None:
        async def one() -> None:
            try:
                await passwords.check(tmp_path / "users", "anna", b"correct horse", "10.0.0.1")
            except ResourceLimitation as error:
                put_off.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(one)
            while len(busy) < 3 or not put_off:
                await anyio.sleep(0.01)
            assert len(busy) == 3
            goes_on.set()

    anyio.run(tell)
    assert (len(busy), len(put_off)) == (35, 15)


def test_tokens_that_wait_for_a_provider_take_few_threads_and_the_rest_is_put_off() -> None:
    goes_on, busy = threading.Event(), []

    def hangs(token: str, settings: object) -> None:
        busy.append(token)
        goes_on.wait(60)

    services, provider = Mock(), Mock(of_token=hangs)
    config = Config.model_validate(
        {"web": {"oidc": {"issuer": "http://p", "client_id": "c"}, "public_url": "http://q"}}
    )
    services.config = lambda: config
    doors = policy.Policy(services, Mock(), provider)
    put_off: list[str] = []

    async def tell() -> None:
        async def one() -> None:
            try:
                await doors.identify(request(authorization="Bearer a.b.c"))
            except ResourceLimitation as error:
                put_off.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(80):
                group.start_soon(one)
            while len(busy) < 4 or not put_off:
                await anyio.sleep(0.01)
            # All others have threads still.
            assert await anyio.to_thread.run_sync(lambda: True)
            assert len(busy) == 4
            goes_on.set()

    anyio.run(tell)
    assert (len(busy), len(put_off)) == (36, 44)


def test_the_record_of_a_token_says_whose_it_is_at_the_provider() -> None:
    services, provider = Mock(), Mock()
    provider.of_token.return_value = Person("oidc:anna", Role.READER, "4711")
    config = Config.model_validate(
        {"web": {"oidc": {"issuer": "http://p", "client_id": "c"}, "public_url": "http://q"}}
    )
    services.config = lambda: config
    asked = request(authorization="Bearer a.b.c")
    asked.scope["method"] = "GET"
    caller = anyio.run(policy.Policy(services, Mock(), provider).identify, asked)
    services.auditor.logged_in.assert_called_once_with(caller, "OpenID Connect subject 4711", often=True)
