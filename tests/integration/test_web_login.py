"""Login at the HTTP door of a running server: open mode and its end, forms, cookies, passwords, keys, limits."""

import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import httpx2 as httpx
import jwt
import pytest
import servers
from certificates import Authority
from cryptography.hazmat.primitives.asymmetric import ec
from datasets import make_ct

from pacs_server.app.server import PacsServer
from pacs_server.audit.events import EventID, Outcome
from pacs_server.audit.trail import open_trail
from pacs_server.config import AccessControlConfig, Config, DatabaseConfig, PeerRule, UserIdentityConfig, WebConfig
from pacs_server.config.rights import Rights
from pacs_server.config.users import add_user, remove_user, set_password, set_rights
from pacs_server.dicom.caller import Door
from pacs_server.dicom.origin import Origin
from pacs_server.errors import ConfigError

PASSWORD = "correct horse"
STUDIES = "/dicom-web/studies"


class Site:
    """A running server with its HTTP port, and browsers that keep cookies."""

    def __init__(self, pacs: PacsServer, users: Path) -> None:
        assert pacs.web_address is not None
        self.pacs, self.users = pacs, users
        self.url = "http://{}:{}".format(*pacs.web_address)

    def get(self, path: str = STUDIES, **options: object) -> httpx.Response:
        return httpx.get(self.url + path, **options)

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.url)

    def log_in(
        self, browser: httpx.Client, name: str = "anna", password: str = PASSWORD, to: str = ""
    ) -> httpx.Response:
        page = browser.get("/login", params={"next": to} if to else {})
        fields = {"token": form_token(page), "name": name, "password": password, "next": hidden(page, "next")}
        return browser.post("/login", data=fields)

    def events(self) -> list[tuple[str, Outcome, str]]:
        """Who logged in, or tried to."""
        return events_of(self.pacs.config)


def form_token(page: httpx.Response) -> str:
    return hidden(page, "token")


def hidden(page: httpx.Response, name: str) -> str:
    found = re.search(f'name="{name}" value="([^"]*)"', page.text)
    assert found, page.text
    return found[1]


def settings(directory: Path, **web: object) -> Config:
    made = servers.config(directory, web=True)
    return made.model_copy(
        update={
            "user_identity": UserIdentityConfig(users_path=directory / "users"),
            "web": WebConfig.model_validate({"port": 0, **web}),
        }
    )


@contextmanager
def site_of(config: Config) -> Iterator[Site]:
    with servers.running(config) as pacs:
        yield Site(pacs, config.user_identity.users_path)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server with a user, who is a reader."""
    add_user(tmp_path / "users", "anna", PASSWORD, Rights("reader"))
    with site_of(settings(tmp_path)) as site:
        yield site


def test_nobody_has_to_log_in_on_this_machine_until_there_is_a_user(tmp_path: Path) -> None:
    with site_of(settings(tmp_path)) as site:
        assert site.get().status_code == 200
        assert site.get("/api/v1/users").status_code in (403, 404)
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Anything"):
            assert site.get(headers={header: "127.0.0.1"}).status_code == 401, header
        # Credentials that are wrong are not as good as none, but for the "no token" of dicomweb-client's command line.
        no_token = {"Authorization": "Bearer None"}
        assert site.get(headers=no_token).status_code == 200
        assert site.get(headers=no_token | {"Via": "127.0.0.1"}).status_code == 401
        for token in ("pacs_wrong", "none", "a.b.c"):
            wrong = site.get(headers={"Authorization": f"Bearer {token}"})
            assert (wrong.status_code, "leave the Authorization header out" in wrong.text) == (401, True)
        add_user(site.users, "anna", PASSWORD)
        assert site.get().status_code == 401
        assert site.get(headers=no_token).status_code == 401
        assert "leave" not in site.get(headers={"Authorization": "Bearer a.b.c"}).text
        # A file that vanishes opens nothing.
        remove_user(site.users, "anna")
        assert site.get().status_code == 401
        site.users.unlink()
        assert site.get().status_code == 401
        asked = [record.event for record, _ in site.pacs.archive.trail.records_after(None)]  # type: ignore[union-attr]
        queries = [each.participants[0].user_id for each in asked if each.event_id is EventID.QUERY]
        assert set(queries) == {"not logged in"}


@pytest.mark.parametrize(
    "web",
    [{"public_url": "http://127.0.0.1:8080"}, {"trusted_proxies": ["10.0.0.1"]}],
)
def test_open_mode_ends_with_settings_for_others(tmp_path: Path, web: dict[str, object]) -> None:
    with site_of(settings(tmp_path, **web)) as site:
        assert site.get().status_code == 401


@pytest.mark.parametrize(("proxy", "status"), [("10.0.0.1", 200), ("127.0.0.1", 403)])
def test_clients_of_ipv4_are_known_on_a_socket_for_both(tmp_path: Path, proxy: str, status: int) -> None:
    add_user(tmp_path / "users", "anna", PASSWORD, Rights("reader"))
    with site_of(settings(tmp_path, host="::", trusted_proxies=[proxy])) as site:
        assert site.pacs.web_address is not None
        url = f"http://127.0.0.1:{site.pacs.web_address[1]}{STUDIES}"
        # On this machine a password needs no HTTPS, through a proxy it does.
        assert httpx.get(url, auth=("anna", PASSWORD)).status_code == status
        forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
        told = httpx.get(url, auth=("anna", PASSWORD), headers=forwarded).status_code
        assert told == (200 if proxy == "127.0.0.1" else 403)


def test_open_mode_ends_with_an_api_key_and_with_users_nobody_can_read(tmp_path: Path) -> None:
    with site_of(settings(tmp_path)) as site:
        assert site.get().status_code == 200
        keys = site.pacs.archive.keys
        key = keys.create("robot", Rights("reader"), None)
        assert site.get().status_code == 401
        assert site.get(headers={"Authorization": f"Bearer {key}"}).status_code == 200
        keys.revoke("robot")
        assert site.get().status_code == 200
        site.users.write_text("nobody can read this\n")
        assert site.get().status_code == 401


@pytest.mark.parametrize("origins", [[], ["*"], ["https://viewer.example"]])
def test_pages_of_others_cannot_use_open_mode(tmp_path: Path, origins: list[str]) -> None:
    evil = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}
    picture = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    with site_of(settings(tmp_path, cors_origins=origins)) as site:
        for headers in (evil, picture, {**picture, "Sec-Fetch-Site": "same-site"}, {"Origin": "null"}):
            assert site.get(headers=headers).status_code == 401
        for headers in (
            {},
            {"Sec-Fetch-Site": "same-origin"},
            {"Origin": site.url},
            # Somebody follows a link.
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        ):
            assert site.get(headers=headers).status_code == 200
        allowed = site.get(headers={**evil, "Origin": "https://viewer.example"})
        assert allowed.status_code == (200 if "https://viewer.example" in origins else 401)
        assert allowed.headers["cross-origin-resource-policy"] == "same-origin"


def test_programs_are_told_how_to_log_in_and_browsers_are_sent_there(site: Site) -> None:
    refused = site.get()
    assert refused.headers["www-authenticate"].startswith('Bearer realm="pacs-server", Basic realm="pacs-server"')
    assert refused.headers["content-type"] == "application/problem+json"
    # A script in a page gets no window of the browser's own.
    assert "Basic" not in site.get(headers={"Sec-Fetch-Site": "same-origin"}).headers["www-authenticate"]
    sent = site.get(f"{STUDIES}?PatientID=1&x=2", headers={"Accept": "text/html,*/*"})
    assert sent.status_code == 303
    assert sent.headers["location"] == f"{site.url}/login?next=%2Fdicom-web%2Fstudies%3FPatientID%3D1%26x%3D2"


def test_a_person_logs_in_and_out(site: Site) -> None:
    with site.browser() as browser:
        done = site.log_in(browser, to=f"{STUDIES}?limit=1")
        assert (done.status_code, done.headers["location"]) == (303, f"{site.url}{STUDIES}?limit=1")
        [cookie] = [each for each in done.headers.get_list("set-cookie") if each.startswith("pacs-session-")]
        assert {"HttpOnly", "Path=/", "SameSite=lax", "Max-Age=43200"} <= set(cookie.split("; "))
        assert "Secure" not in cookie
        assert browser.get(STUDIES).status_code == 200
        kept = dict(browser.cookies)
        page = browser.get("/logout")
        assert "logged in as anna" in page.text
        assert browser.post("/logout", data={"token": "other"}).status_code == 400
        assert browser.get(STUDIES).status_code == 200
        assert browser.post("/logout", data={"token": form_token(page)}).status_code == 303
        assert browser.get(STUDIES).status_code == 401
        # Whoever has kept the cookie has nothing any more.
        assert site.get(cookies=kept).status_code == 401
    assert [(name, outcome) for name, outcome, _ in site.events()] == [("anna", Outcome.SUCCESS)] * 2


def test_the_page_needs_no_script_and_lets_none_run(site: Site) -> None:
    page = site.get("/login?next=/%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "unsafe" not in policy
    assert "<script" not in page.text
    assert page.headers["cache-control"] == "no-store"
    # Its style can be had without a login, and nothing else can.
    [style] = re.findall(r'href="(/static/[^"]+\.css)"', page.text)
    assert site.get(style).headers["content-type"].startswith("text/css")
    assert site.get("/static/x/../../dicom-web/studies").status_code in (401, 404)
    assert site.get("/static/x/nothing.css").status_code == 404


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "//[",
        "/\\evil.example",
        "javascript:alert(1)",
        "/a\r\nx: y",
        "evil",
        "/login",
    ],
)
def test_a_login_leads_nowhere_else(site: Site, target: str) -> None:
    with site.browser() as browser:
        token = form_token(browser.get("/login"))
        done = browser.post("/login", data={"token": token, "name": "anna", "password": PASSWORD, "next": target})
        assert (done.status_code, done.headers["location"]) == (303, f"{site.url}/")


def test_a_form_of_another_page_does_not_log_in(site: Site) -> None:
    fields = {"name": "anna", "password": PASSWORD}
    with site.browser() as browser:
        assert browser.post("/login", data=fields).status_code == 400
        token = form_token(browser.get("/login"))
        assert browser.post("/login", data=fields | {"token": token + "x"}).status_code == 400
        foreign = {"Origin": "http://evil.example"}
        assert browser.post("/login", data=fields | {"token": token}, headers=foreign).status_code == 403
        assert browser.post("/login", content=b"x" * 20_000).status_code == 400
        assert browser.post("/login", data=fields | {"token": token}).status_code == 303


@pytest.mark.slow
def test_wrong_passwords_are_slowed_down_at_every_door_together_and_told_of(site: Site) -> None:
    with site.browser() as browser:
        for _ in range(3):
            refused = site.log_in(browser, password="wrong horse")
            assert refused.status_code == 401
            assert "The name or the password is wrong." in refused.text
            assert "wrong horse" not in refused.text
        for _ in range(2):
            assert site.get(auth=("anna", "wrong horse")).status_code == 401
        slowed = site.get(auth=("anna", PASSWORD))
        assert (slowed.status_code, slowed.headers["retry-after"]) == (429, "12")
        assert "too many wrong passwords" in site.log_in(browser).text.lower()
        unknown = site.log_in(browser, name="nobody")
        assert "The name or the password is wrong." in unknown.text
    failed = {(name, outcome) for name, outcome, _ in site.events()}
    assert failed == {("anna", Outcome.MINOR_FAILURE), ("nobody", Outcome.MINOR_FAILURE)}


def test_the_event_loop_writes_nothing_into_the_audit_trail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str]] = []
    for name in ("note", "alert"):
        monkeypatch.setattr(
            site.pacs.archive.audit,
            name,
            lambda event, name=name, **_: written.append((name, threading.current_thread().name)),
        )
    assert site.get(auth=("anna", "wrong horse")).status_code == 401
    assert site.get(headers={"Authorization": "Bearer a.b.c"}).status_code == 401
    assert httpx.delete(f"{site.url}{STUDIES}/1.2", auth=("anna", PASSWORD)).status_code == 403
    with site.browser() as browser:
        assert site.log_in(browser, password="wrong horse").status_code == 401
        assert site.log_in(browser).status_code == 303
        page = browser.get("/logout")
        assert browser.post("/logout", data={"token": form_token(page)}).status_code == 303
    # A password, a token, a login before what is refused, a form; and a session, from its begin to its end.
    assert [name for name, _ in written] == ["alert"] * 5 + ["note"] * 2
    assert "web" in {thread.name for thread in threading.enumerate()}
    assert "web" not in {thread for _, thread in written}


@pytest.mark.slow
def test_a_session_ends_when_password_or_rights_change(site: Site) -> None:
    changes: list[Callable[[], None]] = [
        lambda: set_rights(site.users, "anna", Rights("contributor")),
        lambda: set_password(site.users, "anna", "another horse"),
        lambda: remove_user(site.users, "anna"),
    ]
    password = PASSWORD
    add_user(site.users, "bert", PASSWORD)
    for change in changes:
        with site.browser() as browser, site.browser() as other:
            site.log_in(browser, password=password)
            site.log_in(other, "bert")
            assert browser.get(STUDIES).status_code == 200
            change()
            assert browser.get(STUDIES).status_code == 401
            assert other.get(STUDIES).status_code == 200
        password = "another horse" if change is changes[1] else password


def test_the_names_of_cookies_cost_no_look_into_the_database(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    state = Mock()
    monkeypatch.setattr(site.pacs.archive.sessions, "_state", state)
    assert site.get(headers={"Cookie": "a=b"}).status_code == 401
    assert not state.mock_calls


def test_keys_work_until_they_are_revoked(site: Site) -> None:
    keys = site.pacs.archive.keys
    key = keys.create("viewer", Rights("reader"), None)
    shown = {"Authorization": f"Bearer {key}"}
    assert site.get(headers=shown).status_code == 200
    assert httpx.delete(f"{site.url}{STUDIES}/1.2", headers=shown).status_code == 403
    keys.revoke("viewer")
    assert site.get(headers=shown).status_code == 401
    log = (site.pacs.config.audit.directory).rglob("*")
    assert not any(key.encode() in file.read_bytes() for file in log if file.is_file())


@pytest.mark.parametrize(
    "header",
    ["Basic", "Basic !!!", "Basic YW5uYQ==", "Bearer", "Bearer a.b.c", "Bearer " + "x" * 20_000, "Digest x", "pacs_x"],
)
def test_broken_credentials_are_refused(site: Site, header: str) -> None:
    assert site.get(headers={"Authorization": header}).status_code in (401, 431)


def test_a_reader_changes_nothing(site: Site) -> None:
    for method, path in (("POST", STUDIES), ("DELETE", f"{STUDIES}/1.2"), ("POST", "/api/v1/worklist")):
        answer = httpx.request(method, site.url + path, auth=("anna", PASSWORD), content=b"x")
        assert answer.status_code == 403, (method, path)
    assert site.pacs.archive.trail is not None
    alerts = [record.event for record, _ in site.pacs.archive.trail.records_after(None)]
    told = [(each.participants[0].user_id, each.detail) for each in alerts if each.event_id is EventID.SECURITY_ALERT]
    assert ("anna", "DELETE refused: this needs the role contributor at least, and you have reader") in told


def test_a_token_is_not_refused_for_good_while_its_provider_is_away(tmp_path: Path) -> None:
    issuer = f"http://127.0.0.1:{servers.free_port()}"
    oidc = {"issuer": issuer, "client_id": "pacs", "role_map": {"boss": "administrator"}}
    with site_of(settings(tmp_path, public_url="http://127.0.0.1:8080", oidc=oidc)) as site:
        token = jwt.encode({"iss": issuer}, ec.generate_private_key(ec.SECP256R1()), "ES256")
        answer = site.get(headers={"Authorization": f"Bearer {token}"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert token not in answer.text
        assert "Log in with your organisation" in site.get("/login").text
        assert site.get("/login/oidc").status_code == 401


@pytest.mark.slow
def test_a_limited_user_sees_nothing_foreign_over_http(tmp_path: Path, database_url: str) -> None:
    add_user(tmp_path / "users", "ct", PASSWORD, Rights("reader", ("CT",)))
    add_user(tmp_path / "users", "all", PASSWORD, Rights("reader"))
    config = settings(tmp_path).model_copy(update={"database": DatabaseConfig(url=database_url)})
    with site_of(config) as site:
        stored = [make_ct("1.2.1", "1.3.1", "1.4.1"), make_ct("1.2.1", "1.3.2", "1.4.2", Modality="MR")]
        stored.append(make_ct("1.2.3", "1.3.3", "1.4.3", Modality="MR", PatientID="P2"))
        for ds in stored:
            ds.save_as(tmp_path / "one.dcm", enforce_file_format=True)
            site.pacs.archive.store.store_file(tmp_path / "one.dcm", Origin("CT1", "PACS", "10.0.0.7", Door.DIMSE))
        seen = {}
        for user in ("all", "ct"):
            found = site.get(f"{STUDIES}?includefield=all", auth=(user, PASSWORD)).json()
            seen[user] = {
                each["0020000D"]["Value"][0]: (each["00080061"]["Value"], each["00201208"]["Value"]) for each in found
            }
        assert seen["all"] == {"1.2.1": (["CT", "MR"], [2]), "1.2.3": (["MR"], [1])}
        assert seen["ct"] == {"1.2.1": (["CT"], [1])}
        for path, there in (
            ("1.2.1/series/1.3.1/instances/1.4.1", True),
            ("1.2.1/series/1.3.2/instances/1.4.2", False),
            ("1.2.3/series/1.3.3/instances/1.4.3", False),
            ("1.2.1/series/1.3.2/instances/1.4.99", False),
        ):
            answer = site.get(f"{STUDIES}/{path}", auth=("ct", PASSWORD), headers={"Accept": "application/dicom"})
            assert answer.status_code == (200 if there else 404), path
            assert site.get(f"{STUDIES}/{path}/frames/1", auth=("ct", PASSWORD)).status_code == (200 if there else 404)
            for below in ("", "/metadata", "/bulkdata/7FE00010"):
                # A validator answers only after the check.
                answer = site.get(f"{STUDIES}/{path}{below}", auth=("ct", PASSWORD), headers={"If-None-Match": "*"})
                assert answer.status_code in ((200, 304) if there else (404,)), path + below
        for user, count in (("all", 2), ("ct", 1)):
            assert len(site.get(f"{STUDIES}/1.2.1/metadata", auth=(user, PASSWORD)).json()) == count
            for below in ("", "/bulkdata"):
                parts = site.get(f"{STUDIES}/1.2.1{below}", auth=(user, PASSWORD)).text.count("Content-Location")
                assert parts == count


def stow(site: Site, user: str, path: Path) -> tuple[int, list[int]]:
    """Store a file; returns the status and the reasons of failures."""
    body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n--x--\r\n"
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    answer = httpx.post(site.url + STUDIES, content=body, headers=kind, auth=(user, PASSWORD))
    failed = answer.json().get("00081198", {"Value": []})["Value"]
    return answer.status_code, [each["00081197"]["Value"][0] for each in failed]


@pytest.mark.slow
def test_a_limited_contributor_is_told_the_same_of_all_that_is_refused(tmp_path: Path) -> None:
    add_user(tmp_path / "users", "ct", PASSWORD, Rights("contributor", ("CT",)))
    with site_of(settings(tmp_path)) as site:
        file = tmp_path / "one.dcm"

        def store(*uids: str, **more: str) -> tuple[int, list[int]]:
            make_ct(*uids, **more).save_as(file, enforce_file_format=True)
            return stow(site, "ct", file)

        make_ct("1.2.3", "1.3.3", "1.4.3", Modality="MR").save_as(file, enforce_file_format=True)
        site.pacs.archive.store.store_file(file, Origin("MR1", "PACS", "10.0.0.7", Door.DIMSE))
        # The same object, another one of its UID, one for its study; and one that is outside of the limits anyway.
        assert stow(site, "ct", file) == (409, [0x0124])
        assert store("1.2.9", "1.3.9", "1.4.3") == (409, [0x0124])
        assert store("1.2.3", "1.3.9", "1.4.9") == (409, [0x0124])
        assert store("1.2.9", "1.3.9", "1.4.9", Modality="MR") == (409, [0x0124])
        assert store("1.2.5", "1.3.5", "1.4.5") == (200, [])
        assert store("1.2.5", "1.3.5", "1.4.5") == (200, [])


def test_users_that_are_lost_are_told_of_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lost = "users have logged in here before, and there are none now"
    add_user(tmp_path / "users", "anna", PASSWORD)
    with site_of(settings(tmp_path)) as site, site.browser() as browser:
        assert site.log_in(browser).status_code == 303
    with site_of(settings(tmp_path)):
        assert lost not in caplog.text
    (tmp_path / "users").unlink()
    with site_of(settings(tmp_path)):
        assert lost in caplog.text


def test_a_port_for_others_needs_a_way_to_log_in_and_encryption(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"or name the proxy in web\.trusted_proxies"):
        settings(tmp_path, host="0.0.0.0")
    behind = settings(tmp_path, host="0.0.0.0", trusted_proxies=["127.0.0.1"])
    with pytest.raises(ConfigError, match=r"web\.host: nobody can log in.*pacs-server user add"):
        PacsServer(behind).start()
    add_user(tmp_path / "users", "anna", PASSWORD)
    with site_of(behind) as site:
        site.url = site.url.replace("0.0.0.0", "127.0.0.1")
        assert site.get().status_code == 401
        secure = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "pacs.example.org", "X-Forwarded-For": "10.0.0.7"}
        assert site.get(auth=("anna", PASSWORD), headers=secure).status_code == 200
        # The proxy was reached in the clear.
        plain = secure | {"X-Forwarded-Proto": "http"}
        assert site.get(auth=("anna", PASSWORD), headers=plain).status_code == 403
        page = site.get("/login", headers=secure)
        [cookie] = page.headers.get_list("set-cookie")
        assert cookie.startswith("__Host-pacs-form-")
        assert "Secure" in cookie.split("; ")
        sent = site.get(headers=secure | {"Accept": "text/html"})
        assert sent.headers["location"].startswith("https://pacs.example.org/login?")


@pytest.mark.slow
def test_over_https_cookies_are_secure_and_certificates_count(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    add_user(tmp_path / "users", "anna", PASSWORD, Rights("reader"))
    tls = {
        "enabled": True,
        "cert_path": authority.server.certificate,
        "key_path": authority.server.key,
        "client_ca_path": authority.path,
    }
    rule = PeerRule(ae_title="CT1", certificate=("ct1.example",))
    config = settings(tmp_path, host="0.0.0.0", tls=tls)
    config = config.model_copy(update={"access_control": AccessControlConfig(peers=(rule,))})
    trusting = ssl.create_default_context(cafile=str(authority.path))
    with site_of(config) as site, httpx.Client(verify=trusting) as browser:
        site.url = site.url.replace("http://0.0.0.0", "https://127.0.0.1")
        browser.base_url = site.url
        assert browser.get(STUDIES).status_code == 401
        done = site.log_in(browser)
        [cookie] = [each for each in done.headers.get_list("set-cookie") if "session" in each]
        assert cookie.startswith("__Host-pacs-session-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
        assert browser.get(STUDIES).status_code == 200
        for pair, status in ((authority.client, 200), (authority.issue("other", "ct2.example"), 401)):
            context = ssl.create_default_context(cafile=str(authority.path))
            context.load_cert_chain(pair.certificate, pair.key)
            with httpx.Client(verify=context) as system:
                assert system.get(site.url + STUDIES).status_code == status
                assert system.delete(f"{site.url}{STUDIES}/1.2").status_code == (403 if status == 200 else 401)
    assert ("anna", Outcome.SUCCESS, "") in events_of(config)


def events_of(config: Config) -> list[tuple[str, Outcome, str]]:
    with open_trail(config.audit) as trail:
        found = [record.event for record, _ in trail.records_after(None)]
    kept = [each for each in found if each.event_id is EventID.USER_AUTHENTICATION]
    return [(each.participants[0].user_id, each.outcome, each.detail) for each in kept]
