"""Warnings about settings that work, and are less safe than they could be or do not fit the disk."""

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

from pacs_server.config.model import Config
from pacs_server.config.secrets import open_to_every_user, readable_by_others
from pacs_server.config.types import is_loopback


def cautions(config: Config) -> list[str]:
    """A sentence for each setting, or file, that is less safe than it could be, or keeps objects out."""
    found = (
        open_to_everyone(config),
        passwords_in_clear(config),
        address_as_told(config),
        *remotes_in_clear(config),
        *readable_by_others(config),
        *open_to_every_user(config),
        less_room_than_kept_free(config),
    )
    return [warning for warning in found if warning is not None]


def passwords_in_clear(config: Config) -> str | None:
    """A warning if peers may send passwords over a connection without encryption."""
    plain = not config.tls.enabled or config.tls.port is not None
    if config.user_identity.mode == "off" or not plain or is_loopback(config.server.host):
        return None
    return (
        f"{config.server.host} port {config.server.port} does not speak TLS: passwords travel in the clear, "
        "set tls.enabled without tls.port, or user_identity.mode to off"
    )


def remotes_in_clear(config: Config) -> Iterator[str]:
    """A warning for each DICOMweb remote to which patient data, or the secret to log in, go without encryption."""
    for number, remote in enumerate(config.remote_aes):
        urls = {"url": remote.url, "auth.token_url": remote.auth.token_url if remote.auth else ""}
        for key, url in urls.items():
            parts = urlsplit(url)
            if parts.scheme.lower() == "http" and not is_loopback(parts.hostname or ""):
                what = "patient data travel" if key == "url" else "the client's secret travels"
                yield f"remote_aes[{number}].{key} is not https: {what} in the clear"


def address_as_told(config: Config) -> str | None:
    """A warning if the addresses in answers are made of headers that clients may have written."""
    web = config.web
    if not web.enabled or not web.trusted_proxies or web.public_url:
        return None
    return (
        "web.trusted_proxies is set without web.public_url: the addresses in answers are as the headers of the proxy "
        "say, and a proxy that passes on what clients write there lets them choose: set web.public_url"
    )


def open_to_everyone(config: Config) -> str | None:
    """A warning if every peer may use the server, and the server listens on more than the loopback address."""
    access, tls = config.access_control, config.tls
    # If TLS has a port of its own, server.port stays plain and asks for no certificate.
    certified = tls.enabled and tls.port is None and tls.require_client_cert
    closed = access.peers or "*" not in access.allowed_ae_titles or config.user_identity.mode == "required"
    if closed or certified or is_loopback(config.server.host):
        return None
    return (
        f"everybody who reaches {config.server.host} port {config.server.port} may store, query and retrieve: "
        "set access_control.peers or access_control.allowed_ae_titles, or tls.require_client_cert"
    )


def less_room_than_kept_free(config: Config) -> str | None:
    """A warning if the disk of the storage is so small or so full that every object is refused."""
    wanted, directory = config.storage.min_free_space, config.storage.directory
    place = next((path for path in (directory, *directory.parents) if path.is_dir()), None)
    if place is None:
        return None
    disk = shutil.disk_usage(place)
    if wanted <= disk.free:
        return None
    if wanted > disk.total:
        room = f"more than the whole disk of {directory} has ({_gigabytes(disk.total)})"
    else:
        room = f"more than is free now on the disk of {directory} ({_gigabytes(disk.free)})"
    return f"storage.min_free_space: {_gigabytes(wanted)} are {room}: every object is refused"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
