"""From the settings to the remotes that the server may call, those of DICOMweb with their secrets and certificates."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pacs_server.app.assembly import entity_settings, remote_aes
from pacs_server.config.model import Config
from pacs_server.config.secrets import remote_secret
from pacs_server.config.tls import dicomweb_context
from pacs_server.scu.dicomweb.clients import DICOMwebClients
from pacs_server.scu.dicomweb.remote import ClientCredentials, DICOMwebRemote, SecretHeader
from pacs_server.scu.link import Requestor
from pacs_server.scu.pool import Pool
from pacs_server.scu.remotes import Remotes


@contextmanager
def asking(config: Config) -> Iterator[Remotes]:
    """The remotes of the settings, for a command that asks them itself. Raises ConfigError."""
    dimse = {each.name: each for each in remote_aes(config).values()}
    web, terms = dicomweb_remotes(config), entity_settings(config, None).terms
    requestor = Requestor(lambda title: None, lambda: config.server.ae_title, lambda: terms)
    remotes = Remotes(
        Pool(requestor, idle_seconds=0.0), DICOMwebClients(), lambda name: dimse.get(name) or web.get(name)
    )
    try:
        yield remotes
    finally:
        remotes.stop()


def dicomweb_remotes(config: Config) -> dict[str, DICOMwebRemote]:
    """The DICOMweb remotes by name. Raises ConfigError for secrets and certificates that cannot be used."""
    return {
        remote.name: _remote(config, number)
        for number, remote in enumerate(config.remote_aes)
        if remote.kind == "dicomweb"
    }


def _remote(config: Config, number: int) -> DICOMwebRemote:
    remote = config.remote_aes[number]
    urls = remote.url, remote.auth.token_url if remote.auth else ""
    return DICOMwebRemote(
        remote.name,
        remote.url,
        _auth(config, number),
        dicomweb_context(config, number) if any(urlsplit(url).scheme.lower() == "https" for url in urls) else None,
        remote.connect_timeout,
        remote.response_timeout,
        remote.max_associations,
        remote.rate,
        remote.transfer_syntaxes,
    )


def _auth(config: Config, number: int) -> SecretHeader | ClientCredentials | None:
    auth = config.remote_aes[number].auth
    secret = remote_secret(config, number)
    if auth is None or not secret:
        return None
    if auth.bearer_file is not None:
        return SecretHeader.bearer(secret)
    if auth.user:
        return SecretHeader.basic(auth.user, secret)
    if auth.header:
        return SecretHeader(auth.header, secret)
    return ClientCredentials(auth.token_url, auth.client_id, secret, auth.scope)
