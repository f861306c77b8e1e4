"""The key of the audit trail and the lines that it signs: JSON, closed by an HMAC over every byte before it."""

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


class Key:
    """A secret, and `name`, which tells keys apart without giving any of it away."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.name = self.mac("key", b"")[:16]

    def mac(self, kind: Kind, data: bytes) -> str:
        """HMAC-SHA256 of the kind, a space and `data`, in lower case hexadecimal."""
        return hmac.digest(self._secret, f"{kind} ".encode("ascii") + data, "sha256").hex()

    def sign(self, kind: Kind, fields: Mapping[str, object]) -> tuple[bytes, str]:
        """The fields as one signed line of ASCII with its line break, and the MAC in it.

        A line of one kind does not pass as one of another.
        """
        body = _JSON.encode({**fields, "key": self.name}).encode("ascii")[:-1]
        mac = self.mac(kind, body)
        return body + _MAC_FIELD + mac.encode("ascii") + _END, mac

    def fault(self, kind: Kind, line: bytes) -> str | None:
        """What is wrong with a signed line, if anything is."""
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
    """The fields of a signed line, whoever signed it; raises ValueError."""
    try:
        fields = json.loads(line)
    except RecursionError:
        raise ValueError("no record") from None
    if not isinstance(fields, dict):
        raise ValueError("no record")
    return fields


def find_key(directory: Path, configured: SecretStr | None) -> Key:
    """The key in the settings, or else in the directory.

    Raises ConfigError if it cannot be used, AuditUnavailable if it cannot be read.
    """
    if configured is not None:
        return Key(configured.get_secret_value().encode("utf-8", "surrogatepass"))
    path = directory / KEY_FILE
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"audit.key: {path} may be read by others (chmod 600 is needed)")
        secret = path.read_bytes()
    except OSError as error:
        raise AuditUnavailable(f"the key of the audit trail cannot be read: {path}: {error.strerror}") from error
    if len(secret) < SHORTEST_KEY:
        raise ConfigError(f"audit.key: {path} is shorter than {SHORTEST_KEY} bytes")
    return Key(secret)


def make_key(directory: Path) -> None:
    """Make a random key in the directory, durable and readable by its owner only; raises OSError."""
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
