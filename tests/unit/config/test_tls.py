"""Contexts made of settings, what is said of settings that cannot work, names in certificates, and their end."""

import contextlib
import logging
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import NAME, Authority, days, encrypted

from pacs_server.config import Config, RemoteAEConfig, TLSConfig, WebConfig
from pacs_server.config.disk import check_filesystem
from pacs_server.config.load import load
from pacs_server.config.tls import ExpiryWatch, client_contexts, expiries, peer_names, reason, server_context
from pacs_server.errors import ConfigError


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def _config(settings: TLSConfig, *remotes: RemoteAEConfig) -> Config:
    return Config(tls=settings, remote_aes=remotes)


def _context(settings: TLSConfig) -> ssl.SSLContext:
    context = server_context(_config(settings))
    assert context is not None
    return context


def _remote(**settings: object) -> RemoteAEConfig:
    return RemoteAEConfig.model_validate({"ae_title": "THERE", "host": NAME, "port": 104, "tls": True, **settings})


# ------------------------------------------------------------------------------------ what is offered


def test_without_tls_there_is_no_context() -> None:
    assert server_context(Config()) is None
    assert client_contexts(Config()) == {}


@pytest.mark.slow
def test_only_forward_secret_authenticated_suites(authority: Authority) -> None:
    client = client_contexts(_config(TLSConfig(), _remote()))[True]
    for context in (_context(authority.settings()), client):
        offered = {(suite["protocol"], suite["name"]) for suite in context.get_ciphers()}
        assert {protocol for protocol, _ in offered} == {"TLSv1.2", "TLSv1.3"}
        for protocol, name in offered:
            kind = "TLS_" if protocol == "TLSv1.3" else "ECDHE-(ECDSA|RSA)-"
            assert re.fullmatch(rf"{kind}.*(GCM|POLY1305).*", name), name


@pytest.mark.parametrize(("setting", "version"), [("1.2", ssl.TLSVersion.TLSv1_2), ("1.3", ssl.TLSVersion.TLSv1_3)])
def test_lowest_version(authority: Authority, setting: str, version: ssl.TLSVersion) -> None:
    settings = authority.settings(min_version=setting)
    assert _context(settings).minimum_version == version
    assert client_contexts(_config(settings, _remote()))[True].minimum_version == version


def test_no_renegotiation_no_compression_no_tickets(authority: Authority) -> None:
    context = _context(authority.settings())
    wanted = (
        *(ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_NO_TICKET),
        *(ssl.OP_CIPHER_SERVER_PREFERENCE, ssl.OP_IGNORE_UNEXPECTED_EOF),
    )
    assert all(context.options & option for option in wanted)
    assert context.num_tickets == 0


def test_whether_a_certificate_is_asked_for(authority: Authority) -> None:
    ca = {"ca_path": authority.path}
    assert _context(authority.settings()).verify_mode == ssl.CERT_NONE
    assert _context(authority.settings(**ca)).verify_mode == ssl.CERT_OPTIONAL
    assert _context(authority.settings(**ca, require_client_cert=True)).verify_mode == ssl.CERT_REQUIRED


def test_calling_checks_the_certificate_always_and_the_name_if_told(authority: Authority) -> None:
    remotes = [_remote(), _remote(ae_title="OTHER", tls_check_hostname=False), _remote(ae_title="PLAIN", tls=False)]
    contexts = client_contexts(_config(TLSConfig(ca_path=authority.path), *remotes))
    assert {check: context.check_hostname for check, context in contexts.items()} == {True: True, False: False}
    for context in contexts.values():
        assert context.verify_mode == ssl.CERT_REQUIRED
        # Ours, and not those of the system beside it.
        assert context.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}


# ------------------------------------------------------------------------------------ what cannot work


def _wrong(settings: TLSConfig, *remotes: RemoteAEConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check_filesystem(_config(settings, *remotes))
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("default: ")


def test_files_that_are_missing(authority: Authority, tmp_path: Path) -> None:
    for key in ("cert_path", "key_path", "ca_path", "crl_path"):
        settings = authority.settings(
            **{"ca_path": authority.path, "crl_path": authority.revoke(), key: tmp_path / "no"}
        )
        assert _wrong(settings) == f"tls.{key}: {tmp_path}/no: No such file or directory"


def test_files_that_hold_something_else(authority: Authority, tmp_path: Path) -> None:
    junk = tmp_path / "junk"
    junk.write_text("junk")
    what = {"cert_path": "certificate", "ca_path": "certificate", "crl_path": "certificate revocation list"}
    for key, name in what.items():
        settings = authority.settings(**{"ca_path": authority.path, key: junk})
        assert _wrong(settings) == f"tls.{key}: {junk} holds no {name} in PEM"
    assert _wrong(authority.settings(key_path=junk)).startswith(f"tls.key_path: {junk} holds no private key in PEM")
    # A certificate is no revocation list, though OpenSSL would load it as the other.
    assert _wrong(authority.settings(ca_path=authority.path, crl_path=authority.path)).startswith("tls.crl_path: ")


def test_a_damaged_certificate(authority: Authority, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert "damaged" in _wrong(authority.settings(cert_path=damaged))
    assert f"tls.ca_path: {damaged} cannot be used" in _wrong(authority.settings(ca_path=damaged))


def test_a_key_of_another_certificate(authority: Authority) -> None:
    key = authority.client.key
    message = f"tls.key_path: {key} is not the key of the certificate in {authority.server.certificate}"
    assert _wrong(authority.settings(key_path=key)) == message


def test_a_key_with_a_password(authority: Authority) -> None:
    key = encrypted(authority.server, "secret")
    message = f"tls.key_password: is missing, and has to be that of the key in {key}"
    assert _wrong(authority.settings(key_path=key)) == message
    for password in ("wrong", "x" * 2000):
        settings = authority.settings(key_path=key, key_password=password)
        assert _wrong(settings) == f"tls.key_password: is not that of the key in {key}"
    check_filesystem(_config(authority.settings(key_path=key, key_password="secret")))


@pytest.mark.parametrize("key", ["require_client_cert: true", "crl_path: crl.pem"])
def test_checking_peers_needs_an_authority(tmp_path: Path, key: str) -> None:
    file = tmp_path / "pacs.yaml"
    file.write_text(f"tls:\n  enabled: true\n  {key}\n")
    with pytest.raises(ConfigError, match=rf"line 3: tls\.{key.split(':', maxsplit=1)[0]}: needs tls\.ca_path as well"):
        load(file, environ={}, overrides={})


@pytest.mark.slow
def test_what_calling_needs_is_checked_too(authority: Authority, tmp_path: Path) -> None:
    missing = tmp_path / "no"
    assert _wrong(TLSConfig(ca_path=missing), _remote()) == f"tls.ca_path: {missing}: No such file or directory"
    assert _wrong(TLSConfig(cert_path=missing), _remote()) == f"tls.cert_path: {missing}: No such file or directory"
    # Nothing of it is looked at when TLS is neither spoken nor called.
    check_filesystem(_config(TLSConfig(cert_path=missing, ca_path=missing), _remote(tls=False)))


@pytest.mark.slow
def test_a_certificate_beside_the_file_is_not_one_that_was_set(tmp_path: Path) -> None:
    """Absolute paths are made of all, and only one that somebody wrote is shown to peers that we call."""
    file = tmp_path / "pacs.yaml"
    text = "remote_aes: [{ae_title: A, host: h, port: 1, tls: true}]\n"
    file.write_text(text)
    check_filesystem(load(file, environ={}, overrides={}))
    file.write_text(f"{text}tls: {{cert_path: certs/server.crt}}\n")
    with pytest.raises(ConfigError, match=r"tls\.cert_path: .*/certs/server\.crt: No such file"):
        check_filesystem(load(file, environ={}, overrides={}))


# ------------------------------------------------------------------------------------ names


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A handshake in memory, until both ends have nothing more to say; raises what the server's end raises."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(there, back, server_side=True),
        client.wrap_bio(back, there, server_hostname=NAME),
    )
    for _ in range(6):
        for end in reversed(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends


def _client(authority: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.ca.configure_trust(context)
    return context


@pytest.mark.parametrize("demanded", [True, False])
def test_names_of_a_peer(authority: Authority, demanded: bool) -> None:
    names = ("ct1.example", "10.0.0.7", "fd00::1", "admin@ct1.example")
    pair = authority.issue("named", *names, common_name="CT1")
    client = _client(authority)
    pair.issued.configure_cert(client)
    server, _ = _handshake(_context(authority.mutual(require_client_cert=demanded)), client)
    assert set(peer_names(server)) == {"CT1", *names}  # type: ignore[arg-type]
    assert peer_names(server)[0] == "CT1"  # type: ignore[arg-type]


def test_no_names_without_a_certificate(authority: Authority) -> None:
    server, _ = _handshake(_context(authority.settings(ca_path=authority.path)), _client(authority))
    assert peer_names(server) == ()  # type: ignore[arg-type]


def test_a_certificate_that_is_shown_must_be_good_even_if_none_is_demanded(authority: Authority) -> None:
    client = _client(authority)
    authority.expired("old", "ct1.example").issued.configure_cert(client)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        _handshake(_context(authority.settings(ca_path=authority.path)), client)
    assert reason(caught.value) == "the peer's certificate is refused: certificate has expired"


def test_reasons() -> None:
    assert reason(ConnectionRefusedError(111, "Connection refused")) == "Connection refused"
    assert reason(OSError()) == "OSError"
    assert reason(TimeoutError("too late")) == "too late"


# ------------------------------------------------------------------------------------ what runs out


def test_when_things_run_out(authority: Authority) -> None:
    end = days(100).replace(microsecond=0)
    pair = authority.issue("server", NAME, not_after=end)
    settings = authority.settings(
        ca_path=authority.path, crl_path=authority.revoke(until=days(3).replace(microsecond=0))
    )
    found = expiries(_config(settings))
    assert found["tls.cert_path"] == end
    assert timedelta(days=2, hours=23) < found["tls.crl_path"] - datetime.now(UTC) < timedelta(days=3)
    assert pair.certificate == settings.cert_path
    assert expiries(Config()) == {}


def test_the_certificate_of_the_http_door_runs_out_too(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    pair = authority.issue("web", NAME, not_after=days(20).replace(microsecond=0))
    paths = {"cert_path": pair.certificate, "key_path": pair.key}
    # What is wrong with another file does not hide it.
    authority.server.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    web = WebConfig.model_validate({"tls": {"enabled": True, **paths}})
    watch = ExpiryWatch(lambda: Config(tls=authority.settings(), web=web))
    watch.start()
    assert [(record.getMessage(), record.setting) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("the end of a certificate is not known", "tls.cert_path"),
        ("a TLS file expires soon", "web.tls.cert_path"),
    ]
    end = days(20).timestamp()
    assert watch.gauges() == {"pacs_web_tls_certificate_expiry_seconds": pytest.approx(end, abs=60)}
    for unused in ({"enabled": False, "tls": {"enabled": True, **paths}}, {"tls": {"enabled": False, **paths}}):
        assert expiries(Config(web=WebConfig.model_validate(unused))) == {}


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (31, None),
        (29, "a TLS file expires soon"),
        (0.5, "a TLS file expires soon"),
        (-0.5, "a TLS file has expired"),
    ],
)
def test_the_log_warns_of_the_end(
    authority: Authority, caplog: pytest.LogCaptureFixture, left: float, said: str | None
) -> None:
    authority.issue("server", NAME, not_before=days(-9), not_after=days(left))
    watch = ExpiryWatch(lambda: _config(authority.settings()))
    with caplog.at_level(logging.WARNING):
        watch.start()
    assert [record.getMessage() for record in caplog.records] == ([said] if said else [])
    assert watch.gauges() == {"pacs_tls_certificate_expiry_seconds": pytest.approx(days(left).timestamp(), abs=60)}


def test_the_log_warns_again(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    authority.issue("server", NAME, not_after=days(1))
    watch = ExpiryWatch(lambda: _config(authority.settings()))
    watch.start()
    watch.warn()
    assert len(caplog.records) == 2


def test_a_file_that_only_openssl_can_read_stops_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    authority.server.certificate.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert expiries(_config(authority.settings())) == {}
    assert "is not known" in caplog.text
