"""Access rules on the wire: who gets in from where, what they may do there, and who is remembered."""

import ipaddress
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from datasets import make_ct, make_study
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    ModalityPerformedProcedureStepRetrieve,
    ModalityWorklistInformationFind,
    StorageCommitmentPushModel,
    Verification,
)
from servers import (
    CT,
    IMPLICIT,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    RawPeer,
    associated,
    collecting,
    config,
    echo_request,
    eventually,
    get,
    message,
    proposal,
    running,
    store,
)
from strategies import identifier

from pacs_server.app.server import PacsServer
from pacs_server.config import AccessControlConfig, Config, DatabaseConfig, PeerRule
from pacs_server.net.associate import encode_request
from pacs_server.net.message import Command, CommandField
from pacs_server.net.pdu import PDUType
from pacs_server.scp.contexts import PEER_SERVICES, Service

# One request of each service, on a context of its own. The data set is refused before anybody looks at it.
WORKLIST, MPPS, MPPS_RETRIEVE, COMMITMENT = (
    *(str(ModalityWorklistInformationFind), str(ModalityPerformedProcedureStep)),
    *(str(ModalityPerformedProcedureStepRetrieve), str(StorageCommitmentPushModel)),
)
REQUESTS: dict[Service, tuple[str, CommandField, bool]] = {
    Service.VERIFICATION: (VERIFICATION, CommandField.C_ECHO, False),
    Service.STORAGE: (CT, CommandField.C_STORE, True),
    Service.FIND: (STUDY_FIND, CommandField.C_FIND, True),
    Service.MOVE: (STUDY_MOVE, CommandField.C_MOVE, True),
    Service.GET: (STUDY_GET, CommandField.C_GET, True),
    Service.WORKLIST: (WORKLIST, CommandField.C_FIND, True),
    Service.MPPS: (MPPS, CommandField.N_CREATE, True),
    Service.MPPS_RETRIEVE: (MPPS_RETRIEVE, CommandField.N_GET, False),
    Service.COMMITMENT: (COMMITMENT, CommandField.N_ACTION, True),
}


def peer(title: str, *addresses: str, **rule: Any) -> PeerRule:
    return PeerRule(ae_title=title, addresses=tuple(map(ipaddress.ip_network, addresses)), **rule)


def with_rules(settings: Config, *rules: PeerRule, allowed: Sequence[str] = ()) -> Config:
    access = AccessControlConfig(peers=rules, allowed_ae_titles=tuple(allowed))
    return settings.model_copy(update={"access_control": access})


@pytest.fixture
def guarded(tmp_path: Path) -> Callable[..., Any]:
    """A server with these rules, to be used as a context."""

    @contextmanager
    def guarded(*rules: PeerRule, allowed: Sequence[str] = (), **settings: Any) -> Iterator[PacsServer]:
        with running(with_rules(config(tmp_path, **settings), *rules, allowed=allowed)) as pacs:
            yield pacs

    return guarded


def asks(pacs: PacsServer, title: str, source: str = "127.0.0.1") -> tuple[int, ...] | None:
    """Ask for an association: None if it stands and can be used, or the rejection's three numbers."""
    with RawPeer(pacs.address, source=source) as raw:
        raw.send(encode_request(proposal((VERIFICATION, [IMPLICIT]), calling=title)))
        kind, body = raw.read_pdu()
        if kind == PDUType.ASSOCIATE_RJ:
            return tuple(body[1:])
        assert kind == PDUType.ASSOCIATE_AC
        assert raw.echo() == 0
        raw.release()
        return None


def rejections(pacs: PacsServer) -> dict[str, float]:
    samples = [s for s in pacs.metrics._rejections.collect()[0].samples if s.name.endswith("_total")]
    return {sample.labels["reason"]: sample.value for sample in samples if sample.value}


def test_who_gets_in_from_where(guarded):
    rules = (peer("CT1", "127.0.0.2/32"), peer("MR?", "127.0.0.0/30"), peer("SAFE", require_tls=True))
    with guarded(*rules, allowed=("CT*", "SAFE")) as pacs:
        assert asks(pacs, "CT1", "127.0.0.2") is None
        assert asks(pacs, "CT1") == (1, 1, 3)
        assert asks(pacs, "CT2") is None
        assert asks(pacs, " MR7  ", "127.0.0.3") is None
        assert asks(pacs, "MR7", "127.0.0.4") == (1, 1, 3)
        assert asks(pacs, "US1") == (1, 1, 3)
        assert asks(pacs, "SAFE") == (1, 1, 1)
        expected = {"peer_address": 2, "calling_ae_title": 1, "tls_required": 1}
        assert eventually(lambda: rejections(pacs) == expected)


def refused_request(raw: RawPeer, context_id: int, service: Service, message_id: int) -> Command:
    sop_class, field, has_data = REQUESTS[service]
    request = Command(command_field=field, message_id=message_id, affected_sop_class_uid=sop_class)
    if field in (CommandField.N_GET, CommandField.N_ACTION):
        request = Command(command_field=field, message_id=message_id, requested_sop_class_uid=sop_class)
    # Larger than any buffer, so that what is not skipped would be noticed.
    raw.send(message(context_id, request, b"\0" * 1_000_000 if has_data else None))
    reply = raw.read_message().command
    assert reply.message_id_being_responded_to == message_id
    return reply


def test_what_is_not_allowed_is_answered_0124_and_the_association_goes_on(guarded, caplog):
    caplog.set_level("INFO", "pacs_server")
    contexts = [(sop_class, [IMPLICIT]) for sop_class, _, _ in REQUESTS.values()]
    with guarded(peer("RAW", allow=())) as pacs, RawPeer.associated(pacs.address, *contexts) as raw:
        for number, service in enumerate(REQUESTS):
            reply = refused_request(raw, 2 * number + 1, service, number + 1)
            assert reply.status == 0x0124, service
            assert reply.error_comment == f"this peer may not use the service {PEER_SERVICES[service]}"
        raw.release()
        samples = [sample for family in pacs.metrics._requests.collect() for sample in family.samples]
        refused = [s for s in samples if s.labels.get("status") == "0x0124" and s.name.endswith("_total")]
        assert sum(sample.value for sample in refused) == len(REQUESTS)
    assert set(REQUESTS) == set(Service)
    # A refused C-ECHO, too.
    lines = [record for record in caplog.records if record.message == "operation"]
    assert [record.status for record in lines] == ["0x0124"] * len(REQUESTS)


def test_what_is_allowed_works_beside_what_is_not(guarded):
    with guarded(peer("MODALITY", allow=("store",)), peer("SCU", allow=("echo", "find"))) as pacs:
        assert store(pacs, make_ct()) == [0]
        with associated(pacs, VERIFICATION, STUDY_FIND, CT) as association:
            assert association.send_c_echo().Status == 0
            found = [status.Status for status, _ in association.send_c_find(identifier("STUDY"), STUDY_FIND)]
            assert found == [0xFF00, 0]
            assert association.send_c_store(make_ct()).Status == 0x0124
            assert association.send_c_echo().Status == 0
        with associated(pacs, VERIFICATION, calling="MODALITY") as association:
            assert association.send_c_echo().Status == 0x0124


def test_sub_operations_of_a_get_are_no_requests_of_the_peer(guarded):
    """The instances go to a peer that may not store."""
    with guarded(peer("MODALITY", allow=("store",)), peer("SCU", allow=("get",))) as pacs:
        instances = make_study(1, 2)
        store(pacs, *instances)
        responses, got = get(pacs, identifier("STUDY", StudyInstanceUID=instances[0].StudyInstanceUID))
        assert responses[-1][0].Status == 0
        assert len(got) == 2


def moved(pacs: PacsServer, destination: str, keys: Dataset) -> tuple[int, str]:
    with associated(pacs, STUDY_MOVE) as association:
        final = list(association.send_c_move(keys, destination, STUDY_MOVE))[-1][0]
        return final.Status, str(final.get("ErrorComment", ""))


def test_moves_go_only_where_the_rule_says(guarded):
    rules = (peer("MODALITY", allow=("store",)), peer("SCU", allow=("move",), move_destinations=("REV*",)))
    with collecting("REVIEW") as review, collecting("OTHER") as other:
        with guarded(*rules, remote_aes=[review.remote, other.remote]) as pacs:
            instance = make_ct()
            store(pacs, instance)
            keys = identifier("STUDY", StudyInstanceUID=instance.StudyInstanceUID)
            assert moved(pacs, "REVIEW", keys) == (0, "")
            assert moved(pacs, "OTHER", keys) == (0x0124, "this peer may not move to OTHER")
            # Nobody learns which other destinations there are.
            assert moved(pacs, "NOWHERE", keys) == (0x0124, "this peer may not move to NOWHERE")
            assert moved(pacs, "REVIEW2", keys)[0] == 0xA801
        assert len(review.instances) == 1
        assert other.instances == []


def test_a_reload_is_for_new_associations(tmp_path):
    before = with_rules(config(tmp_path), peer("RAW", allow=("echo",)))
    after = with_rules(before, peer("RAW", "127.0.0.2/32", allow=("find",)))
    with running(before, reload=lambda: after) as pacs, RawPeer.associated(pacs.address) as raw:
        assert raw.echo() == 0
        assert pacs.reload()
        # In force, it keeps the rule that it began with.
        assert raw.echo() == 0
        assert asks(pacs, "RAW") == (1, 1, 3)
        with RawPeer(pacs.address, source="127.0.0.2") as other:
            other.associate(proposal((VERIFICATION, [IMPLICIT])))
            other.send(message(1, echo_request()))
            assert other.read_message().command.status == 0x0124


def test_everybody_who_asks_is_remembered(tmp_path, database_url):
    settings = with_rules(config(tmp_path), peer("CT1", "127.0.0.1/32"))
    settings = settings.model_copy(update={"database": DatabaseConfig(url=database_url)})
    with running(settings) as pacs:
        assert asks(pacs, "CT1") is None
        # The first one is there at once, the others when the server stops.
        assert eventually(pacs.archive.peers.list)
        assert asks(pacs, "CT1") is None
        assert asks(pacs, "CT1", "127.0.0.2") == (1, 1, 3)
        assert asks(pacs, "EVIL\x1b[2J\0X", "127.0.0.2") == (1, 1, 3)
    with running(settings) as pacs:
        known = {(p.calling_ae, p.address): (p.called_ae, p.outcome, p.count, p.tls) for p in pacs.archive.peers.list()}
        assert known == {
            ("CT1", "127.0.0.1"): ("PACS", "accepted", 2, False),
            ("CT1", "127.0.0.2"): ("PACS", "peer_address", 1, False),
            ("EVIL\\x1b[2J\\x00X", "127.0.0.2"): ("PACS", "calling_ae_title", 1, False),
        }


def test_the_names_of_the_certificate_decide(tmp_path):
    authority = Authority(tmp_path / "certificates")
    settings = with_rules(config(tmp_path), peer("CT1", certificate=("CT1",)), peer("MR1", certificate=("mr1.*",)))
    settings = settings.model_copy(update={"tls": authority.mutual()})
    tls = ssl.create_default_context(cafile=authority.path)
    tls.load_cert_chain(authority.client.certificate, authority.client.key)
    with running(settings) as pacs:
        with associated(pacs, VERIFICATION, calling="CT1", tls_args=(tls, "127.0.0.1")) as association:
            assert association.send_c_echo().Status == 0
        ae = AE(ae_title="MR1")
        ae.add_requested_context(Verification)
        # pynetdicom takes a rejection for an abort now and then.
        assert not ae.associate(*pacs.address, tls_args=(tls, "127.0.0.1")).is_established
        assert eventually(lambda: rejections(pacs) == {"peer_certificate": 1})
        pacs.archive.peers.write()
        assert {(p.calling_ae, p.outcome, p.tls) for p in pacs.archive.peers.list()} == {
            ("CT1", "accepted", True),
            ("MR1", "peer_certificate", True),
        }


def test_an_open_server_says_so(tmp_path, caplog, monkeypatch):
    # The tests themselves listen on the loopback address only.
    monkeypatch.setattr("pacs_server.config.cautions.is_loopback", lambda host: False)
    with running(config(tmp_path)):
        pass
    said = [record for record in caplog.records if "set access_control.peers" in record.message]
    assert [record.levelname for record in said] == ["WARNING"]
    caplog.clear()
    with running(with_rules(config(tmp_path), peer("CT1"))):
        pass
    assert not any("set access_control.peers" in line for line in caplog.messages)


def test_a_rejection_is_logged_with_both_ae_titles(guarded, caplog):
    caplog.set_level("INFO", "pacs_server")
    with guarded(allowed=("CT1",)) as pacs:
        assert asks(pacs, "CT9") == (1, 1, 3)
        told = eventually(lambda: [vars(r) for r in caplog.records if r.getMessage() == "no association"])
        assert told
    [line] = [vars(r) for r in caplog.records if r.getMessage() == "no association"]
    assert (line["reason"], line["calling_ae"], line["called_ae"]) == ("calling_ae_title", "CT9", "PACS")
