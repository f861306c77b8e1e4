"""What the TLS port takes and what it refuses: versions, suites, renegotiation, resumption."""

import shutil
import ssl
import struct
import subprocess
from collections.abc import Iterator

import pytest
import trustme
from certificates import NAME, Authority
from servers import RawPeer, running
from tlspeer import (
    ECDHE_RSA_AES128_GCM,
    ECDHE_RSA_AES256_GCM,
    ECDHE_RSA_CHACHA20,
    SSL3,
    TLS10,
    TLS11,
    TLS12,
    client,
    client_hello,
    echo,
    secure_peer,
    served,
)

from pacs_server.app.server import PacsServer

WEAK = {
    "RSA_AES128_CBC_SHA": 0x002F,
    "RSA_AES256_CBC_SHA256": 0x003D,
    "RSA_AES128_GCM": 0x009C,
    "RSA_AES256_GCM": 0x009D,
    "RSA_3DES_CBC_SHA": 0x000A,
    "RSA_RC4_SHA": 0x0005,
    "RSA_NULL_SHA": 0x0002,
    "RSA_NULL_SHA256": 0x003B,
    "RSA_EXPORT_RC4": 0x0003,
    "DHE_RSA_AES128_CBC_SHA": 0x0033,
    "DHE_RSA_AES128_GCM": 0x009E,
    "DHE_RSA_AES256_GCM": 0x009F,
    "DH_ANON_AES128_CBC_SHA": 0x0034,
    "DH_ANON_AES128_GCM": 0x00A6,
    "ECDH_ANON_AES128_CBC_SHA": 0xC018,
    "ECDHE_RSA_NULL_SHA": 0xC010,
    "ECDHE_RSA_3DES_CBC_SHA": 0xC012,
    "ECDHE_RSA_AES128_CBC_SHA": 0xC013,
    "ECDHE_RSA_AES256_CBC_SHA384": 0xC028,
    "PSK_AES128_GCM": 0x00A8,
}
STRONG = {
    "ECDHE_RSA_AES128_GCM": ECDHE_RSA_AES128_GCM,
    "ECDHE_RSA_AES256_GCM": ECDHE_RSA_AES256_GCM,
    "ECDHE_RSA_CHACHA20": ECDHE_RSA_CHACHA20,
}
PROBES = (
    *((name, TLS12, suite, False) for name, suite in WEAK.items()),
    *((name, TLS12, suite, True) for name, suite in STRONG.items()),
    *(
        (f"version {version:04x} {suite:04x}", version, suite, False)
        for version in (SSL3, TLS10, TLS11)
        for suite in (0x002F, 0xC013, ECDHE_RSA_AES128_GCM)
    ),
)


def answer(address: tuple[str, int], *suites: int, version: int = TLS12) -> int | None:
    """The suite that the server chooses for a ClientHello, None if it refuses."""
    with RawPeer(address) as peer:
        peer.send(client_hello(version, *suites))
        try:
            kind, _, length = struct.unpack("!BHH", peer._read(5))
            body = peer._read(length)
        except (EOFError, ConnectionResetError):
            return None
        if kind == 21:
            return None
        assert (kind, body[0]) == (22, 2), body[:4]
        assert struct.unpack_from("!H", body, 4) == (version,)
        chosen: int = struct.unpack_from("!H", body, 39 + body[38])[0]
        return chosen


@pytest.fixture(scope="module")
def rsa_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PacsServer, Authority]]:
    """A server with an RSA certificate: more suites are possible with it than with an elliptic curve."""
    directory = tmp_path_factory.mktemp("rsa")
    authority = Authority(directory / "certs")
    authority.issue("server", NAME, key_type=trustme.KeyType.RSA)
    with running(served(directory, authority.settings())) as pacs:
        yield pacs, authority


@pytest.mark.parametrize(("version", "suite", "taken"), [probe[1:] for probe in PROBES], ids=[p[0] for p in PROBES])
def test_probe(rsa_server: tuple[PacsServer, Authority], version: int, suite: int, taken: bool) -> None:
    assert answer(rsa_server[0].address, suite, version=version) == (suite if taken else None)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_of_today(rsa_server: tuple[PacsServer, Authority], version: ssl.TLSVersion) -> None:
    pacs, authority = rsa_server
    context = client(authority)
    context.minimum_version = context.maximum_version = version
    assert echo(pacs.address, context) == version.name.replace("_", ".")


def test_the_server_chooses_the_suite(rsa_server: tuple[PacsServer, Authority]) -> None:
    suites = (ECDHE_RSA_CHACHA20, ECDHE_RSA_AES128_GCM, 0x002F, ECDHE_RSA_AES256_GCM)
    assert answer(rsa_server[0].address, *suites) == ECDHE_RSA_AES256_GCM


def test_no_resumption_in_tls_1_3(rsa_server: tuple[PacsServer, Authority]) -> None:
    pacs, authority = rsa_server
    with secure_peer(pacs.address, client(authority)) as peer:
        assert peer.echo() == 0
        assert peer.socket.session is None or not peer.socket.session.has_ticket


def test_no_renegotiation(rsa_server: tuple[PacsServer, Authority]) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    address = "{}:{}".format(*rsa_server[0].address)
    command = ["openssl", "s_client", "-connect", address, "-tls1_2"]
    done = subprocess.run(command, input="R\n", capture_output=True, text=True, timeout=60, check=False)
    assert "RENEGOTIATING" in done.stderr
    assert "no renegotiation" in done.stderr
