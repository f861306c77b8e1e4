"""The pages below a path of a real nginx, with the lines that docs/security.md tells its operators to use."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from browsing import Site
from datasets import make_ct
from playwright.sync_api import Page, expect
from servers import config, eventually, free_port, running

from pacs_server.config.rights import Rights
from pacs_server.config.sections.web import WebConfig
from pacs_server.config.users import add_user

PASSWORD = "correct horse battery staple"
_ROOT = Path(__file__).resolve().parents[2]
_CONFIGURATION = """
pid {folder}/pid;
error_log {folder}/error.log;
daemon off;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/nginx.pem;
    ssl_certificate_key {folder}/nginx.pem;
    location /pacs/ {{
      {told}
      proxy_pass http://127.0.0.1:{target}/;
    }}
  }}
}}
"""


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def below(tmp_path: Path) -> Iterator[tuple[Site, str]]:
    """A server that is asked through nginx, and the address of its pages there."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        assert os.environ.get("CI") != "true", "nginx is not installed"
        pytest.skip("nginx is not installed")
    port = free_port()
    url = f"https://127.0.0.1:{port}/pacs"
    settings = config(tmp_path, web=True)
    web = WebConfig(enabled=True, port=0, public_url=url, trusted_proxies=("127.0.0.1",))
    users = tmp_path / "users"
    settings = settings.model_copy(
        update={"web": web, "user_identity": settings.user_identity.model_copy(update={"users_path": users})}
    )
    [told] = re.findall(r"```nginx\n(.*?)```", (_ROOT / "docs/security.md").read_text(encoding="utf-8"), re.DOTALL)
    add_user(users, "ann", PASSWORD, Rights(role="contributor"))
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "nginx.pem")
    with running(settings) as pacs:
        assert pacs.web_address is not None
        text = _CONFIGURATION.format(folder=tmp_path, port=port, told=told, target=pacs.web_address[1])
        (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
        nginx = subprocess.Popen([program, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "error.log")])
        try:
            assert eventually(lambda: answers(port))
            yield Site(pacs), url
        finally:
            nginx.terminate()
            nginx.wait(10)


@pytest.mark.complains("401")
def test_the_pages_below_a_path(below: tuple[Site, str], page: Page, tmp_path: Path) -> None:
    site, url = below
    ds = site.keep(make_ct(), tmp_path)
    page.goto(f"{url}/")
    expect(page).to_have_url(re.compile(rf"{re.escape(url)}/login\?next="))
    page.get_by_label("User name").fill("ann")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_url(f"{url}/studies")
    # Another one appears: the stream of events comes through the proxy piece by piece.
    other = make_ct()
    other.PatientName = "Second^Study"
    site.keep(other, tmp_path)
    page.get_by_role("link", name="Second, Study").click()
    expect(page).to_have_url(f"{url}/studies/{other.StudyInstanceUID}")
    picture = page.locator("main img").first
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") > 0
    page.get_by_label("Preferences and account").click()
    page.get_by_label("Colours").select_option("contrast")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(f"{url}/studies/{other.StudyInstanceUID}")
    # No address on the page leads past the proxy.
    addresses = page.evaluate(
        "[...document.querySelectorAll('[href], [src], [action]')].map(e => e.href || e.src || e.action)"
    )
    assert [each for each in addresses if not each.startswith(f"{url}/")] == []
    assert ds.StudyInstanceUID != other.StudyInstanceUID
