"""TLS contexts from the settings, the names in a peer's certificate, and the expiry of the server's certificates.

The contexts follow the BCP 195 RFC 8996, 9325 TLS profile (PS3.15 B.12): TLS 1.2 and 1.3, and in TLS 1.2 only suites
with an ephemeral key exchange and authenticated encryption. The ports of the server and the associations that the
server requests use the same rules.
"""

import ipaddress
import logging
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from pacs_server.config.model import Config
from pacs_server.config.sections.remote_auth import RemoteAuthConfig
from pacs_server.config.yaml import one_line

log = logging.getLogger(__name__)

# PS3.15 B.13 forbids DHE where the length of its key cannot be set. Python's ssl module cannot set it.
_SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
# How long before the expiry the log warns. A new revocation list comes every few days or weeks.
_NOTICE: Final = {
    "tls.cert_path": timedelta(days=30),
    "web.tls.cert_path": timedelta(days=30),
    "tls.crl_path": timedelta(days=2),
}
_GAUGES: Final = {
    "tls.cert_path": "pacs_tls_certificate_expiry_seconds",
    "web.tls.cert_path": "pacs_web_tls_certificate_expiry_seconds",
    "tls.crl_path": "pacs_tls_crl_expiry_seconds",
}


def check(config: Config) -> None:
    """Check that everything that TLS needs can be loaded. Raises ConfigError."""
    server_context(config)
    web_context(config)
    client_contexts(config)
    for number, remote in enumerate(config.remote_aes):
        if remote.kind == "dicomweb":
            dicomweb_context(config, number)


def server_context(config: Config) -> ssl.SSLContext | None:
    """The context for accepting connections, None if TLS is off. Raises ConfigError."""
    if not config.tls.enabled:
        return None
    context = _context(config, ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    # RFC 9325 3.4: session tickets weaken forward secrecy unless their keys are rotated. Associations last long, so
    # that tickets would save nothing.
    context.num_tickets = 0
    _identity(config).present(context, config)
    if config.tls.ca_path is not None:
        _trust(context, config)
        # A certificate that is not required is still checked if the peer sends one: access rules compare its names.
        context.verify_mode = ssl.CERT_REQUIRED if config.tls.require_client_cert else ssl.CERT_OPTIONAL
    return context


def web_context(config: Config) -> ssl.SSLContext | None:
    """The context of the HTTP door, None if it does not speak TLS. Raises ConfigError."""
    tls = config.web.tls
    if not tls.enabled or tls.cert_path is None or tls.key_path is None:
        return None
    context = _context(config, ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    _Identity("web.tls", tls.cert_path, tls.key_path).present(context, config)
    if tls.client_ca_path is not None:
        _load(context, config, "web.tls.client_ca_path", tls.client_ca_path, "certificate")
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_cert else ssl.CERT_OPTIONAL
    return context


def client_contexts(config: Config) -> dict[bool, ssl.SSLContext]:
    """The contexts for connections to `remote_aes`, by whether host names are checked. Raises ConfigError."""
    wanted = {remote.tls_check_hostname for remote in config.remote_aes if remote.tls}
    return {check_hostname: client_context(config, check_hostname=check_hostname) for check_hostname in wanted}


def client_context(config: Config, *, check_hostname: bool) -> ssl.SSLContext:
    """The context for a connection that the server opens. Raises ConfigError."""
    context = _context(config, ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = check_hostname
    _trust_servers(context, config)
    if config.tls.enabled or "cert_path" in config.tls.model_fields_set:
        _identity(config).present(context, config)
    return context


def dicomweb_context(config: Config, number: int) -> ssl.SSLContext:
    """The context for connections to the DICOMweb remote of this number in `remote_aes`. Raises ConfigError."""
    remote, key = config.remote_aes[number], f"remote_aes[{number}].auth"
    auth = remote.auth or RemoteAuthConfig()
    if auth.ca_path is None and auth.cert_path is None:
        return client_context(config, check_hostname=remote.tls_check_hostname)
    context = _context(config, ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = remote.tls_check_hostname
    if auth.ca_path is not None:
        _load(context, config, f"{key}.ca_path", auth.ca_path, "certificate")
    else:
        _trust_servers(context, config)
    if auth.cert_path is not None and auth.key_path is not None:
        _Identity(key, auth.cert_path, auth.key_path).present(context, config)
    return context


def _trust_servers(context: ssl.SSLContext, config: Config) -> None:
    if config.tls.ca_path is not None:
        _trust(context, config)
    else:
        context.load_default_certs()


def _context(config: Config, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = _VERSIONS[config.tls.min_version]
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # To drain an association, the server shuts down reading, which OpenSSL takes for the end of the peer's stream, and
    # then still sends an A-ABORT. Ignoring the unexpected end is safe: PDUs carry their length, so that a truncated
    # stream is noticed anyway.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


@dataclass(frozen=True, slots=True)
class _Identity:
    """The files of a certificate and its key; `section` holds the settings that name them."""

    section: str
    cert_path: Path
    key_path: Path
    key_password: SecretStr | None = None

    def present(self, context: ssl.SSLContext, config: Config) -> None:
        """Load them into `context`. Raises ConfigError."""
        certificate = _bytes(config, f"{self.section}.cert_path", self.cert_path)
        key = _bytes(config, f"{self.section}.key_path", self.key_path)
        # Without a password OpenSSL would ask for one on the terminal; an empty one prevents that.
        password = self.key_password.get_secret_value() if self.key_password is not None else ""
        try:
            context.load_cert_chain(self.cert_path, self.key_path, password)
        except (OSError, ValueError) as error:  # ValueError: the password is too long for OpenSSL
            setting, problem = self._problem(certificate, key, error)
            raise config.error(f"{self.section}.{setting}", problem) from None

    def _problem(self, certificate: bytes, key: bytes, error: Exception) -> tuple[str, str]:
        """Which setting is wrong, and what is wrong with it."""
        reason = getattr(error, "reason", None)
        if b"-----BEGIN CERTIFICATE-----" not in certificate:
            return "cert_path", f"{self.cert_path} holds no certificate in PEM"
        if reason == "KEY_VALUES_MISMATCH":
            return "key_path", f"{self.key_path} is not the key of the certificate in {self.cert_path}"
        if reason is not None:
            return "cert_path", f"{self.cert_path} cannot be used: {_words(reason)}"
        if b"ENCRYPTED" in key and self.section != "tls":
            return "key_path", f"{self.key_path} is encrypted: only a key without a password can be used here"
        if b"ENCRYPTED" in key:
            problem = "is missing, and has to be that of" if self.key_password is None else "is not that of"
            return "key_password", f"{problem} the key in {self.key_path}"
        return "key_path", f"{self.key_path} holds no private key in PEM, or {self.cert_path} is damaged"


def _identity(config: Config) -> _Identity:
    tls = config.tls
    return _Identity("tls", tls.cert_path, tls.key_path, tls.key_password)


def _trust(context: ssl.SSLContext, config: Config) -> None:
    """Check the certificates of peers against the authorities and revocation lists. Raises ConfigError."""
    tls = config.tls
    if tls.ca_path is not None:
        _load(context, config, "tls.ca_path", tls.ca_path, "certificate")
    if tls.crl_path is not None:
        _load(context, config, "tls.crl_path", tls.crl_path, "certificate revocation list")
        # From now on a certificate is refused if its authority has no list, or an expired one: nobody can tell whether
        # the certificate was revoked.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _load(context: ssl.SSLContext, config: Config, key: str, file: Path, what: str) -> None:
    marker = b"-----BEGIN X509 CRL-----" if key == "tls.crl_path" else b"-----BEGIN CERTIFICATE-----"
    if marker not in _bytes(config, key, file):
        raise config.error(key, f"{file} holds no {what} in PEM")
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise config.error(key, f"{file} cannot be used: {reason(error)}") from None


def _bytes(config: Config, key: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise config.error(key, f"{file}: {error.strerror}") from None


def _words(reason: str) -> str:
    return one_line(reason.replace("_", " ").lower())


def reason(error: OSError) -> str:
    """Why a connection failed, in a few words for the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate is refused: {one_line(error.verify_message)}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS: {_words(error.reason)}"
    return error.strerror or str(error) or type(error).__name__


def peer_names(sock: ssl.SSLSocket | ssl.SSLObject) -> tuple[str, ...]:
    """The common name and the alternative names (DNS, IP, URI, e-mail) in the certificate of a peer.

    Empty if the peer sent no certificate or the certificate was not checked.
    """
    certificate = sock.getpeercert() or {}
    subject = (pair for relative in certificate.get("subject", ()) for pair in relative)
    names = [str(pair[1]) for pair in subject if pair[0] == "commonName"]
    for pair in certificate.get("subjectAltName", ()):
        kind, value = str(pair[0]), str(pair[1])
        if kind == "IP Address":
            names.append(_short_address(value))
        elif kind in ("DNS", "URI", "email"):
            names.append(value)
    return tuple(dict.fromkeys(names))


def _short_address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return text


# ------------------------------------------------------------------------------------ expiry


def expiries(config: Config) -> dict[str, datetime]:
    """When the certificates of this server and the first of the revocation lists expire, by the key of their file.

    Files that are not in use are left out, and so are files that only OpenSSL can read.
    """
    found: dict[str, datetime] = {}
    for key, file in _files_in_use(config).items():
        try:
            found[key] = _end_of(key, file.read_bytes())
        except (OSError, ValueError) as error:
            told = {"setting": key, "reason": one_line(str(error))}
            log.warning("the end of a certificate is not known", extra=told)
    return found


def _files_in_use(config: Config) -> dict[str, Path]:
    """The files that expire, by the key that names them."""
    tls, web = config.tls, config.web
    used = {
        "tls.cert_path": tls.cert_path if tls.enabled else None,
        "tls.crl_path": tls.crl_path if tls.enabled else None,
        "web.tls.cert_path": web.tls.cert_path if web.enabled and web.tls.enabled else None,
    }
    return {key: file for key, file in used.items() if file is not None}


def _end_of(key: str, content: bytes) -> datetime:
    """When what is in a file expires. Raises ValueError."""
    from cryptography import x509  # importing it takes long

    if key != "tls.crl_path":
        return x509.load_pem_x509_certificate(content).not_valid_after_utc
    lists = map(x509.load_pem_x509_crl, _CRL.findall(content))
    return min(each.next_update_utc for each in lists if each.next_update_utc is not None)


class ExpiryWatch:
    """Warns in the log before a certificate or a revocation list expires; a part of a running server."""

    def __init__(self, config: Callable[[], Config]) -> None:
        """`config` gives the settings as they are now."""
        self._config = config
        self._expiries: Mapping[str, datetime] = {}

    def start(self) -> None:
        """Read when the files expire, and warn."""
        self._expiries = expiries(self._config())
        self.warn()

    def reload(self) -> None:
        """Read the files again: other files are named, or the same files have been replaced."""
        self.start()

    def gauges(self) -> dict[str, float]:
        """The gauges about TLS; their values are Unix times."""
        return {_GAUGES[key]: end.timestamp() for key, end in self._expiries.items()}

    def warn(self) -> None:
        """Log a warning for each file that has expired or expires soon."""
        now = datetime.now(UTC)
        for key, end in self._expiries.items():
            told = {"setting": key, "expires": end.isoformat(), "days": (end - now).days}
            if end <= now:
                log.warning("a TLS file has expired", extra=told)
            elif end - now < _NOTICE[key]:
                log.warning("a TLS file expires soon", extra=told)
