"""A real OpenID Connect provider, the package oidc-provider of npm where there is node: people log in, and we do."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx2 as httpx
import npm
import pytest
import servers
from httppeers import Request, answer, http_peer

from pacs_server.app.server import PacsServer
from pacs_server.audit.events import EventID, Outcome
from pacs_server.config import WebConfig
from pacs_server.errors import RemoteUnreachable
from pacs_server.scu.dicomweb.client import DICOMwebClient
from pacs_server.scu.dicomweb.qido import probe
from pacs_server.scu.dicomweb.remote import ClientCredentials, DICOMwebRemote

VERSION = "9.13.3"
SCRIPT = Path(__file__).parent.parent / "oidc_provider.mjs"
ROLES = {"radiologist": "contributor", "pacs-admin": "administrator"}


@pytest.fixture(scope="module")
def script() -> Path:
    """The provider, beside its package."""
    return npm.installed(f"oidc-provider-{VERSION}", [f"oidc-provider@{VERSION}"], SCRIPT)


@pytest.fixture
def pacs(tmp_path: Path, script: Path) -> Iterator[PacsServer]:
    """A server whose users log in at the provider, and the provider."""
    port, own = servers.free_port(), servers.free_port()
    url = f"http://127.0.0.1:{own}"
    provider = subprocess.Popen(
        [npm.node(), str(script), str(port), f"{url}/login/callback"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert provider.stdout is not None
        assert provider.stdout.readline() == b"listening\n"
        (tmp_path / "secret").write_text("a secret: with / special & characters\n")
        oidc = {
            "issuer": f"http://localhost:{port}",
            "client_id": "pacs",
            "client_secret_file": tmp_path / "secret",
            "roles_claim": "realm_access.roles",
            "role_map": ROLES,
        }
        web = WebConfig.model_validate({"port": own, "public_url": url, "oidc": oidc})
        with servers.running(servers.config(tmp_path, web=True).model_copy(update={"web": web})) as pacs:
            yield pacs
    finally:
        provider.kill()
        provider.communicate()


def log_in(browser: httpx.Client, url: str, name: str) -> httpx.Response:
    """Go from our page to the provider and through its pages, and come back; returns our last answer."""
    page = browser.get(f"{url}/login?next=/dicom-web/studies")
    link = re.search('href="([^"]*/login/oidc[^"]*)"', page.text)
    assert link, page.text
    answer = browser.get(url + link[1])
    for _ in range(12):
        if answer.is_redirect:
            target = urljoin(str(answer.request.url), answer.headers["location"])
            if str(answer.request.url).startswith(f"{url}/login/callback"):
                return answer
            answer = browser.get(target)
            continue
        if str(answer.request.url).startswith(url):
            return answer
        form = re.search('<form[^>]*action="([^"]+)"', answer.text)
        prompt = re.search('name="prompt" value="([^"]+)"', answer.text)
        assert form, answer.text
        assert prompt, answer.text
        fields = {"prompt": prompt[1], "login": name, "password": "any"}
        answer = browser.post(urljoin(str(answer.request.url), form[1]), data=fields)
    raise AssertionError("the provider goes on asking")


@pytest.mark.slow
def test_people_log_in_at_the_provider_with_the_roles_it_gives_them(pacs: PacsServer) -> None:
    url = pacs.config.web.public_url
    assert httpx.get(f"{url}/dicom-web/studies").status_code == 401
    with httpx.Client() as browser:
        done = log_in(browser, url, "anna")
        assert (done.status_code, done.headers["location"]) == (303, f"{url}/dicom-web/studies")
        assert browser.get(f"{url}/dicom-web/studies").status_code == 200
        assert browser.delete(f"{url}/dicom-web/studies/1.2").status_code == 403
        # The same answer of the provider opens nothing once more.
        assert "begun elsewhere" in browser.get(str(done.request.url)).text
    with httpx.Client() as browser:
        log_in(browser, url, "chef")
        assert browser.delete(f"{url}/dicom-web/studies/1.2").status_code == 404
    with httpx.Client() as browser:
        assert "gives this user no role here" in log_in(browser, url, "bert").text
        assert browser.get(f"{url}/dicom-web/studies").status_code == 401
    assert pacs.archive.trail is not None
    events = [record.event for record, _ in pacs.archive.trail.records_after(None)]
    logins = [
        (each.participants[0].user_id, each.outcome) for each in events if each.event_id is EventID.USER_AUTHENTICATION
    ]
    assert ("oidc:anna", Outcome.SUCCESS) in logins
    assert ("oidc:chef", Outcome.SUCCESS) in logins
    assert any(outcome is Outcome.MINOR_FAILURE for _, outcome in logins)


@pytest.mark.slow
def test_an_answer_for_another_browser_opens_nothing(pacs: PacsServer) -> None:
    url = pacs.config.web.public_url
    with httpx.Client() as browser, httpx.Client() as other:
        browser.get(f"{url}/login/oidc")
        stolen = log_in(other, url, "anna").request.url
        assert "begun elsewhere" in browser.get(str(stolen)).text
        assert browser.get(f"{url}/dicom-web/studies").status_code == 401
        for query in ("", "?code=x", "?state=x&code=x", "?error=access_denied"):
            assert browser.get(f"{url}/login/callback{query}").status_code == 401


@pytest.mark.slow
def test_a_remote_is_called_with_tokens_of_the_provider(pacs: PacsServer) -> None:
    token_url = f"{pacs.config.web.oidc.issuer}/token"
    secret = "a secret: with / special & characters"
    refused: set[str] = set()

    def remote(request: Request) -> bytes:
        token = request.headers["authorization"]
        return answer("401 Unauthorized") if token in refused else answer(body=b"[]")

    with http_peer(remote) as peer:
        credentials = ClientCredentials(token_url, "robot: with / special", secret, "dicomweb.write")
        with DICOMwebClient.of(DICOMwebRemote("cloud", peer.url, credentials)) as client:
            for _ in range(3):
                probe(client)
            assert len({request.headers["authorization"] for request in peer.requests}) == 1
            refused.add(peer.requests[0].headers["authorization"])
            # A token that is refused is replaced, once.
            probe(client)
            assert len(peer.requests) == 5
            first, last = (peer.requests[at].headers["authorization"] for at in (0, -1))
            assert re.fullmatch("Bearer [!-~]{20,}", last)
            assert first != last
        wrong = ClientCredentials(token_url, "robot: with / special", "wrong", "dicomweb.write")
        remote_with_wrong_secret = DICOMwebClient.of(DICOMwebRemote("cloud", peer.url, wrong))
        with remote_with_wrong_secret as client, pytest.raises(RemoteUnreachable, match="no token: 401 invalid_client"):
            probe(client)
        assert len(peer.requests) == 5
