"""Start, reload, drain and stop of the real process; signals, log rotation, monitoring."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dcmtk
import pytest
from datasets import make_ct
from processes import PacsProcess, run_command, wait_for
from pydicom.uid import CTImageStorage
from rawpeer import EXPLICIT, IMPLICIT, Instance, associate, association, response, store

from pacs_server.net.acceptor import Rejected
from pacs_server.net.association import Association
from pacs_server.net.message import Command, encode_command, frame
from pacs_server.net.pdu import PeerAborted
from pacs_server.net.transport import AssociationEnded, ConnectionLost
from pacs_server.scu.store import store_request

CT = (str(CTImageStorage), EXPLICIT)
VERIFICATION = ("1.2.840.10008.1.1", IMPLICIT)


class Transfer:
    """A C-STORE that has begun and waits to be finished."""

    def __init__(self, port: int) -> None:
        self.link: Association = associate(port, [CT])
        self.instance = Instance.of(make_ct(rows=256, columns=256))
        self.request = store_request(self.link, self.instance.sop_class_uid, self.instance.sop_instance_uid)
        self.request.command_data_set_type = 1
        command = [*frame(1, encode_command(self.request), command=True, max_pdu=131072)]
        half = self.instance.data[: len(self.instance.data) // 2]
        self.link.transport.send([*command, *frame(1, half, command=False, max_pdu=131072, last=False)], 30)

    def finish(self) -> Command:
        """Send the rest and return the response."""
        rest = self.instance.data[len(self.instance.data) // 2 :]
        self.link.transport.send(list(frame(1, rest, command=False, max_pdu=131072)), 30)
        return response(self.link, self.request)


def begun(pacs: PacsProcess) -> Transfer:
    """A transfer that the server is in the middle of."""
    transfer = Transfer(pacs.port)
    wait_for(pacs.incoming, "a file being received")
    return transfer


def refuses(port: int) -> bool:
    """Whether nobody listens any more."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return True
    return False


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[PacsProcess]:
    with PacsProcess(tmp_path / "pacs", settings={"server": {"shutdown_timeout": 60}}) as server:
        yield server


# ------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server(tmp_path: Path, number: signal.Signals) -> None:
    with PacsProcess(tmp_path / "pacs", fresh=True) as pacs:
        pacs.send_signal(number)
        assert pacs.wait() == 0


def test_a_running_transfer_is_finished_and_kept(pacs: PacsProcess) -> None:
    transfer = begun(pacs)
    idle = associate(pacs.port, [VERIFICATION])

    pacs.send_signal(signal.SIGTERM)
    wait_for(lambda: refuses(pacs.port), "an end to listening")
    assert pacs.get("/readyz") == (503, "not ready: shutting down\n")
    # An association without an operation is ended at once.
    with pytest.raises(AssociationEnded):
        idle.read_message(10)
    assert transfer.finish().status == 0

    assert pacs.wait() == 0
    assert [path.stem for path in pacs.files()] == [transfer.instance.sop_instance_uid]
    assert pacs.incoming() == []
    for link in (transfer.link, idle):
        link.transport.close()


def test_a_transfer_that_does_not_end_is_aborted_after_the_timeout(tmp_path: Path) -> None:
    with PacsProcess(tmp_path / "pacs", settings={"server": {"shutdown_timeout": 1}}) as pacs:
        transfer = begun(pacs)
        began = time.monotonic()
        pacs.send_signal(signal.SIGTERM)
        assert pacs.wait() == 0
        assert time.monotonic() - began >= 1
    assert pacs.files() == pacs.incoming() == []
    with pytest.raises((PeerAborted, ConnectionLost)):
        transfer.link.read_message(10)
    transfer.link.transport.close()


def test_a_second_signal_aborts_at_once(pacs: PacsProcess) -> None:
    transfer = begun(pacs)
    pacs.send_signal(signal.SIGTERM)
    wait_for(lambda: refuses(pacs.port), "an end to listening")
    assert pacs.running()
    began = time.monotonic()
    pacs.send_signal(signal.SIGTERM)
    assert pacs.wait() == 0
    assert time.monotonic() - began < 30
    assert pacs.files() == pacs.incoming() == []
    transfer.link.transport.close()


def test_signals_are_never_lost(pacs: PacsProcess) -> None:
    """Each comes while the server is busy with the one before or about to wait for the next."""
    for _ in range(50):
        pacs.reload({})
    assert pacs.metric("pacs_config_reloads_total") == 50


# ------------------------------------------------------------------------------------ reloading


@pytest.mark.interop
def test_reload_adds_a_move_destination(pacs: PacsProcess, tmp_path: Path) -> None:
    instance = Instance.of(ds := make_ct())
    with association(pacs.port, [CT]) as link:
        assert store(link, instance).status == 0
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={ds.StudyInstanceUID}")
    with dcmtk.StoreSCP(tmp_path / "moved") as scp:
        move = ("movescu", "-S", "-aem", scp.ae_title, *keys, "127.0.0.1", pacs.port)
        assert "MoveDestinationUnknown" in dcmtk.run(*move).stderr
        pacs.reload({"remote_aes": [{"ae_title": scp.ae_title, "host": "127.0.0.1", "port": scp.port}]})
        assert dcmtk.run(*move).returncode == 0
        assert len(scp.files()) == 1


def test_reload_changes_who_may_associate(pacs: PacsProcess) -> None:
    allowed = associate(pacs.port, [VERIFICATION], calling_ae="STRANGER")
    pacs.reload({"access_control": {"allowed_ae_titles": ["CT*"]}})

    with pytest.raises(Rejected) as rejected:
        associate(pacs.port, [VERIFICATION], calling_ae="STRANGER")
    # PS3.8 Table 9-21: permanent, service user, calling AE title not recognized.
    assert (rejected.value.rejection.result, rejected.value.rejection.source) == (1, 1)
    assert rejected.value.rejection.reason == 3
    associate(pacs.port, [VERIFICATION], calling_ae="CT1").transport.close()
    # What was in force goes on.
    allowed.release()
    allowed.transport.close()


def test_a_bad_file_keeps_the_old_configuration(pacs: PacsProcess) -> None:
    pacs.reload({"access_control": {"allowed_ae_titles": ["CT1"]}})
    assert pacs.status()["last_reload"]["result"] == "ok"

    pacs.reload({"access_control": {"allowed_ae_titles": ["*"]}, "server": {"port": 0, "max_pdu_sise": 5}})

    result = pacs.status()["last_reload"]["result"]
    assert str(pacs.config_file) in result
    assert "server.max_pdu_sise: is not known, did you mean max_pdu_size?" in result
    assert pacs.metric('pacs_config_reloads_total{result="failed"}') == 1
    with pytest.raises(Rejected):
        associate(pacs.port, [VERIFICATION], calling_ae="STRANGER")
    associate(pacs.port, [VERIFICATION], calling_ae="CT1").transport.close()


def test_what_needs_a_restart_is_named_as_long_as_it_differs_from_what_runs(pacs: PacsProcess) -> None:
    def needs_restart(settings: dict[str, Any]) -> list[str]:
        pacs.reload(settings)
        return list(pacs.status()["last_reload"]["needs_restart"])

    flat, port = {"storage": {"naming": "flat"}}, pacs.port
    assert needs_restart(flat) == ["storage.naming"]
    assert "storage.naming" in pacs.log()
    assert needs_restart(flat) == ["storage.naming"]
    assert needs_restart(flat | {"logging": {"level": "debug"}}) == ["storage.naming"]
    assert needs_restart({}) == []
    assert pacs.port == port


def test_the_log_file_is_opened_anew_after_rotation(tmp_path: Path) -> None:
    log, moved = tmp_path / "pacs.log", tmp_path / "pacs.log.1"
    settings: dict[str, Any] = {"logging": {"file": str(log)}}
    with PacsProcess(tmp_path / "pacs", settings=settings) as pacs:
        wait_for(lambda: log.exists() and "listening" in log.read_text(), "the first log line")
        log.rename(moved)
        pacs.reload(settings)
        assert "configuration reloaded needs_restart=nothing" in " ".join(log.read_text().split())
    assert "stopped" in log.read_text()
    assert "stopped" not in moved.read_text()


# ------------------------------------------------------------------------------------ monitoring


def test_monitoring_pages(pacs: PacsProcess) -> None:
    with association(pacs.port, [CT]) as link:
        assert store(link, Instance.of(make_ct())).status == 0
        status = pacs.status()
    assert pacs.get("/healthz") == (200, "ok\n")
    assert pacs.get("/readyz") == (200, "ready\n")
    assert pacs.get("/nothing")[0] == 404
    assert (status["ae_title"], status["address"]) == ("PACS_SERVER", f"127.0.0.1:{pacs.port}")
    assert status["counts"] == {"patients": 1, "studies": 1, "series": 1, "instances": 1}
    assert (status["not_ready"], status["associations"]["active"]) == (None, 1)
    wait_for(lambda: pacs.metric("pacs_associations_active") == 0, "the end of the association")
    assert pacs.metric('pacs_dimse_requests_total{operation="C-STORE",status="0x0000"}') == 1
    assert pacs.metric("pacs_instances") == pacs.metric("pacs_ready") == pacs.metric("pacs_associations_total") == 1


def test_the_status_command(pacs: PacsProcess) -> None:
    port = pacs.monitoring.rpartition(":")[2]
    done = run_command(
        "status", "--config", pacs.config_file, cwd=pacs.directory, PACS_SERVER__MONITORING__METRICS_PORT=port
    )
    assert done.returncode == 0, done.stderr
    assert f"address: 127.0.0.1:{pacs.port}" in done.stdout
    pacs.stop()
    done = run_command(
        "status", "--config", pacs.config_file, cwd=pacs.directory, PACS_SERVER__MONITORING__METRICS_PORT=port
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "no server answers at" in done.stderr


# ------------------------------------------------------------------------------------ a disk that is nearly full


@pytest.mark.interop
def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"storage": {"min_free_space": "1000TB"}}
    pacs = PacsProcess(tmp_path / "pacs", fresh=True)
    kept = Instance.of(ds := make_ct())
    with pacs, association(pacs.port, [CT]) as link:
        assert store(link, kept).status == 0
    pacs.configure(settings)
    with pacs:
        with association(pacs.port, [CT]) as link:
            refused = store(link, Instance.of(make_ct(rows=512, columns=512)))
            assert refused.status == 0xA700
            assert "free" in (refused.error_comment or "")
        keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={ds.StudyInstanceUID}", "-k", "PatientID")
        found = dcmtk.run("findscu", "-v", "-S", *keys, "127.0.0.1", pacs.port)
        assert ds.StudyInstanceUID in found.stdout + found.stderr
        assert "Find Response: 1" in found.stdout + found.stderr
        code, body = pacs.get("/readyz")
        assert (code, "storage.min_free_space" in body) == (503, True)
        assert pacs.get("/healthz")[0] == 200
        assert pacs.incoming() == []
        assert len(pacs.files()) == 1
        # Space was made: the server takes instances again, without a restart.
        pacs.reload({})
        assert pacs.get("/readyz")[0] == 200
        with association(pacs.port, [CT]) as link:
            assert store(link, Instance.of(make_ct())).status == 0
