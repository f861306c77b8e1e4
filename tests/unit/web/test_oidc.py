"""Login at an OpenID Connect provider: what its tokens have to be, and what it may make this server do."""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pacs_server.config.sections.web import OIDCConfig
from pacs_server.dicom.caller import Role
from pacs_server.web.oidc import Attempt, Person, Provider
from pacs_server.web.oidc_provider import Documents, ProviderError

KEY, FOREIGN = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
BACK = "https://pacs.example.org/login/callback"


class Clock:
    """Time that stands still until it is moved on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Site:
    """A provider that answers what it is told to, and counts what it is asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[str] = []
        self.forms: list[dict[str, list[str]]] = []
        self.headers: list[dict[str, str]] = []
        endpoints = ("authorization", "token", "userinfo")
        self.answers: dict[str, tuple[int, object]] = {
            "/.well-known/openid-configuration": (
                200,
                {
                    "issuer": url,
                    "jwks_uri": f"{url}/jwks",
                    **{f"{each}_endpoint": f"{url}/{each}" for each in endpoints},
                },
            ),
            "/jwks": (200, {"keys": [public(KEY, "one")]}),
        }

    @property
    def configuration(self) -> dict[str, Any]:
        found = self.answers["/.well-known/openid-configuration"][1]
        assert isinstance(found, dict)
        return found

    def settings(self, **changed: Any) -> OIDCConfig:
        roles = {"radiologist": "contributor", "boss": "administrator"}
        given = {"issuer": self.url, "client_id": "pacs", "roles_claim": "realm_access.roles", "role_map": roles}
        return OIDCConfig.model_validate(given | changed)

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": "pacs", "sub": "4711", "iat": now, "exp": now + 60, "preferred_username": "anna",
            "realm_access": {"roles": ["staff", "radiologist"]},
        }  # fmt: skip
        return {name: value for name, value in (claims | changed).items() if value is not None}

    def token(self, key: Any = KEY, algorithm: str = "RS256", kid: str | None = "one", **changed: Any) -> str:
        return jwt.encode(self.claims(**changed), key, algorithm, {"kid": kid} if kid else None)


def public(key: Any, kid: str, **more: str) -> dict[str, Any]:
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **more}


@contextmanager
def serving() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            site.headers.append(dict(self.headers))
            status, body = site.answers.get(self.path, (404, {}))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{site.url}/elsewhere")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            form = self.rfile.read(int(self.headers["Content-Length"])).decode()
            site.forms.append(parse_qs(form))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def test_a_token_for_this_server_says_who_it_is_and_gives_the_highest_role(site: Site) -> None:
    provider = Provider()
    assert provider.of_token(site.token(), site.settings()) == Person("oidc:anna", Role.CONTRIBUTOR, "4711")
    both = site.token(realm_access={"roles": ["radiologist", "boss"]}, preferred_username=None, email="a@example.org")
    assert provider.of_token(both, site.settings()) == Person("oidc:a@example.org", Role.ADMINISTRATOR, "4711")
    flat = site.settings(roles_claim="https://example.org/roles")
    token = site.token(**{"https://example.org/roles": "radiologist"})
    assert provider.of_token(token, flat) == Person("oidc:anna", Role.CONTRIBUTOR, "4711")
    ours = site.token(azp="pacs", client_id="pacs", typ="Bearer")
    assert provider.of_token(ours, site.settings()) == Person("oidc:anna", Role.CONTRIBUTOR, "4711")
    # One key is asked for once.
    assert site.asked == ["/.well-known/openid-configuration", "/jwks"]


def test_the_subject_of_a_token_goes_to_the_audit_trail_as_plain_text(site: Site) -> None:
    person = Provider().of_token(site.token(sub="a\n\x1bÄ" + "x" * 300), site.settings())
    assert person is not None
    assert person.origin == f"OpenID Connect subject a\\n\\x1b\\xc4{'x' * 244}"


def test_tokens_that_do_not_count(site: Site) -> None:
    provider = Provider()
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = hashlib.sha256(pem).hexdigest() * 8
    tokens = {
        "other audience": site.token(aud="another"),
        "no audience": site.token(aud=None),
        "other issuer": site.token(iss="https://evil.example"),
        "over": site.token(exp=int(time.time()) - 60),
        "without end": site.token(exp=None),
        "not yet": site.token(nbf=int(time.time()) + 600),
        "nobody": site.token(sub=None),
        "foreign key": site.token(key=FOREIGN),
        "unknown key": site.token(key=FOREIGN, kid="two"),
        "secret key": jwt.encode(site.claims(), secret, "HS256", {"kid": "one"}),
        "unsigned": jwt.encode(site.claims(), None, "none", {"kid": "one"}),
        "no mapped role": site.token(realm_access={"roles": ["staff"]}),
        "no roles": site.token(realm_access=None),
        "roles of another kind": site.token(realm_access={"roles": [["radiologist"], 7, None]}),
        "changed": site.token()[:-4] + "AAAA",
        "ID token, by its nonce": site.token(nonce="n"),
        "ID token, by its hash": site.token(at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng"),
        "ID token, by its type": site.token(typ="ID"),
        "logout token": site.token(events={"http://schemas.openid.net/event/backchannel-logout": {}}),
        "for another client, azp": site.token(azp="another"),
        "for another client, client_id": site.token(client_id="another", azp="pacs"),
        "for another client, a list": site.token(azp=["pacs"]),
        "opaque": "SlAV32hkKG",
        "broken": "a.b.c",
    }
    taken = [name for name, token in tokens.items() if provider.of_token(token, site.settings()) is not None]
    assert taken == []
    assert provider.of_token(site.token(), site.settings(role_map={})) is None


def test_a_login_is_exchanged_for_a_person(site: Site) -> None:
    provider, attempt = Provider(), Attempt("secret")
    address = urlsplit(provider.address(site.settings(), attempt, BACK))
    asked = {name: values[0] for name, values in parse_qs(address.query).items()}
    assert asked["redirect_uri"] == BACK
    assert asked["code_challenge_method"] == "S256"
    site.answers["/token"] = (200, {"id_token": site.token(nonce=asked["nonce"]), "access_token": "opaque"})
    assert provider.finish(site.settings(), attempt, BACK, "a code") == Person("oidc:anna", Role.CONTRIBUTOR, "4711")
    [form] = site.forms
    assert (form["code"], form["redirect_uri"], form["client_id"]) == (["a code"], [BACK], ["pacs"])
    # RFC 7636 4.6
    made = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"][0].encode()).digest()).rstrip(b"=")
    assert made.decode() == asked["code_challenge"]
    parts = {attempt.secret, attempt.state, attempt.nonce, attempt.verifier, attempt.challenge}
    assert len(parts) == 5


@pytest.mark.slow
def test_the_secret_goes_where_the_provider_wants_it(site: Site, tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("s: &/\n")
    settings = site.settings(client_secret_file=tmp_path / "secret")
    attempt = Attempt("secret")
    site.answers["/token"] = (200, {"id_token": site.token(nonce=attempt.nonce)})
    Provider().finish(settings, attempt, BACK, "code")
    [sent] = [value for each in site.headers for name, value in each.items() if name.lower() == "authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"pacs:s%3A+%26%2F"
    assert "client_secret" not in site.forms[0]
    site.configuration["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    Provider().finish(settings, attempt, BACK, "code")
    assert site.forms[1]["client_secret"] == ["s: &/"]


@pytest.mark.slow
def test_roles_that_are_not_in_the_id_token_are_asked_for(site: Site) -> None:
    attempt = Attempt("secret")
    site.answers["/token"] = (
        200, {"id_token": site.token(nonce=attempt.nonce, realm_access=None), "access_token": "opaque"},
    )  # fmt: skip
    site.answers["/userinfo"] = (200, {"sub": "4711", "realm_access": {"roles": ["boss"]}})
    assert Provider().finish(site.settings(), attempt, BACK, "code") == Person("oidc:anna", Role.ADMINISTRATOR, "4711")
    sent = {value for each in site.headers for name, value in each.items() if name.lower() == "authorization"}
    assert sent == {"Bearer opaque"}
    site.answers["/userinfo"] = (200, {"sub": "somebody else", "realm_access": {"roles": ["boss"]}})
    with pytest.raises(ProviderError, match="of somebody else"):
        Provider().finish(site.settings(), attempt, BACK, "code")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"nonce": "another"}, "of another login"),
        ({"nonce": None}, "of another login"),
        ({"aud": ["pacs", "other"], "azp": "other"}, "for another client"),
        ({"realm_access": {"roles": ["staff"]}}, "no role here"),
        ({"aud": "other"}, "InvalidAudienceError"),
    ],
)
def test_a_login_that_does_not_count(site: Site, changed: dict[str, Any], says: str) -> None:
    attempt = Attempt("secret")
    site.answers["/token"] = (200, {"id_token": site.token(**({"nonce": attempt.nonce} | changed))})
    with pytest.raises(ProviderError, match=says):
        Provider().finish(site.settings(), attempt, BACK, "code")


def test_a_code_that_is_refused(site: Site) -> None:
    site.answers["/token"] = (400, {"error": "invalid_grant"})
    with pytest.raises(ProviderError, match="answers 400") as caught:
        Provider().finish(site.settings(), Attempt("secret"), BACK, "code")
    assert not caught.value.is_unavailable


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/.well-known/openid-configuration", (200, {"issuer": "https://evil.example"})),
        ("/.well-known/openid-configuration", (200, b"[]")),
        ("/.well-known/openid-configuration", (200, b"no JSON")),
        ("/.well-known/openid-configuration", (302, b"")),
        ("/.well-known/openid-configuration", (500, {})),
        ("/.well-known/openid-configuration", (200, b" " * (2 << 20))),
        ("/jwks", (404, {})),
    ],
)
def test_a_provider_that_answers_nonsense_is_unavailable(site: Site, path: str, answer: tuple[int, object]) -> None:
    site.answers[path] = answer
    with pytest.raises(ProviderError) as caught:
        Provider().of_token(site.token(), site.settings())
    assert caught.value.is_unavailable
    assert "/elsewhere" not in site.asked


@pytest.mark.slow
def test_keys_that_are_no_keys_are_passed_over(site: Site) -> None:
    site.answers["/jwks"] = (
        200,
        {"keys": [7, {}, {"kty": "RSA", "kid": "one"}, {"kty": "oct", "k": "x"}, public(KEY, "one")]},
    )
    assert Provider().of_token(site.token(), site.settings()) is not None
    assert Provider().of_token(site.token(kid=None), site.settings()) is not None
    site.answers["/jwks"] = (200, {"keys": {"kid": "one"}})
    assert Provider().of_token(site.token(), site.settings()) is None


def test_a_new_key_is_found_and_unknown_ones_cost_little(site: Site) -> None:
    clock = Clock()
    provider = Provider(Documents(clock=clock))
    assert provider.of_token(site.token(), site.settings()) is not None
    site.answers["/jwks"] = (200, {"keys": [public(FOREIGN, "two")]})
    new = site.token(key=FOREIGN, kid="two")
    assert provider.of_token(new, site.settings()) is None
    clock.now += 11
    assert provider.of_token(new, site.settings()) is not None
    asked = len(site.asked)
    for number in range(20):
        provider.of_token(site.token(kid=f"made up {number}"), site.settings())
    assert len(site.asked) == asked


def test_documents_are_kept_while_the_provider_is_away(site: Site) -> None:
    clock = Clock()
    provider = Provider(Documents(clock=clock))
    assert provider.of_token(site.token(), site.settings()) is not None
    site.answers.clear()
    clock.now += 4000
    assert provider.of_token(site.token(), site.settings()) is not None


def test_what_the_issuer_promises_its_endpoints_keep() -> None:
    documents = Documents()
    issuer = "https://login.example.org"
    known = {"issuer": issuer, "token_endpoint": "http://login.example.org/token"}
    documents._kept[f"{issuer}/.well-known/openid-configuration"] = (time.monotonic(), known)
    with pytest.raises(ProviderError, match="is not HTTPS"):
        documents.endpoint(issuer, "token_endpoint")
    with pytest.raises(ProviderError, match="has no jwks_uri"):
        documents.endpoint(issuer, "jwks_uri")


def test_logins_of_before_end_when_the_settings_change(site: Site) -> None:
    provider = Provider()
    stamps = {
        provider.stamp(site.settings(**changed))
        for changed in (
            {},
            {"client_id": "x"},
            {"roles_claim": "x"},
            {"role_map": {"boss": "reader"}},
            {"issuer": "https://x"},
        )
    }
    assert len(stamps) == 5


def test_a_provider_that_hangs_holds_up_nobody_whose_key_is_known(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = Documents(clock=Clock())
    provider = Provider(documents)
    assert provider.of_token(site.token(), site.settings())
    asks, hangs, goes_on = documents._ask, Event(), Event()
    documents._asked.clear()

    def ask(method: str, url: str, **options: Any) -> dict[str, Any]:
        hangs.set()
        assert goes_on.wait(60)
        return asks(method, url, **options)

    monkeypatch.setattr(documents, "_ask", ask)
    strange = site.token(key=FOREIGN, kid="two")
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(provider.of_token, strange, site.settings())
        try:
            assert hangs.wait(30)
            known, other = (pool.submit(provider.of_token, each, site.settings()) for each in (site.token(), strange))
            assert known.result(30) == Person("oidc:anna", Role.CONTRIBUTOR, "4711")
            assert other.result(30) is None
            assert not first.done()
        finally:
            goes_on.set()
        assert first.result(30) is None


def test_those_who_come_first_wait_for_one_answer(site: Site) -> None:
    provider = Provider()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: provider.of_token(site.token(), site.settings()), range(4)))
    assert found == [Person("oidc:anna", Role.CONTRIBUTOR, "4711")] * 4
    assert site.asked == ["/.well-known/openid-configuration", "/jwks"]
