"""The secrets among the settings: which settings they are, how files hold them, and which users can read the files."""

import stat
from pathlib import Path
from typing import Final

from pacs_server.config.model import Config, setting
from pacs_server.config.yaml import Layer, Place
from pacs_server.errors import ConfigError

SECRETS: Final = ("database.url", "tls.key_password", "audit.key")
_FILE: Final = "file:"
_MAX_BYTES: Final = 4096


def is_secret(key: str) -> bool:
    """Whether a dotted key names a secret, or a section that holds one. Messages must not quote its value."""
    return any(secret == key or secret.startswith(f"{key}.") for secret in SECRETS)


def read_secret_files(settings: Layer) -> dict[str, Path]:
    """Replace each secret `file:PATH` by the content of the file, and return the paths by dotted key.

    Relative paths start from the same directory as other paths in that place. One line break at the end of a file is
    removed. Raises ConfigError, which names the key and the path and quotes nothing from the file.
    """
    files: dict[str, Path] = {}
    for key in SECRETS:
        value = settings.values.get(key)
        if isinstance(value, str) and value.startswith(_FILE):
            place = settings.places.get(key, Place("default", Path.cwd()))
            files[key] = place.base / value.removeprefix(_FILE)
            try:
                settings.values[key] = read_secret(files[key])
            except ValueError as error:
                raise ConfigError(f"{place.text}: {key}: {_shown(files[key])} {error}") from None
    return files


def remote_secret(config: Config, number: int) -> str:
    """The secret by which this server logs in at the remote of this number in `remote_aes`; '' if there is none.

    Raises ConfigError, which quotes nothing from the file.
    """
    auth = config.remote_aes[number].auth
    if auth is None or auth.secret is None:
        return ""
    key, path = auth.secret
    try:
        secret = read_secret(path)
        # A password may have any character: it is encoded before it goes into a header.
        if key not in ("password_file", "client_secret_file") and not (secret.isascii() and secret.isprintable()):
            raise ValueError("has characters that cannot be in a header")
    except ValueError as error:
        raise config.error(f"remote_aes[{number}].auth.{key}", f"{_shown(path)} {error}") from None
    return secret if key == "password_file" else secret.strip()


def read_secret(path: Path) -> str:
    """The secret in a file. Raises ValueError that says what is wrong with the file."""
    try:
        if not path.is_file():  # reading a pipe could wait for ever
            raise ValueError("is not there" if not path.exists() else "is not a file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ValueError(f"is larger than {_MAX_BYTES} bytes, which is no secret")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ValueError("is empty")
    return text


def readable_by_others(config: Config) -> list[str]:
    """A warning for each file with secrets or users that others than its owner may read."""
    files = dict.fromkeys(config.secret_files.values())
    files |= dict.fromkeys(auth.secret[1] for remote in config.remote_aes if (auth := remote.auth) and auth.secret)
    if config.source is not None and _holds_secrets(config):
        files[config.source] = None
    if config.user_identity.mode != "off" or config.web.enabled:
        files[config.user_identity.users_path] = None
    for file in (config.web.oidc.client_secret_file, config.routing.webhook_secret_file):
        if file is not None:
            files[file] = None
    return [
        f"others than its owner may read {_shown(path)}: take that away with chmod 600"
        for path in files
        if _mode(path) & (stat.S_IRGRP | stat.S_IROTH)
    ]


def open_to_every_user(config: Config) -> list[str]:
    """A warning for each place with patient data that every user of this machine may read.

    The server itself creates no such place, but an earlier version or an administrator may have.
    """
    places = {"storage.directory": config.storage.directory, "logging.file": config.logging.file}
    if config.database.url is None:
        places["database.path"] = config.database.path
    if config.audit.enabled:
        places["audit.directory"] = config.audit.directory
    return [
        f"{key}: every user of this machine may look into {_shown(path)}: take that away with chmod o-rwx"
        for key, path in places.items()
        if path is not None and _mode(path) & stat.S_IRWXO
    ]


def _holds_secrets(config: Config) -> bool:
    in_file = f"{config.source} line "
    return any(
        config.where(key).startswith(in_file) and key not in config.secret_files and setting(config, key) is not None
        for key in SECRETS
    )


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else repr(text)
