"""DICOM over TLS for tests: contexts for clients, peers in TLS, and ClientHellos written by hand."""

import os
import ssl
import struct
from pathlib import Path

from certificates import NAME, Authority, Pair
from servers import CT, EXPLICIT, VERIFICATION, RawPeer, config, proposal

from pacs_server.config import Config, TLSConfig

SSL3, TLS10, TLS11, TLS12 = 0x0300, 0x0301, 0x0302, 0x0303
# RFC 8446, RFC 5246 and the registry of TLS parameters at IANA.
ECDHE_RSA_AES128_GCM, ECDHE_RSA_AES256_GCM, ECDHE_RSA_CHACHA20 = 0xC02F, 0xC030, 0xCCA8


def served(directory: Path, settings: TLSConfig, **more: object) -> Config:
    return config(directory, **more).model_copy(update={"tls": settings})


def client(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts the authority, and shows a certificate if it has one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.ca.configure_trust(context)
    if pair is not None:
        pair.issued.configure_cert(context)
    return context


def secure_peer(address: tuple[str, int], context: ssl.SSLContext) -> RawPeer:
    peer = RawPeer(address)
    try:
        peer.socket = context.wrap_socket(peer.socket, server_hostname=NAME)
        peer.associate(proposal((VERIFICATION, [EXPLICIT]), (CT, [EXPLICIT])))
    except BaseException:
        peer.socket.close()
        raise
    return peer


def echo(address: tuple[str, int], context: ssl.SSLContext) -> str:
    """Do a C-ECHO; the version of TLS that carried it."""
    with secure_peer(address, context) as peer:
        assert peer.echo() == 0
        version = peer.socket.version()
        peer.release()
        return version


def client_hello(version: int, *suites: int) -> bytes:
    """A ClientHello as old as `version`, written by hand: no library of today would send some of them."""

    def extension(kind: int, body: bytes) -> bytes:
        return struct.pack("!HH", kind, len(body)) + body

    groups = extension(10, struct.pack("!HHHH", 6, 0x001D, 0x0017, 0x0100))
    points = extension(11, b"\1\0")
    signatures = struct.pack("!8H", 0x0804, 0x0805, 0x0401, 0x0501, 0x0403, 0x0503, 0x0201, 0x0203)
    extensions = groups + points + extension(13, struct.pack("!H", len(signatures)) + signatures)
    listed = struct.pack(f"!{len(suites)}H", *suites)
    body = struct.pack("!H", version) + os.urandom(32) + b"\0" + struct.pack("!H", len(listed)) + listed + b"\1\0"
    body += struct.pack("!H", len(extensions)) + extensions
    hello = b"\1" + len(body).to_bytes(3, "big") + body
    return struct.pack("!BHH", 22, min(version, TLS10), len(hello)) + hello
