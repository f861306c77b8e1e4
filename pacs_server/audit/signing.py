"""The signing key of the audit trail, and signed lines: JSON that ends with an HMAC over every byte before it."""

import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import SecretStr

from pacs_server.audit.files import create
from pacs_server.config.types import SHORTEST_KEY
from pacs_server.errors import AuditUnavailable, ConfigError
from pacs_server.kit.private_files import sync_directory

KEY_FILE: Final = "key"
_MAC_FIELD: Final = b',"mac":"'
_END: Final = b'"}\n'
_JSON: Final = json.JSONEncoder(separators=(",", ":"))
_TAIL: Final = len(_MAC_FIELD) + 64 + len(_END)

Kind = Literal["record", "anchor", "head", "key"]


class SigningKey:
    """The secret that signs the lines of a trail; `name` identifies the key and reveals nothing of the secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.name = self.mac("key", b"")[:16]

    def mac(self, kind: Kind, data: bytes) -> str:
        """HMAC-SHA256 of the kind, a space and `data`, in lower case hexadecimal."""
        return hmac.digest(self._secret, f"{kind} ".encode("ascii") + data, "sha256").hex()

    def sign(self, kind: Kind, fields: Mapping[str, object]) -> tuple[bytes, str]:
        """Sign fields; return them as one line of ASCII with its line break, and the MAC of the line.

        A line that was signed as one kind is not valid as another kind.
        """
        return self.sign_text(kind, _JSON.encode(fields))

    def sign_text(self, kind: Kind, text: str) -> tuple[bytes, str]:
        """Sign fields as `sign` does; `text` is their JSON object, which has one field at least."""
        body = f'{text[:-1]},"key":"{self.name}"'.encode("ascii")
        mac = self.mac(kind, body)
        return body + _MAC_FIELD + mac.encode("ascii") + _END, mac

    def fault(self, kind: Kind, line: bytes) -> str | None:
        """What is wrong with a signed line, None if the line is valid."""
        if not line.endswith(b"\n"):
            return "torn: it does not end"
        body, mac = line[:-_TAIL], line[-_TAIL + len(_MAC_FIELD) : -len(_END)]
        if line == body + _MAC_FIELD + mac + _END and hmac.compare_digest(self.mac(kind, body).encode("ascii"), mac):
            return None
        try:
            name = fields_of(line)["key"]
        except (ValueError, KeyError):
            return "changed: it is no record"
        return (
            "changed: its MAC is not that of its content" if name == self.name else "wrong key: another one signed it"
        )


def fields_of(line: bytes) -> dict[str, Any]:
    """The fields of a signed line; the signature is not checked. Raises ValueError."""
    try:
        fields = json.loads(line)
    except RecursionError:
        raise ValueError("no record") from None
    if not isinstance(fields, dict):
        raise ValueError("no record")
    return fields


def find_key(directory: Path, configured: SecretStr | None) -> SigningKey:
    """The key in the settings or, if the settings have none, the key in the directory.

    Raises ConfigError if the key cannot be used, AuditUnavailable if it cannot be read.
    """
    if configured is not None:
        return SigningKey(configured.get_secret_value().encode("utf-8", "surrogatepass"))
    path = directory / KEY_FILE
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"audit.key: {path} may be read by others (chmod 600 is needed)")
        secret = path.read_bytes()
    except OSError as error:
        raise AuditUnavailable(f"the key of the audit trail cannot be read: {path}: {error.strerror}") from error
    if len(secret) < SHORTEST_KEY:
        raise ConfigError(f"audit.key: {path} is shorter than {SHORTEST_KEY} bytes")
    return SigningKey(secret)


def make_key(directory: Path) -> None:
    """Create a random key in the directory, durably, readable by its owner only. Raises OSError."""
    unfinished = directory / f"{KEY_FILE}.new"
    unfinished.unlink(missing_ok=True)
    descriptor = create(unfinished, os.O_WRONLY | os.O_EXCL)
    try:
        os.write(descriptor, secrets.token_hex(32).encode("ascii"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(unfinished, directory / KEY_FILE)
    sync_directory(directory)
