"""A small authority for tests: certificates that are good, expired or revoked, and its revocation list."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from pacs_server.config import TLSConfig

NAME = "127.0.0.1"


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, as files and as they were issued."""

    certificate: Path
    key: Path
    issued: trustme.LeafCert

    @property
    def dcmtk(self) -> tuple[str, str, str]:
        """DCMTK's options to show it."""
        return "+tls", str(self.key), str(self.certificate)


@dataclass
class Authority:
    """An authority whose files lie in `directory`."""

    directory: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.path = self.directory / "ca.pem"
        self.ca.cert_pem.write_to_path(self.path)
        self.server = self.issue("server", NAME)
        self.client = self.issue("client", "ct1.example", common_name="CT1")

    def issue(self, stem: str, *names: str, **options: object) -> Pair:
        """A certificate written to `stem`.pem and `stem`.key; `options` as trustme's issue_cert."""
        issued = self.ca.issue_cert(*names, **options)  # type: ignore[arg-type]
        pair = Pair(self.directory / f"{stem}.pem", self.directory / f"{stem}.key", issued)
        issued.cert_chain_pems[0].write_to_path(pair.certificate)
        issued.private_key_pem.write_to_path(pair.key)
        return pair

    def expired(self, stem: str, *names: str) -> Pair:
        """A certificate that held until yesterday."""
        return self.issue(stem, *names, not_before=days(-9), not_after=days(-1))

    def revoke(self, *pairs: Pair, until: datetime | None = None) -> Path:
        """The revocation list with these certificates on it, written to crl.pem; it holds for a week."""
        issuer = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        begin = days(-9)
        builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
        builder = builder.last_update(begin).next_update(until or days(7))
        for pair in pairs:
            serial = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).serial_number
            revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(begin).build()
            builder = builder.add_revoked_certificate(revoked)
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        path = self.directory / "crl.pem"
        path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))  # type: ignore[arg-type]
        return path

    def settings(self, **settings: object) -> TLSConfig:
        """TLS on, with the server's certificate."""
        files = {"cert_path": self.server.certificate, "key_path": self.server.key}
        return TLSConfig.model_validate({"enabled": True, **files, **settings})

    def mutual(self, **settings: object) -> TLSConfig:
        """TLS on, and peers must show a certificate of this authority."""
        return self.settings(**{"ca_path": self.path, "require_client_cert": True, **settings})


def days(number: float) -> datetime:
    """So many days from now."""
    return datetime.now(UTC) + timedelta(days=number)


def encrypted(pair: Pair, password: str) -> Path:
    """The pair's key again, with a password."""
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    path = pair.key.with_suffix(".encrypted")
    how = serialization.BestAvailableEncryption(password.encode())
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how))
    return path
