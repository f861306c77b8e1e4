"""The REST API of a running server: what only a server has, as associations, status, and events that end with it."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from datasets import make_ct
from pynetdicom.sop_class import Verification
from servers import IMPLICIT, VERIFICATION, RawPeer, associated, config, eventually, proposal, running, store

from pacs_server.app.server import PacsServer
from pacs_server.config.rights import Rights
from pacs_server.net.associate import encode_request
from pacs_server.net.pdu import PDUType
from pacs_server.services.events import MOST_OF_ONE

API = "/api/v1"


@dataclass
class Site:
    """A server, and an administrator with an API key."""

    pacs: PacsServer

    def __post_init__(self) -> None:
        assert self.pacs.web_address is not None
        key = self.pacs.archive.keys.create("boss", Rights("administrator"), None)
        self.client = httpx.Client(
            base_url="http://{}:{}".format(*self.pacs.web_address), headers={"Authorization": f"Bearer {key}"}
        )

    def get(self, path: str) -> Any:
        answer = self.client.get(API + path)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with running(config(tmp_path, web=True, allowed=("CT*", "MODALITY"))) as pacs:
        site = Site(pacs)
        yield site
        site.client.close()


def test_associations_are_shown_while_they_last_and_how_they_ended(site: Site) -> None:
    with associated(site.pacs, Verification, calling="CT1") as association:
        assert association.send_c_echo().Status == 0
        (shown,) = site.get("/associations")["items"]
        assert (shown["calling_ae"], shown["called_ae"]) == ("CT1", "ANY-SCP")
        assert shown["bytes_in"] > shown["bytes_out"] > 0
    assert eventually(lambda: site.get("/associations")["items"] == [])
    with RawPeer(site.pacs.address) as peer:
        peer.send(encode_request(proposal((VERIFICATION, [IMPLICIT]), calling="EVIL")))
        assert peer.read_pdu()[0] == PDUType.ASSOCIATE_RJ
    with RawPeer(site.pacs.address) as peer:
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
    assert eventually(lambda: len(site.get("/associations/recent")["items"]) == 3)
    found = {each["outcome"]: each for each in site.get("/associations/recent")["items"]}
    assert set(found) == {"released", "calling_ae_title", "protocol"}
    assert (found["released"]["refused"], found["released"]["operations"]) == (False, {"C-ECHO": 1})
    assert (found["calling_ae_title"]["refused"], found["calling_ae_title"]["calling_ae"]) == (True, "EVIL")
    assert (found["protocol"]["refused"], found["protocol"]["calling_ae"]) == (True, "")


def test_an_object_that_was_refused_is_told_with_the_reason(site: Site) -> None:
    first = make_ct()
    other = make_ct(first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, StudyDescription="Other")
    assert store(site.pacs, first, other) == [0, 0x0111]
    assert eventually(lambda: site.get("/associations/recent")["items"])
    [ended] = site.get("/associations/recent")["items"]
    assert (ended["operations"], ended["refusals"]) == ({"C-STORE": 2}, 1)
    assert ended["why"] == "another object is stored under this SOP Instance UID"


def test_status_storage_and_configuration_are_those_of_the_server(site: Site) -> None:
    store(site.pacs, make_ct())
    assert site.get("/status")["counts"] == {"patients": 1, "studies": 1, "series": 1, "instances": 1}
    assert site.get("/storage")["free_bytes"] > 0
    sections = site.get("/server")["sections"]
    assert {"version", "associations", "storage", "database", "tasks"} <= set(sections)
    shown = {each["key"]: each for each in site.get("/configuration")["settings"]}
    assert shown["access_control.allowed_ae_titles"]["value"] == ["CT*", "MODALITY"]
    assert shown["web.port"]["needs_restart"]


def test_events_come_while_they_happen_and_end_with_the_server(tmp_path: Path) -> None:
    lines: list[str] = []
    came = threading.Condition()

    def listen(site: Site) -> None:
        with site.client.stream("GET", f"{API}/events") as answer:
            for line in answer.iter_lines():
                with came:
                    lines.append(line)
                    came.notify_all()

    def wait_for(what: str) -> None:
        with came:
            assert came.wait_for(lambda: any(what in line for line in lines), 60), lines

    with running(config(tmp_path, web=True)) as pacs:
        site = Site(pacs)
        thread = threading.Thread(target=listen, args=(site,))
        thread.start()
        wait_for("retry: 3000")
        ds = make_ct()
        store(pacs, ds)
        wait_for("event: ARRIVED")
        wait_for(ds.StudyInstanceUID)
    # A stop waits for no listener, and the connection ends in order: otherwise the client would raise.
    thread.join(60)
    assert not thread.is_alive()
    site.client.close()


def test_the_address_that_is_printed_leads_to_a_page(site: Site) -> None:
    answer = site.client.get("/", follow_redirects=True)
    # There are no studies yet.
    assert (answer.status_code, answer.url.path) == (200, "/welcome")
    assert answer.headers["content-type"].startswith("text/html")


def test_a_listener_that_is_gone_has_left_its_place(tmp_path: Path) -> None:
    """A browser that goes from page to page would soon have too many."""
    with running(config(tmp_path, web=True)) as pacs:
        assert pacs.web_address is not None
        for _ in range(3 * MOST_OF_ONE):
            with socket.create_connection(pacs.web_address) as sock:
                sock.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                told = b""
                while b"\r\n\r\n" not in told:
                    told += sock.recv(4096)
                assert told.startswith(b"HTTP/1.1 200"), told
                # It sends no more, as a browser that closes its end does, and still reads.
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(4096):
                    pass
