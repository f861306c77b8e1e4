"""Why something was refused, ended or not sent, in plain words: each reason that this program records has its own."""

import re
from pathlib import Path

import pytest

from pacs_server.dicom.status import Status
from pacs_server.net.acceptor import Rejected, Rejection
from pacs_server.net.transport import ConnectionLost, DeadlineExpired
from pacs_server.scp import entity
from pacs_server.scp.rejections import REJECTIONS
from pacs_server.scu.dicomweb.statuses import refusal as http_refusal
from pacs_server.scu.dicomweb.store_answer import failed, refused
from pacs_server.scu.faults import broken, not_opened
from pacs_server.scu.remote import RemoteAE
from pacs_server.storage.disk_errors import object_error
from pacs_server.web.pages import delivery_words
from pacs_server.web.pages.association_words import REFUSALS, ending, refusal
from pacs_server.web.pages.delivery_words import failure

WS1 = RemoteAE("WS1", "ws1", 104, 1.0, 1.0, name="WS1")


def rejected(source: int, reason: int) -> str:
    name = f"by_the_peer_(1,{source},{reason})"
    return str(not_opened(WS1, Rejected(Rejection(1, source, reason, name))))


def not_connected(reason: str) -> str:
    return str(not_opened(WS1, ConnectionLost(f"cannot connect to ws1 port 104: {reason}")))


# What is recorded, as far as possible made by what records it, and how the sentence for people begins.
SAMPLES = {
    "WS1 is paused by ann": "Somebody has paused",
    "WS1 is used from 18:00 on": "This remote is used at certain hours",
    "WS1 is not in remote_aes": "The settings name no such remote",
    "transfer_syntaxes of WS1 has none in which it can be sent": "The settings allow no transfer syntax",
    not_connected("Name or service not known"): "The host name",
    not_connected("Temporary failure in name resolution"): "The host name",
    not_connected("Connection refused"): "Nothing listens",
    f"WS1 fails: {not_connected('Connection refused')}": "Nothing listens",
    not_connected("the peer's certificate is refused: certificate has expired"): "The certificates",
    not_connected("TLS: wrong version number"): "The two systems do not agree about TLS",
    not_connected("No route to host"): "The remote cannot be reached",
    not_connected("timed out"): "The remote cannot be reached",
    rejected(1, 7): "The remote has another AE title",
    rejected(1, 3): "The remote does not know this archive",
    rejected(3, 1): "The remote is busy",
    rejected(3, 2): "The remote is busy",
    rejected(1, 1): "The remote refuses associations",
    "WS1: all of its 2 associations are in use": "The remote is busy",
    str(http_refusal("PACS2", 429, {}, "a store request")): "The remote is busy",
    "WS1 takes CT Image Storage not at all; it is stored in Explicit VR Little Endian": "The remote does not take o",
    "WS1 takes CT Image Storage only in Implicit VR Little Endian; stored in JPEG": "The remote does not take t",
    "WS1 answered A700: disk full": "The remote is out of space",
    "2 instances given up: WS1 answered A702": "The remote is out of space",
    refused(507, "x").detail: "The remote is out of space",
    "WS1 answered A900": "The remote cannot process",
    "WS1 answered C001": "The remote cannot process",
    "WS1 answered 0110: oops": "The remote cannot process",
    failed(0xC122, "x").detail: "The remote cannot process",
    failed(Status.DUPLICATE_SOP_INSTANCE, "x").detail: "Another object",
    "WS1 answered 0122": "The remote does not take objects",
    failed(0x0122, "x").detail: "The remote does not take objects",
    refused(415, "x").detail: "The remote does not take objects",
    "WS1 answered 0124": "The remote does not allow",
    refused(403, "x").detail: "The remote does not allow",
    "the token endpoint of PACS2 does not answer: x": "The login service",
    str(http_refusal("PACS2", 401, {}, "a store request")): "The remote does not accept our login",
    refused(413, "x").detail: "The remote finds this too large",
    str(http_refusal("PACS2", 404, {}, "a store request")): "There is no DICOMweb service",
    str(http_refusal("PACS2", 502, {}, "a store request")): "The remote has a fault",
    refused(500, "x").detail: "The remote has a fault",
    str(broken(WS1, DeadlineExpired("no data from the peer in time"))): "The remote does not answer in time",
    "PACS2 does not answer in time": "The remote does not answer in time",
    "the association ended while it was sent: aborted by the peer": "The remote broke off",
    str(broken(WS1, ConnectionLost("connection lost: Connection reset by peer"))): "The connection broke",
    "the connection to PACS2 broke: reset": "The connection broke",
    str(not_opened(WS1, ConnectionLost("P_DATA in answer to an A-ASSOCIATE-RQ"))): "What answers at this address",
    "the instance was replaced, and its new version is sent": "It was deleted or replaced",
    str(not_opened(WS1, ConnectionLost("the server shuts down"))): "This server was stopped",
    "not sent: 1.2.3 is damaged": "The stored object cannot be read",
    str(object_error("open", "1/2/3.dcm", FileNotFoundError(2, "No such file or directory"))): "The stored object",
    "cannot transcode JPEG to Explicit VR Little Endian: cut": "The stored object cannot be read",
    "cancelled": "Somebody has cancelled",
    "sent to WS2 instead": "Another remote",
}


@pytest.mark.parametrize("detail", SAMPLES)
def test_a_reason_is_told_in_plain_words(detail: str) -> None:
    found = failure(detail)
    assert found.why.startswith(SAMPLES[detail]), found
    assert found.why.endswith(".")
    assert found.advice == "" or found.advice.endswith(".")


def test_every_row_of_the_table_is_for_something_that_is_recorded() -> None:
    hit = {next(number for number, (pattern, _) in enumerate(delivery_words._COMPILED) if pattern.search(detail))
           for detail in SAMPLES}  # fmt: skip
    missing = set(range(len(delivery_words._COMPILED))) - hit
    assert [delivery_words._COMPILED[number][0].pattern for number in missing] == []


def test_what_is_not_known_sends_people_to_the_remote() -> None:
    assert failure("gurgle").why == "The remote did not take it."
    assert failure("").why == "It has not been tried yet."


def test_every_refusal_has_words() -> None:
    names = {rejection.name for rejection in REJECTIONS}
    # What `entity` records by itself, and the limits of connections.
    source = Path(entity.__file__).read_text()
    names |= set(re.findall(r'(?:why|reason_name) = "(\w+)"', source))
    names |= {"tls_handshake", "connection", "connections", "connections_per_address", "shutting_down"}
    assert names - set(REFUSALS) == set()
    assert len(names) > 12
    assert refusal("calling_ae_title").allowable
    assert not refusal("tls_required").allowable
    assert refusal("gurgle").why == "It was refused."


@pytest.mark.parametrize(
    ("outcome", "told", "well"),
    [
        ("released", "Ended normally.", True),
        ("aborted by the peer", "The peer aborted the association.", False),
        ("connection closed by the peer", "The peer closed the connection without releasing the association.", False),
        ("connection lost: Connection reset by peer", "The network connection broke.", False),
        ("idle for 60 s", "The peer was silent for too long, so it was ended here.", False),
        ("a message was begun and not finished in time", "The peer was too slow, or has hung.", False),
        ("the server shuts down", "This server was stopped.", False),
        ("PDU of unknown type 0x47", "The peer broke the rules of the protocol.", False),
    ],
)
def test_an_ending_is_told_in_plain_words(outcome: str, told: str, *, well: bool) -> None:
    assert ending(outcome) == (told, well)
