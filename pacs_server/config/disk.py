"""Check the settings against the disk: directories, files and certificates. Nothing is created."""

import os
import stat
from pathlib import Path

from pacs_server.config import tls
from pacs_server.config.model import Config, setting
from pacs_server.config.secrets import remote_secret
from pacs_server.errors import UserError


def check_filesystem(config: Config) -> None:
    """Check that the directories can be created and written, and that the certificates load. Creates nothing.

    Raises ConfigError with the key and the place of the first setting that cannot work.
    """
    _check(config, "storage.directory", _cannot_hold_files(config.storage.directory))
    if config.database.url is None:
        _check(config, "database.path", _cannot_write(config.database.path))
    if config.audit.enabled:
        _check(config, "audit.directory", _cannot_hold_files(config.audit.directory))
    if config.logging.file is not None:
        _check(config, "logging.file", _cannot_write(config.logging.file))
    if config.user_identity.mode != "off" or config.web.enabled:
        _check(config, "user_identity.users_path", _cannot_tell_users(config.user_identity.users_path))
    if config.worklist.folder is not None:
        _check(config, "worklist.folder", _cannot_hold_files(config.worklist.folder))
    for number in range(len(config.remote_aes)):
        remote_secret(config, number)
    for key in ("web.oidc.client_secret_file", "routing.webhook_secret_file"):
        file = setting(config, key)
        if isinstance(file, Path):
            _check(config, key, _cannot_read(file))
    if config.web.export_directory is not None:
        _check(config, "web.export_directory", _cannot_take_exports(config, config.web.export_directory))
    tls.check(config)


def _check(config: Config, key: str, problem: str | None) -> None:
    if problem is not None:
        raise config.error(key, problem)


def _cannot_hold_files(directory: Path) -> str | None:
    for path in (directory, *directory.parents):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                return f"{path} is a link to nowhere"
            continue
        except OSError as error:
            return f"{path}: {error.strerror}"
        if not stat.S_ISDIR(mode):
            return f"{path} is not a directory"
        return None if os.access(path, os.W_OK | os.X_OK) else f"{path} is not writable"
    return f"{directory} has no parent directory"


def _cannot_take_exports(config: Config, directory: Path) -> str | None:
    """Whether exports would come to lie among the server's own files. It need not be there yet: a disk may be away."""
    path = directory.resolve()
    for key, own in (("storage.directory", config.storage.directory), ("audit.directory", config.audit.directory)):
        if path.is_relative_to(own.resolve()) or own.resolve().is_relative_to(path):
            return f"{directory} and {key} may not lie in each other"
    return None


def _cannot_tell_users(file: Path) -> str | None:
    from pacs_server.config.users import read_users  # importing argon2 takes long

    try:
        read_users(file)
    except UserError as error:
        return str(error)
    return None


def _cannot_read(file: Path) -> str | None:
    try:
        return None if file.read_text().strip() else f"{file} is empty"
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"{file} is not UTF-8 text"


def _cannot_write(file: Path) -> str | None:
    if file.is_dir():
        return f"{file} is a directory"
    if file.exists() and not os.access(file, os.W_OK):
        return f"{file} is not writable"
    return _cannot_hold_files(file.parent)
