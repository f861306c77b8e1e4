"""DICOM over TLS: ports, versions, suites, certificates both ways, reload, and peers that do not speak it."""

import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import NAME, Authority, days
from datasets import make_ct, uid
from processes import PacsProcess
from rawpeer import Instance
from servers import (
    EXPLICIT,
    STUDY_MOVE,
    VERIFICATION,
    RawPeer,
    associated,
    config,
    eventually,
    message,
    proposal,
    running,
    store,
    store_request,
    stored_files,
)
from strategies import identifier
from tlspeer import ECDHE_RSA_AES128_GCM, TLS12, client, client_hello, echo, secure_peer, served

from pacs_server.app.server import PacsServer
from pacs_server.config import RemoteAEConfig, TLSConfig
from pacs_server.errors import ConfigError
from pacs_server.net.associate import encode_request


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certs")


def refused(address: tuple[str, int], context: ssl.SSLContext) -> None:
    """Expect no association; in TLS 1.3 a client learns after its own handshake that it is refused."""
    with pytest.raises((ssl.SSLError, OSError, EOFError)):
        echo(address, context)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.reason for record in caplog.records if record.getMessage() == "connection failed"]


def failed_handshakes(pacs: PacsServer) -> float:
    """How many, by the metrics: the log leaves out what it has said a moment ago."""
    found = re.search(rb'pacs_association_rejections_total{reason="tls_handshake"} (\S+)', pacs.metrics.render())
    return float(found[1]) if found else 0


# ------------------------------------------------------------------------------------ ports


def test_plain_and_tls_side_by_side(tmp_path: Path, authority: Authority) -> None:
    with running(served(tmp_path, authority.settings(port=0))) as pacs:
        assert pacs.tls_address not in (None, pacs.address)
        assert pacs.status()["tls_address"] == "{}:{}".format(*pacs.tls_address)
        with RawPeer.associated(pacs.address) as plain, secure_peer(pacs.tls_address, client(authority)) as secure:
            assert (plain.echo(), secure.echo()) == (0, 0)
            # Both are counted, and drained, together.
            assert pacs.status()["associations"]["active"] == 2


def test_tls_alone_on_the_port(tmp_path: Path, authority: Authority) -> None:
    with running(served(tmp_path, authority.settings())) as pacs:
        assert pacs.tls_address == pacs.address
        assert echo(pacs.address, client(authority)) == "TLSv1.3"
        with RawPeer(pacs.address) as plain:
            plain.send(encode_request(proposal((VERIFICATION, [EXPLICIT]))))
            assert plain.ending() in ("closed", "reset")


def test_people_are_told_where_tls_is_spoken(
    tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(served(tmp_path / "both", authority.settings(port=0))) as pacs:
        pacs._print_welcome()
        said = capsys.readouterr().out
        assert "DICOM over TLS at {} port {}\n".format(*pacs.tls_address) in said
        assert "+tla" not in said
    with running(served(tmp_path / "alone", authority.settings())) as pacs:
        pacs._print_welcome()
        assert "echoscu -aec PACS_SERVER +tla -ic {} {}\n".format(*pacs.address) in capsys.readouterr().out


def test_no_tls_no_address(tmp_path: Path) -> None:
    with running(config(tmp_path)) as pacs:
        assert (pacs.tls_address, pacs.status()["tls_address"]) == (None, None)


def test_a_tls_port_in_use_is_named(tmp_path: Path, authority: Authority) -> None:
    with socket.create_server((NAME, 0)) as taken:
        port = taken.getsockname()[1]
        server = PacsServer(served(tmp_path, authority.settings(port=port)))
        with pytest.raises(ConfigError, match=rf"tls\.port: cannot listen on {NAME} port {port}"):
            server.start()
    assert not (tmp_path / "pacs.db").exists()


# ------------------------------------------------------------------------------------ versions


def test_only_tls_1_3(tmp_path: Path, authority: Authority) -> None:
    with running(served(tmp_path, authority.settings(min_version="1.3"))) as pacs:
        assert echo(pacs.address, client(authority)) == "TLSv1.3"
        old = client(authority)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            echo(pacs.address, old)


# ------------------------------------------------------------------------------------ certificates of peers


def test_who_shows_a_certificate_of_the_authority_comes_in(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stranger = Authority(tmp_path / "stranger")
    for_nobody = client(authority, stranger.client)
    late = client(authority, authority.expired("late", "ct1.example"))
    with running(served(tmp_path, authority.mutual())) as pacs:
        assert echo(pacs.address, client(authority, authority.client)) == "TLSv1.3"
        for context, reason in (
            (client(authority), "TLS: peer did not return a certificate"),
            (for_nobody, "the peer's certificate is refused: unable to get local issuer certificate"),
            (late, "the peer's certificate is refused: certificate has expired"),
        ):
            caplog.clear()
            refused(pacs.address, context)
            assert eventually(lambda: reasons(caplog)), reason
            assert reasons(caplog) == [reason]
        assert failed_handshakes(pacs) == 3


def test_who_shows_none_is_told_so(tmp_path: Path, authority: Authority) -> None:
    """In TLS 1.3 its request has come by then: to close at once would reset the connection before it reads why."""
    with running(served(tmp_path, authority.mutual())) as pacs:
        for _ in range(5):
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                echo(pacs.address, client(authority))


def test_the_names_of_the_peer_are_known(tmp_path: Path, authority: Authority) -> None:
    with (
        running(served(tmp_path, authority.settings(ca_path=authority.path, port=0))) as pacs,
        secure_peer(pacs.tls_address, client(authority, authority.client)),
        secure_peer(pacs.tls_address, client(authority)),
        RawPeer.associated(pacs.address),
    ):
        assert eventually(lambda: pacs.status()["associations"]["active"] == 3)
        callers = {connection.association.caller for connection in pacs._connections._open}
    assert {(caller.tls, caller.certificate) for caller in callers} == {
        (True, ("CT1", "ct1.example")),
        (True, ()),
        (False, ()),
    }


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_revoked_certificate_is_refused_after_a_reload(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    caplog.set_level(logging.INFO)
    other = authority.issue("other", "ct2.example")
    settings = served(tmp_path, authority.mutual(crl_path=authority.revoke(other)))
    context = client(authority, authority.client)
    context.maximum_version = version
    with running(settings, reload=lambda: settings) as pacs:
        refused(pacs.address, client(authority, other))
        with secure_peer(pacs.address, context) as before:
            authority.revoke(other, authority.client)
            assert pacs.reload()
            # What is in force goes on; what comes now is refused.
            assert before.echo() == 0
            refused(pacs.address, context)
            assert eventually(lambda: failed_handshakes(pacs) == 2)
    assert set(reasons(caplog)) == {"the peer's certificate is refused: certificate revoked"}


def test_a_list_that_has_run_out_lets_nobody_in(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = authority.mutual(crl_path=authority.revoke(until=days(-1)))
    with running(served(tmp_path, settings)) as pacs:
        refused(pacs.address, client(authority, authority.client))
        assert eventually(lambda: reasons(caplog))
    assert reasons(caplog) == ["the peer's certificate is refused: CRL has expired"]
    assert "a TLS file has expired" in caplog.text


def test_an_authority_without_a_list_lets_nobody_in(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    second = Authority(tmp_path / "second")
    both = tmp_path / "both.pem"
    both.write_bytes(authority.path.read_bytes() + second.path.read_bytes())
    with running(served(tmp_path, authority.mutual(ca_path=both, crl_path=authority.revoke()))) as pacs:
        assert echo(pacs.address, client(authority, authority.client))
        refused(pacs.address, client(authority, second.client))
        assert eventually(lambda: reasons(caplog))
    assert reasons(caplog) == ["the peer's certificate is refused: unable to get certificate CRL"]


# ------------------------------------------------------------------------------------ reload


@pytest.mark.parametrize("broken", ["server.pem", "server.key", "ca.pem", "crl.pem"])
def test_a_bad_file_keeps_the_old_ones(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    settings = served(tmp_path, authority.mutual(crl_path=authority.revoke()))
    with running(settings, reload=lambda: settings) as pacs:
        (authority.directory / broken).write_text("junk")
        assert not pacs.reload()
        assert echo(pacs.address, client(authority, authority.client))
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "configuration not reloaded, the old one stays"
    assert f"{broken} holds no" in record.reason


def test_switching_tls_off_waits_for_a_restart(tmp_path: Path, authority: Authority) -> None:
    """Until then the port goes on to speak TLS, and not what it protects against."""
    settings = served(tmp_path, authority.settings())
    with running(settings, reload=lambda: settings.model_copy(update={"tls": TLSConfig()})) as pacs:
        assert pacs.reload()
        assert pacs.status()["last_reload"]["needs_restart"] == ["tls.enabled"]
        assert echo(pacs.address, client(authority))
        with RawPeer(pacs.address) as plain:
            plain.send(encode_request(proposal((VERIFICATION, [EXPLICIT]))))
            assert plain.ending() in ("closed", "reset")


def test_when_the_certificate_expires_is_a_metric(tmp_path: Path, authority: Authority) -> None:
    def expiry(pacs: PacsServer) -> float:
        [line] = [each for each in pacs.metrics.render().splitlines() if each.startswith(b"pacs_tls_certificate_exp")]
        return float(line.split()[1])

    settings = served(tmp_path, authority.settings())
    with running(settings, reload=lambda: settings) as pacs:
        authority.issue("server", NAME, not_after=days(5))
        assert expiry(pacs) > days(30).timestamp()
        assert pacs.reload()
        assert expiry(pacs) == pytest.approx(days(5).timestamp(), abs=120)


def test_sighup_takes_new_certificates_and_drops_nobody(tmp_path: Path, authority: Authority) -> None:
    tls = {
        "enabled": True,
        "port": 0,
        "cert_path": str(authority.server.certificate),
        "key_path": str(authority.server.key),
    }
    with PacsProcess(tmp_path / "pacs", settings={"tls": tls}) as pacs:
        secure = pacs.status()["tls_address"].rpartition(":")
        address = (secure[0], int(secure[2]))
        with secure_peer(address, client(authority)) as first:
            renewed = Authority(authority.directory)
            pacs.reload({"tls": tls})
            assert first.echo() == 0
            refused(address, client(authority))
            assert echo(address, client(renewed))
        assert pacs.stop() == 0


# ------------------------------------------------------------------------------------ peers that do not speak it


def test_plain_dicom_on_the_tls_port(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(served(tmp_path, authority.settings())) as pacs:
        with RawPeer(pacs.address) as plain:
            plain.send(encode_request(proposal((VERIFICATION, [EXPLICIT]))))
            assert plain.ending() in ("closed", "reset")
        assert eventually(lambda: reasons(caplog))
    assert reasons(caplog) == ["plain DICOM on the TLS port?"]


def test_tls_on_the_plain_port(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with running(config(tmp_path)) as pacs:
        refused(pacs.address, client(authority))
        assert eventually(lambda: [record for record in caplog.records if record.getMessage() == "no association"])
    [record] = [record for record in caplog.records if record.getMessage() == "no association"]
    assert record.ended == "PDU of unknown type 0x16: TLS on the plain port?"


@pytest.mark.alone
def test_silent_and_slow_handshakes_hold_up_nobody(tmp_path: Path, authority: Authority) -> None:
    """Also not one that sends a byte now and then: the handshake has one deadline, whatever comes meanwhile."""
    hello = client_hello(TLS12, ECDHE_RSA_AES128_GCM)
    settings = served(tmp_path, authority.settings(), association_timeout=1.5)
    with running(settings) as pacs, RawPeer(pacs.address) as silent, RawPeer(pacs.address) as slow:
        began = time.monotonic()
        trickled = threading.Thread(target=_trickle, args=(slow, hello))
        trickled.start()
        assert echo(pacs.address, client(authority))
        assert time.monotonic() - began < 1.4
        assert silent.ending() == "closed"
        trickled.join()
        assert 1 < time.monotonic() - began < 6


def _trickle(peer: RawPeer, data: bytes) -> None:
    """Send a byte every fifth of a second until the peer has enough of it; that is 20 s for a ClientHello."""
    for n in range(len(data)):
        try:
            peer.send(data[n : n + 1])
            peer.socket.settimeout(0.2)
            if peer.socket.recv(1) == b"":
                return
        except TimeoutError:
            continue
        except OSError:
            return


def test_a_peer_that_is_gone_in_the_handshake(tmp_path: Path, authority: Authority) -> None:
    with running(served(tmp_path, authority.settings())) as pacs:
        for data in (b"", b"\x16", client_hello(TLS12, ECDHE_RSA_AES128_GCM)):
            with RawPeer(pacs.address) as peer:
                peer.send(data)
        assert eventually(lambda: failed_handshakes(pacs) == 3)
        assert echo(pacs.address, client(authority))


# ------------------------------------------------------------------------------------ large, and the end


def test_a_large_object_over_tls(tmp_path: Path, authority: Authority) -> None:
    instance = make_ct(rows=2048, columns=2048)
    sent = Instance.of(instance)
    with running(served(tmp_path, authority.settings())) as pacs:
        with secure_peer(pacs.address, client(authority)) as peer:
            peer.send(message(3, store_request(instance.SOPInstanceUID), sent.data, 65536))
            assert peer.read_message().command.status == 0
            peer.release()
        [file] = stored_files(pacs)
        assert len(sent.data) > 8_000_000
        assert file.read_bytes().endswith(sent.data)


def test_an_idle_association_is_aborted_over_tls_at_the_end(tmp_path: Path, authority: Authority) -> None:
    """To drain it reading is ended, and the farewell still goes out, encrypted."""
    with running(served(tmp_path, authority.settings())) as pacs, secure_peer(pacs.address, client(authority)) as peer:
        assert peer.echo() == 0
        stopper = threading.Thread(target=pacs.stop)
        stopper.start()
        assert peer.ending() == "abort 0 0"
        stopper.join()


def test_a_running_store_ends_before_the_server_does(tmp_path: Path, authority: Authority) -> None:
    instance = make_ct(rows=256, columns=256)
    data = message(3, store_request(instance.SOPInstanceUID), Instance.of(instance).data)
    with running(served(tmp_path, authority.settings())) as pacs, secure_peer(pacs.address, client(authority)) as peer:
        half = len(data) // 2
        peer.send(data[:half])
        assert eventually(lambda: any((tmp_path / "archive" / "incoming").glob("*.part")))
        stopper = threading.Thread(target=pacs.stop)
        stopper.start()
        assert eventually(lambda: pacs.status()["not_ready"] == "shutting down")
        peer.send(data[half:])
        assert peer.read_message().command.status == 0
        assert peer.ending() == "abort 0 0"
        stopper.join()


# ------------------------------------------------------------------------------------ associations that we request


@pytest.fixture
def there(tmp_path: Path, authority: Authority) -> Iterator[PacsServer]:
    """A server that wants certificates."""
    with running(served(tmp_path / "there", authority.mutual())) as pacs:
        yield pacs


def moved(directory: Path, there: PacsServer, settings: TLSConfig, **remote: object) -> int:
    """Move a study over TLS to `there`; the status."""
    values = {"ae_title": "THERE", "host": NAME, "port": there.address[1], "tls": True, "connect_timeout": 5.0}
    destination = RemoteAEConfig.model_validate(values | remote)
    study = uid()
    with PacsServer(served(directory, settings, remote_aes=[destination])) as here:
        assert store(here, make_ct(study, rows=1, columns=1)) == [0]
        with associated(here, STUDY_MOVE) as mover:
            *_, (final, _) = mover.send_c_move(identifier("STUDY", StudyInstanceUID=study), "THERE", STUDY_MOVE)
    status: int = final.Status
    return status


def calling(authority: Authority, **settings: object) -> TLSConfig:
    """TLS settings of a server that speaks it only when it calls."""
    return TLSConfig.model_validate({"ca_path": authority.path, **settings})


def shown(authority: Authority) -> dict[str, object]:
    return {"cert_path": authority.client.certificate, "key_path": authority.client.key}


def warnings_of(caplog: pytest.LogCaptureFixture) -> str:
    return " ".join(str(vars(record).get("reason", "")) for record in caplog.records)


def test_a_move_over_tls_both_with_certificates(tmp_path: Path, there: PacsServer, authority: Authority) -> None:
    assert moved(tmp_path / "here", there, calling(authority, **shown(authority))) == 0
    assert there.status()["counts"]["instances"] == 1


def test_a_move_without_our_certificate(
    tmp_path: Path, there: PacsServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    assert moved(tmp_path / "here", there, calling(authority)) == 0xA702
    assert "certificate required" in warnings_of(caplog)


def test_a_move_to_one_whose_authority_is_not_ours(
    tmp_path: Path, there: PacsServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Authority(tmp_path / "stranger")
    assert moved(tmp_path / "here", there, calling(authority, ca_path=stranger.path, **shown(authority))) == 0xA702
    assert "the peer's certificate is refused: self-signed certificate in certificate chain" in warnings_of(caplog)
    # The system's authorities do not know ours either.
    assert moved(tmp_path / "again", there, TLSConfig(**shown(authority))) == 0xA702


def test_a_host_name_that_is_not_in_the_certificate(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Certificates of medical devices rarely name the host."""
    authority.issue("server", "device.example", common_name="DEVICE 7")
    with running(served(tmp_path / "there", authority.mutual())) as there:
        settings = calling(authority, **shown(authority))
        assert moved(tmp_path / "here", there, settings) == 0xA702
        assert "is not valid for '127.0.0.1'" in warnings_of(caplog)
        assert moved(tmp_path / "again", there, settings, tls_check_hostname=False) == 0


def test_a_revoked_peer_is_not_called(
    tmp_path: Path, there: PacsServer, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    settings = calling(authority, crl_path=authority.revoke(authority.server), **shown(authority))
    assert moved(tmp_path / "here", there, settings) == 0xA702
    assert "the peer's certificate is refused: certificate revoked" in warnings_of(caplog)


def test_a_peer_that_speaks_no_tls(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    with running(config(tmp_path / "there")) as plain:
        assert moved(tmp_path / "here", plain, calling(authority)) == 0xA702
    assert "cannot connect to 127.0.0.1" in warnings_of(caplog)
