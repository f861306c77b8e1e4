"""The settings of a temporary server: free ports on this machine, everything in one directory, nothing durable."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pacs_server.config.model import Config
from pacs_server.errors import ConfigError
from pacs_server.testing.certificates import Certificates

# How long operations that still run may take at the end, in seconds.
_STOP_SECONDS = 2.0


def settings(
    directory: Path,
    ae_title: str,
    remotes: Sequence[Mapping[str, Any]],
    certificates: Certificates | None,
    changes: Mapping[str, Any],
) -> Config:
    """The settings with everything below `directory`; `changes` are settings by section, as in a configuration file.

    With certificates there is a port for TLS beside the plain one, and HTTP is HTTPS. Raises ConfigError.
    """
    usual: dict[str, Any] = {
        "server": {"ae_title": ae_title, "port": 0, "shutdown_timeout": _STOP_SECONDS},
        "storage": {"directory": directory / "archive", "min_free_space": 0, "fsync": "off"},
        "database": {"path": directory / "pacs.db"},
        "audit": {"enabled": False},
        "monitoring": {"enabled": False},
        "user_identity": {"users_path": directory / "users"},
        "web": {"port": 0},
        # What fails is tried again while a test waits for it.
        "forwarding": {"retry_first": 0.2, "retry_max": 1.0, "breaker_first": 0.2, "breaker_max": 1.0},
        "remote_aes": tuple(remotes),
    }
    if certificates is not None:
        files = {"cert_path": certificates.server_certificate, "key_path": certificates.server_key}
        usual["tls"] = {"enabled": True, "port": 0, "ca_path": certificates.ca, **files}
        usual["web"]["tls"] = {"enabled": True, **files}
    try:
        return Config.model_validate(_merged(usual, changes))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or str(first.get("ctx", {}).get("key", ""))
        raise ConfigError(f"settings: {key}: {first['msg']}") from None


def _merged(usual: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(usual)
    for key, value in changes.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged
