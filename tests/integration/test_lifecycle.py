"""Stop, restart and reload, with peers at work."""

import itertools
import threading
import time
from contextlib import contextmanager

import pytest
from certificates import Authority
from datasets import data_set_bytes, make_ct, write_part10
from pynetdicom import build_role, evt
from pynetdicom.sop_class import CTImageStorage
from servers import (
    CT,
    EXPLICIT,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    RawPeer,
    associated,
    collecting,
    config,
    eventually,
    free_port,
    leftovers,
    message,
    open_sockets,
    proposal,
    running,
    server_threads,
    store,
    store_request,
)
from strategies import identifier

from pacs_server.app import server
from pacs_server.app.parts import server_parts as parts
from pacs_server.app.server import PacsServer
from pacs_server.config import MonitoringConfig, WebConfig, WorklistConfig
from pacs_server.errors import ConfigError, IndexUnavailable
from pacs_server.net.associate import encode_request
from pacs_server.net.listener import Listener
from pacs_server.net.pdu import PDUType


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "tls")


@contextmanager
def _half_a_store(pacs, tmp_path):
    """A peer in the middle of a C-STORE, and the rest of it."""
    ds = make_ct()
    data = data_set_bytes(write_part10(ds, tmp_path / "ct.dcm"))[1]
    stream = message(3, store_request(str(ds.SOPInstanceUID)), data, max_pdu=1000)
    with RawPeer.associated(pacs.address) as peer:
        peer.send(stream[:1500])
        assert eventually(lambda: leftovers(pacs.config))
        yield peer, stream[1500:]


@contextmanager
def _stopping(pacs):
    """Stop in another thread; yields once nobody is accepted any more."""
    thread = threading.Thread(target=pacs.stop)
    thread.start()
    assert eventually(lambda: _refused(pacs))
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def _refused(pacs):
    try:
        with RawPeer(pacs.address) as peer:
            return peer.ending() == "closed"
    except OSError:
        return True


def test_stop_ends_idle_associations_at_once_and_lets_a_store_finish(serve, tmp_path):
    pacs = serve(shutdown_timeout=30.0)
    with RawPeer.associated(pacs.address) as idle, RawPeer(pacs.address) as silent:
        assert idle.echo() == 0
        with _half_a_store(pacs, tmp_path) as (busy, rest), _stopping(pacs) as stop:
            assert idle.ending() == "abort 0 0"
            assert silent.ending() in ("abort 0 0", "closed")
            assert stop.is_alive()
            busy.send(rest)
            assert busy.read_message().command.status == 0
            assert busy.ending() == "abort 0 0"
    with running(pacs.config) as again:
        assert again.status()["counts"]["instances"] == 1


def test_what_does_not_finish_in_time_is_aborted(serve, tmp_path):
    pacs = serve(shutdown_timeout=0.3, network_timeout=60.0)
    with _half_a_store(pacs, tmp_path) as (busy, _):
        began = time.monotonic()
        pacs.stop()
        assert 0.3 <= time.monotonic() - began < 30
        assert busy.ending() == "abort 0 0"
    assert leftovers(pacs.config) == []


def test_a_second_stop_does_not_wait(serve, tmp_path):
    pacs = serve(shutdown_timeout=60.0, network_timeout=60.0)
    with _half_a_store(pacs, tmp_path) as (busy, _), _stopping(pacs) as stop:
        pacs.abort()
        assert busy.ending() == "abort 0 0"
        stop.join(30)
        assert not stop.is_alive()


def test_a_restart_finds_everything(tmp_path):
    settings = config(tmp_path, storage={"fsync": True})
    instances = [make_ct(), make_ct()]
    with running(settings) as pacs:
        assert store(pacs, *instances) == [0, 0]
    got = []

    def keep(event):
        got.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    roles, handlers = [build_role(CT, scp_role=True)], [(evt.EVT_C_STORE, keep)]
    contexts = (STUDY_FIND, STUDY_GET, (CT, EXPLICIT))
    with (
        running(settings) as pacs,
        associated(pacs, *contexts, ext_neg=roles, evt_handlers=handlers) as association,
    ):
        found = list(association.send_c_find(identifier("STUDY", StudyInstanceUID=""), STUDY_FIND))
        studies = [str(ds.StudyInstanceUID) for _, ds in found[:-1]]
        assert sorted(studies) == sorted(str(ds.StudyInstanceUID) for ds in instances)
        for study in studies:
            list(association.send_c_get(identifier("STUDY", StudyInstanceUID=study), STUDY_GET))
    assert sorted(got) == sorted(str(ds.SOPInstanceUID) for ds in instances)


# ------------------------------------------------------------------------------------ a start that fails


def _everything(tmp_path, authority):
    """Settings with every part that a server can have."""
    settings = config(tmp_path, storage={"fsync": True})
    return settings.model_copy(
        update={
            "tls": authority.settings(port=0),
            "monitoring": MonitoringConfig(metrics_port=0),
            "web": WebConfig(port=0),
            "worklist": WorklistConfig(folder=tmp_path / "worklist", hl7_port=0),
            "audit": settings.audit.model_copy(
                update={"syslog_host": "127.0.0.1", "syslog_port": free_port(), "syslog_protocol": "udp"}
            ),
        }
    )


def _alive():
    return sorted(thread.name for thread in threading.enumerate() if thread.name != "readiness")


def test_a_start_that_fails_at_any_part_leaves_nothing_open(tmp_path, authority, monkeypatch):
    settings = _everything(tmp_path, authority)
    began = []
    with monkeypatch.context() as patch:
        patch.setattr(server, "server_parts", lambda *given: (began.append(part) or part for part in parts(*given)))
        with running(settings):
            assert len(began) > 15
    for failing in range(len(began) + 1):

        def some(*given, failing=failing):
            yield from itertools.islice(parts(*given), failing)
            raise IndexUnavailable("away")

        threads, sockets = _alive(), open_sockets()
        monkeypatch.setattr(server, "server_parts", some)
        with pytest.raises(IndexUnavailable, match="away"):
            PacsServer(settings).start()
        assert eventually(lambda: _alive() == threads), failing  # noqa: B023
        assert open_sockets() == sockets
    monkeypatch.undo()
    # Nobody holds the archive any more, and it is in order.
    with running(settings) as pacs, RawPeer.associated(pacs.address) as peer:
        assert peer.echo() == 0
        assert pacs.status()["not_ready"] is None


def test_if_one_port_cannot_be_served_the_peers_at_the_other_are_sent_away(tmp_path, authority, monkeypatch):
    started, peers = [], []
    start = Listener.start

    def second_fails(listener):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(listener)
        start(listener)
        peers.append(RawPeer(listener._socket.getsockname()))

    monkeypatch.setattr(Listener, "start", second_fails)
    settings = config(tmp_path).model_copy(update={"tls": authority.settings(port=0)})
    with pytest.raises(RuntimeError, match="new thread"):
        PacsServer(settings).start()
    (peer,) = peers
    with peer:
        assert peer.ending() in ("closed", "abort 0 0")
    assert eventually(lambda: server_threads() == [])


# ------------------------------------------------------------------------------------ reload


@pytest.fixture
def reloading(tmp_path):
    """A server and what its next configuration will be: settings, or an error to raise."""
    upcoming = {}

    def read():
        if "error" in upcoming:
            raise ConfigError(upcoming["error"])
        return config(tmp_path, **upcoming)

    with running(config(tmp_path, allowed=["CT*"]), reload=read) as pacs:
        yield pacs, upcoming


def _answer(pacs, calling):
    with RawPeer(pacs.address) as peer:
        peer.send(encode_request(proposal((VERIFICATION, [EXPLICIT]), calling=calling)))
        kind, body = peer.read_pdu()
        return "accepted" if kind == PDUType.ASSOCIATE_AC else tuple(body[1:4])


def test_a_reload_without_a_file_says_so(reloading, caplog):
    pacs, _ = reloading
    caplog.set_level("INFO", "pacs_server.app.server")
    assert pacs.reload() is True
    assert "configuration reloaded, but no file was read: the server was started without one" in caplog.messages


def test_reload_changes_rules_for_those_who_come_after(reloading):
    pacs, upcoming = reloading
    with RawPeer.associated(pacs.address, (VERIFICATION, [EXPLICIT]), calling="CT1") as before:
        assert _answer(pacs, "MR1") == (1, 1, 3)
        upcoming.update(allowed=["MR*"])
        assert pacs.reload() is True
        assert _answer(pacs, "MR1") == "accepted"
        assert _answer(pacs, "CT1") == (1, 1, 3)
        assert before.echo() == 0
        assert eventually(lambda: pacs.status()["associations"]["active"] == 1)
        upcoming.update(max_associations=1)
        assert pacs.reload() is True
        assert _answer(pacs, "MR1") == (2, 3, 2)
        before.release()
        assert eventually(lambda: pacs.status()["associations"]["active"] == 0)
        assert _answer(pacs, "MR1") == "accepted"


def test_reload_takes_new_destinations(reloading):
    pacs, upcoming = reloading
    ds = make_ct()
    with collecting() as destination:
        upcoming.update(remote_aes=[destination.remote])
        keys = identifier("STUDY", StudyInstanceUID=ds.StudyInstanceUID)
        with associated(pacs, STUDY_MOVE, (CTImageStorage, EXPLICIT), calling="CT1") as association:
            assert association.send_c_store(ds).Status == 0
            assert [status.Status for status, _ in association.send_c_move(keys, "DEST", STUDY_MOVE)] == [0xA801]
            assert pacs.reload() is True
            assert [status.Status for status, _ in association.send_c_move(keys, "DEST", STUDY_MOVE)] == [0xFF00, 0]
    assert [found.sop_instance_uid for found in destination.instances] == [ds.SOPInstanceUID]


def test_a_bad_file_keeps_the_old_configuration(reloading):
    pacs, upcoming = reloading
    upcoming.update(error="server.port: 70000 is not a port", allowed=["*"])
    assert pacs.reload() is False
    assert _answer(pacs, "MR1") == (1, 1, 3)
    assert _answer(pacs, "CT1") == "accepted"
    assert "70000" in pacs.status()["last_reload"]["result"]
