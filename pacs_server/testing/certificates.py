"""Certificates for the tests of one server: an authority, and certificates of the server and of a client."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAYS = 400


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of an authority, in PEM: its certificate, and those of a server and a client with their keys."""

    ca: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path

    def client_context(self) -> ssl.SSLContext:
        """What a client needs to trust the server and to show its own certificate, as pynetdicom's `tls_args` take."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.client_certificate, self.client_key)
        return context


def make_certificates(directory: Path) -> Certificates:
    """Make an authority and its certificates in `directory`; they hold for a year."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("pacs-server test authority")
    ca = _builder(name, name, key.public_key()).add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
    made = Certificates(
        *(directory / each for each in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )
    made.ca.write_bytes(ca.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _issue(name, key, "127.0.0.1", made.server_certificate, made.server_key)
    _issue(name, key, "client", made.client_certificate, made.client_key)
    return made


def _issue(issuer: x509.Name, authority: ec.EllipticCurvePrivateKey, name: str, certificate: Path, to: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = _builder(issuer, _name(name), key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    certificate.write_bytes(builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    to.touch(mode=0o600)
    to.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _builder(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key)
    return (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_DAYS))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
