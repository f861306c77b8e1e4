"""The rooms about peers, remotes and the send queue, and the first page."""

from pathlib import Path

import pytest
from browsing import Site, Start
from datasets import make_ct
from playwright.sync_api import Page, expect
from servers import IMPLICIT, VERIFICATION, RawPeer, free_port, proposal

from pacs_server.config import RemoteAEConfig
from pacs_server.dicom.caller import Caller, Door
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.net.associate import encode_request
from pacs_server.net.pdu import PDUType
from pacs_server.services import samples

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
FILE = "access_control:\n  allowed_ae_titles: [CT1]\n"


def calls(site: Site, title: str) -> bool:
    """Whether a peer of this title is let in; then it sends an echo."""
    with RawPeer(site.pacs.address) as peer:
        peer.send(encode_request(proposal((VERIFICATION, [IMPLICIT]), calling=title)))
        if peer.read_pdu()[0] != PDUType.ASSOCIATE_AC:
            return False
        assert peer.echo() == 0
        peer.release()
        return True


def test_why_something_was_not_sent_and_what_can_be_done(start: Start, page: Page, tmp_path: Path) -> None:
    off = RemoteAEConfig(ae_title="OFF", host="127.0.0.1", port=free_port())
    site = start(FILE, remote_aes=[off])
    ds = site.keep(make_ct(PatientName="Roe^<b>Jane</b>"), tmp_path)
    page.goto(f"{site.url}/remotes")
    page.get_by_role("button", name="Echo").click()
    expect(page.get_by_text("Nothing listens at the address and port of the remote.")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Somebody has paused this remote.")).to_be_visible()
    keys = RetrieveKeys(Level.STUDY, study_instance_uids=(str(ds.StudyInstanceUID),))
    site.pacs.archive.forwarding.forward(keys, ["OFF"], Caller(Door.WEB, "127.0.0.1", user="ann"))
    page.goto(f"{site.url}/queue")
    expect(page.get_by_role("link", name="Roe, <b>Jane</b>")).to_be_visible()
    expect(page.get_by_text("Somebody has paused this remote.")).to_be_visible()
    row = page.get_by_role("listitem").filter(has_text="Roe")
    expect(row).to_contain_text("1 waiting")
    row.get_by_text("More").click()
    row.get_by_role("button", name="Do not send").click()
    expect(page.get_by_text("Nothing is waiting. Everything was sent.")).to_be_visible()


@ON_SQLITE
def test_a_newcomer_sees_an_echo_arrive_and_tries_samples(
    start: Start, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The radiograph alone is one image instead of 81.
    monkeypatch.setattr(samples, "SAMPLES", samples.SAMPLES[2:])
    site = start(FILE)
    page.goto(f"{site.url}/")
    expect(page).to_have_url(f"{site.url}/welcome")
    expect(page.get_by_text("Other machines cannot reach the archive yet.")).to_be_visible()
    expect(page.get_by_text("Waiting for the first echo.")).to_be_visible()
    assert calls(site, "CT1")
    expect(page.get_by_role("log").get_by_role("listitem")).to_contain_text("1 echo")
    page.get_by_label("AE title").fill("WS7")
    page.get_by_label("Host").fill("ws7")
    page.get_by_role("button", name="Make the lines").click()
    expect(page.get_by_text('- ae_title: "WS7"')).to_be_visible()
    page.get_by_role("button", name="Add the sample studies").click()
    expect(page.get_by_role("link", name="Sample, Cleo")).to_be_visible()
    page.goto(f"{site.url}/welcome")
    page.get_by_role("button", name="Remove the sample studies").click()
    expect(page.get_by_text("The sample studies are in the trash.")).to_be_visible()
    expect(page.get_by_role("button", name="Add the sample studies")).to_be_visible()
