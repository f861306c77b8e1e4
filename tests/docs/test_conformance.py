"""The conformance statement says what the code does, and the committed one is fresh."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs_server.app.conformance import statement
from pacs_server.app.conformance_web import undocumented
from pacs_server.config import Config, DatabaseConfig, RemoteAEConfig, ServerConfig, StorageConfig
from pacs_server.dicom import codecs, keys, matching
from pacs_server.dicom.attributes import ATTRIBUTES, UNIQUE_KEYS
from pacs_server.dicom.levels import Level
from pacs_server.dicom.status import Status
from pacs_server.dicom.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from pacs_server.errors import TranscodeError
from pacs_server.net import association
from pacs_server.scp.contexts import (
    QUERY_TRANSFER_SYNTAXES,
    SOP_CLASSES,
    STORAGE_SOP_CLASSES,
    STORAGE_TRANSFER_SYNTAXES,
    Service,
    supports,
)
from pacs_server.scp.status import STATUS_OF
from pacs_server.web.dicomweb.resources import BASE
from pacs_server.web.dicomweb.store_report import FAILURE_REASONS
from pacs_server.web.dicomweb.transactions import TRANSACTIONS
from pacs_server.web.status import STATUS_OF as WEB_STATUS_OF

STATEMENT = "docs/conformance-statement.md"
# Where the statuses of each service stand in section 7.3.2.
STATUS_TABLES = {
    Service.VERIFICATION: "Verification:",
    Service.STORAGE: "Storage, as SCP:",
    Service.FIND: "Query:",
    Service.MOVE: "Retrieve by C-MOVE:",
    Service.GET: "Retrieve by C-GET:",
    Service.WORKLIST: "Modality Worklist:",
    Service.MPPS: "Modality Performed Procedure Step by N-CREATE:",
    Service.COMMITMENT: "Storage Commitment Push Model by N-ACTION:",
    Service.MPPS_RETRIEVE: "Modality Performed Procedure Step Retrieve by N-GET:",
}

Rows = Callable[..., list[list[str]]]


def test_committed_statement_is_fresh(document: Callable[[str], str]) -> None:
    assert document(STATEMENT) == statement(Config()) + "\n", "run: make conformance"


def test_chapters_are_those_of_the_template(document: Callable[[str], str]) -> None:
    chapters = re.findall(r"^## (.+)$", document(STATEMENT), re.MULTILINE)
    assert [title.split()[0] for title in chapters] == ["1", "2", "3", "4", "5", "6", "7", "8", "Annex"]
    contents = document(STATEMENT).partition("## 2 Table of contents")[2].partition("## 3")[0]
    assert re.findall(r"^- (.+)$", contents, re.MULTILINE) == chapters


def test_nothing_is_left_of_the_placeholders() -> None:
    assert "$" not in statement(Config())


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_every_status_is_documented(rows: Rows, status: Status) -> None:
    codes = [row[0] for row in rows(STATEMENT, "7.3.2 DIMSE services")]
    assert f"{status:04X}" in codes


def test_every_status_that_answers_an_error_is_documented(rows: Rows) -> None:
    codes = {row[0] for row in rows(STATEMENT, "7.3.2 DIMSE services")}
    assert {f"{status:04X}" for statuses in STATUS_OF.values() for status in statuses.values()} <= codes


def test_every_service_has_its_statuses(document: Callable[[str], str]) -> None:
    assert set(STATUS_TABLES) == set(Service)
    for title in STATUS_TABLES.values():
        assert f"\n{title}\n\n| Status |" in document(STATEMENT)


def test_offered_services_are_those_of_the_contexts(rows: Rows) -> None:
    offered = {name for name, _scu, scp in rows(STATEMENT, "1.2 DIMSE services") if scp == "Yes"}
    assert offered == {
        "Verification",
        "Storage",
        "Query/Retrieve, Patient Root",
        "Query/Retrieve, Study Root",
        "Modality Worklist",
        "Modality Performed Procedure Step",
        "Storage Commitment Push Model",
    }
    assert {entry.service for entry in SOP_CLASSES.values()} | {Service.STORAGE} == set(Service)


def test_sop_classes(rows: Rows) -> None:
    uids = {row[1] for row in rows(STATEMENT, "7.2.4.1 SOP classes")}
    assert uids == set(SOP_CLASSES) | set(STORAGE_SOP_CLASSES)


def test_transfer_syntaxes(rows: Rows) -> None:
    found = rows(STATEMENT, "7.2.4.2 Transfer syntaxes")
    assert [row[1] for row in found if not row[0].isdigit()] == list(STORAGE_TRANSFER_SYNTAXES)
    assert [row[2] for row in found if row[0].isdigit()] == list(QUERY_TRANSFER_SYNTAXES)


def test_decoders_are_there_where_it_says_so(rows: Rows) -> None:
    expected = {"Yes": True, "No": False, "Yes, with the extra `codecs`": codecs.HAVE_IMAGECODECS}
    for row in rows(STATEMENT, "7.2.4.2 Transfer syntaxes"):
        if row[0].isdigit() or row[1] in QUERY_TRANSFER_SYNTAXES:
            continue
        assert _decodes(row[1]) is expected[row[2]], row[0]


def _decodes(uid: str) -> bool:
    try:
        codecs.decoder_for(uid)
    except TranscodeError:
        return False
    return True


@pytest.mark.parametrize("level", Level, ids=lambda level: level.name)
def test_attributes(rows: Rows, level: Level) -> None:
    found = {row[0]: row for row in rows(STATEMENT, f"A.{level + 1} {level.name}")}
    expected = {f"({a.tag >> 16:04X},{a.tag & 0xFFFF:04X})": a for a in ATTRIBUTES.values() if a.level is level}
    assert set(found) == set(expected)
    for tag, attribute in expected.items():
        assert found[tag][2] == attribute.vr
        assert (found[tag][3] == "U") == (attribute.keyword == UNIQUE_KEYS[level])


def test_extended_negotiation(rows: Rows) -> None:
    support = supports(accept_unknown=False)
    found = dict(rows(STATEMENT, "7.2.3 Extended negotiation"))
    for uid, entry in SOP_CLASSES.items():
        offer = support(uid)
        assert offer is not None
        if offer.extended is not None:
            assert bytes(map(int, found[entry.service.value].split())) == offer.extended
    storage = support(next(iter(STORAGE_SOP_CLASSES)))
    assert storage is not None
    assert storage.extended == bytes(map(int, found["Storage"].split()))


def test_numbers_in_sentences_are_those_of_the_code(document: Callable[[str], str]) -> None:
    text = document(STATEMENT)
    assert f"{association._MAX_SENT_PDU // 1024} KiB at most" in text
    assert f"an identifier of {keys.MAX_BYTES // 2**20} MiB, and {matching.MAX_VALUES:,} values" in text
    assert f"| Implementation Class UID | {IMPLEMENTATION_CLASS_UID} |" in text
    assert f"| Implementation Version Name | {IMPLEMENTATION_VERSION_NAME} |" in text


def test_every_web_transaction_is_there(rows: Rows) -> None:
    found = {
        (method, resource.strip("`"))
        for _, method, resource, _ in rows(STATEMENT, "5.3 DICOM web services")[: len(TRANSACTIONS)]
    }
    assert found == {(method, resource.removeprefix(BASE).replace(":path", "")) for method, resource in TRANSACTIONS}


def test_web_services_are_those_of_the_transactions(rows: Rows) -> None:
    offered = [name for name, _, origin_server in rows(STATEMENT, "1.3 DICOM web services") if origin_server == "Yes"]
    assert len(offered) == 4


def test_every_status_and_reason_of_the_web_services_is_documented(rows: Rows) -> None:
    assert undocumented() == set()
    codes = {row[0] for row in rows(STATEMENT, "7.3.3 DICOM web services")}
    assert {str(int(status)) for status in WEB_STATUS_OF.values()} <= codes
    assert {f"{reason:04X}" for reason in FAILURE_REASONS.values()} <= codes


def test_it_describes_the_server_as_configured() -> None:
    config = Config(
        server=ServerConfig(ae_title="OTHER", port=104, max_pdu_size=65536, max_associations=7, idle_timeout=1.5),
        storage=StorageConfig(duplicate_policy="ignore", accept_unknown_sop_classes=False, fsync=False),
    )
    text = statement(config)
    for part in (
        "one application entity, `OTHER`",
        "| TCP port | `server.port` | 104 |",
        "65536 bytes, and 6 more",
        "| Associations accepted at once | 7 |",
        "| Silence between messages | `server.idle_timeout` | 1.5 s |",
        "dropped and answered with success",
        "are not accepted (setting `storage.accept_unknown_sop_classes`)",
        "success does not mean durable",
    ):
        assert part in text, part


def test_it_names_no_path_no_password_and_no_peer() -> None:
    config = Config(
        storage=StorageConfig(directory=Path("/srv/secret-directory")),
        database=DatabaseConfig(url="postgresql://user:secret-word@secret-host/db"),
        remote_aes=(RemoteAEConfig(ae_title="SECRET_PEER", host="secret-peer", port=104),),
    )
    assert "secret" not in statement(config).lower()
