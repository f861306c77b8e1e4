"""Add an access rule to the configuration file. All else in the file stays byte for byte, with its comments.

The file is the operator's. So a change is made only where it is sure what it does: the settings are read from the text
before and after it, and nothing but `access_control.peers` may differ, by this one rule.
"""

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pacs_server.config.load import load
from pacs_server.config.model import Config, changed
from pacs_server.config.sections.access_control import PeerRule
from pacs_server.config.yaml import Outline, outline, read
from pacs_server.errors import ConfigError
from pacs_server.kit.private_files import sync_directory

_KEY: Final = "access_control.peers"
_BOM: Final = "\ufeff"
# One change at a time in this process.
_LOCK: Final = threading.Lock()


def with_rule(path: Path, rule: PeerRule, lines: Sequence[str], environ: Mapping[str, str]) -> str:
    """The text of a configuration file with one more access rule, behind all others; `lines` is that rule as YAML.

    Raises ConfigError with what is in the way, if the rule cannot be added by adding lines.
    """
    text = read(path)
    before = load(path, environ=environ, overrides={})
    edited = _added(text, outline(text), lines)
    try:
        after = load(path, environ=environ, overrides={}, text=edited)
    except ConfigError as error:
        raise ConfigError(f"with these lines {error}") from error
    _check(before, after, rule)
    return edited


def add_rule(path: Path, rule: PeerRule, lines: Sequence[str], environ: Mapping[str, str]) -> None:
    """Add an access rule to a configuration file, at once or not at all; mode and owner of the file stay.

    Raises ConfigError if that is not possible; then the file is as it was.
    """
    with _LOCK:
        edited = with_rule(path, rule, lines, environ)
        try:
            _replace(Path(os.path.realpath(path)), read(path), edited)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def unwritable(path: Path) -> str | None:
    """Why a configuration file cannot be replaced by this process, as far as that is known before; None if it can."""
    real = Path(os.path.realpath(path))
    if os.access(real.parent, os.W_OK | os.X_OK) and os.access(real, os.W_OK) and not os.path.ismount(real):
        return None
    return f"{path} may not be written by the server"


def _check(before: Config, after: Config, rule: PeerRule) -> None:
    """Raise ConfigError if the change does more or less than to add the rule."""
    differs = changed(before, after)
    if not differs:
        raise ConfigError(f"{_KEY} is set elsewhere: {before.where(_KEY)}")
    if "access_control.allowed_ae_titles" in differs:
        raise ConfigError("the first rule would shut out all other peers, because allowed_ae_titles is not set")
    if differs != [_KEY] or after.access_control.peers != (*before.access_control.peers, rule):
        raise ConfigError(f"the lines would change something else: {', '.join(differs)}")


# ------------------------------------------------------------------------------------ the text


def _added(text: str, root: Outline | None, lines: Sequence[str]) -> str:
    if root is not None and (root.kind != "mapping" or root.is_flow):
        raise ConfigError("the file has a form in which lines cannot be added")
    access = None if root is None else root.members.get("access_control")
    if access is None:
        # Behind everything, also behind comments at the end.
        return _insert(text, len(text.splitlines()), ["", "access_control:", "  peers:", *_indented(lines, 4)])
    if access.is_empty:
        return _insert(text, access.line + 1, ["  peers:", *_indented(lines, 4)])
    if access.kind != "mapping" or access.is_flow:
        raise ConfigError("access_control is written in braces, in which lines cannot be added")
    peers = access.members.get("peers")
    if peers is None:
        start = " " * access.column
        return _insert(text, access.last_line + 1, [f"{start}peers:", *_indented(lines, access.column + 2)])
    if peers.kind != "sequence":
        raise ConfigError(f"{_KEY} is no list")
    if peers.is_flow:
        return _insert(_without_brackets(text, peers), peers.line + 1, _indented(lines, access.column + 2))
    return _insert(text, peers.last_line + 1, _indented(lines, peers.column))


def _without_brackets(text: str, peers: Outline) -> str:
    """The text without the brackets of an empty list."""
    if peers.length or peers.line != peers.last_line:
        raise ConfigError(f"{_KEY} is written in brackets, in which lines cannot be added")
    lines = text.splitlines(keepends=True)
    line = lines[peers.line]
    lines[peers.line] = f"{line[: peers.column].rstrip()}{line[peers.end :]}"
    return "".join(lines)


def _indented(lines: Sequence[str], column: int) -> list[str]:
    return [" " * column + line for line in lines]


def _insert(text: str, number: int, added: Sequence[str]) -> str:
    """The text with lines in front of the line of that number, which may be the one behind the last."""
    lines = text.splitlines(keepends=True)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if number and not lines[number - 1].endswith(("\n", "\r")):
        lines[number - 1] += newline
    lines[number:number] = [line + newline for line in added]
    return "".join(lines)


# ------------------------------------------------------------------------------------ the file


def _replace(path: Path, before: str, after: str) -> None:
    """Put the text in the place of the file. Raises OSError, and ConfigError if it has changed meanwhile."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    data = path.read_bytes()
    has_bom = data.decode().startswith(_BOM)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _like(path, temporary)
            file.write(((_BOM if has_bom else "") + after).encode())
            file.flush()
            os.fsync(file.fileno())
        if read(path) != before:
            raise ConfigError(f"{path} has changed meanwhile, look at it again")
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def _like(path: Path, temporary: Path) -> None:
    """Give the new file owner, mode and other attributes of the old one. Raises OSError."""
    old, new = path.stat(), temporary.stat()
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        os.chown(temporary, old.st_uid, old.st_gid)
    shutil.copystat(path, temporary)
    os.utime(temporary)
