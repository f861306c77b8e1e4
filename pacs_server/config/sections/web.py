"""The section `web`: the HTTP door, for DICOMweb, the REST API and browsers."""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.rights import RoleName
from pacs_server.config.types import (
    Count,
    Duration,
    Host,
    Live,
    Network,
    OptionalPath,
    Port,
    Restart,
    Section,
    is_loopback,
    parse_size,
)

_ORIGIN = re.compile(r"https?://[a-z0-9.\-\[\]:]+", re.IGNORECASE)
_URL = re.compile(r"https?://[^\s?#/]+(/[^\s?#]*)?", re.IGNORECASE)


def _check_origin(origin: str) -> str:
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{origin[:60]!r} is not an origin such as https://viewer.example.org, without a path")
    return origin.lower()


def _check_public_url(url: str) -> str:
    if url and not _URL.fullmatch(url):
        raise ValueError(f"{url[:60]!r} is not an address such as https://pacs.example.org/pacs")
    return url.rstrip("/")


_Origin = Annotated[str, AfterValidator(_check_origin)]
_PublicURL = Annotated[str, AfterValidator(_check_public_url)]
_Size = Annotated[int, Field(ge=0), BeforeValidator(parse_size)]


class WebTLSConfig(Section):
    """HTTPS: the certificate of the HTTP door, and the authority of its clients' certificates."""

    enabled: Restart[bool] = False
    cert_path: Live[OptionalPath] = None
    key_path: Live[OptionalPath] = None
    client_ca_path: Live[OptionalPath] = None
    require_client_cert: Live[bool] = False

    @model_validator(mode="after")
    def _what_it_needs(self) -> "WebTLSConfig":
        needs = [("cert_path", self.enabled and self.cert_path is None)]
        needs.append(("key_path", self.enabled and self.key_path is None))
        needs.append(("client_ca_path", self.require_client_cert and self.client_ca_path is None))
        for key, missing in needs:
            if missing:
                raise PydanticCustomError("missing_path", "is needed for HTTPS", {"key": f"web.tls.{key}"})
        return self


class WebSessionsConfig(Section):
    """How long a login lasts, in seconds: `lifetime` at most, and `idle` without a request."""

    lifetime: Live[Duration] = 43_200.0
    idle: Live[Duration] = 3_600.0


class WebShareLinksConfig(Section):
    """Links that show one study to somebody without an account, for `lifetime` seconds at most."""

    enabled: Live[bool] = False
    lifetime: Live[Duration] = 604_800.0


class OIDCConfig(Section):
    """Login by an OpenID Connect provider; `roles_claim` is a path into the token, such as realm_access.roles."""

    issuer: Restart[str] = ""
    client_id: Restart[str] = ""
    client_secret_file: Restart[OptionalPath] = None
    roles_claim: Live[str] = "roles"
    role_map: Live[Annotated[Mapping[str, RoleName], Field(strict=False)]] = {}  # noqa: RUF012 - pydantic copies it

    @model_validator(mode="after")
    def _a_client(self) -> "OIDCConfig":
        if self.issuer and not self.client_id:
            raise PydanticCustomError("client", "is needed with web.oidc.issuer", {"key": "web.oidc.client_id"})
        return self


class WebConfig(Section):
    """The HTTP door; port 0 takes any free port, and `max_body` 0 sets no limit, in bytes."""

    enabled: Restart[bool] = True
    host: Restart[Host] = "127.0.0.1"
    port: Restart[Port] = 8080
    public_url: Live[_PublicURL] = ""
    trusted_proxies: Live[Annotated[tuple[Network, ...], Field(strict=False)]] = ()
    cors_origins: Live[Annotated[tuple[_Origin, ...], Field(strict=False)]] = ()
    max_connections: Live[Count] = 200
    max_body: Live[_Size] = 0
    viewer_path: Live[OptionalPath] = None
    export_directory: Live[OptionalPath] = None
    tls: WebTLSConfig = WebTLSConfig()
    sessions: WebSessionsConfig = WebSessionsConfig()
    share_links: WebShareLinksConfig = WebShareLinksConfig()
    oidc: OIDCConfig = OIDCConfig()

    @model_validator(mode="after")
    def _not_in_the_clear(self) -> "WebConfig":
        if self.enabled and not (self.tls.enabled or self.trusted_proxies or is_loopback(self.host)):
            text = f"is needed where others can reach the port ({self.host}); or name the proxy in web.trusted_proxies"
            raise PydanticCustomError("clear", "{text}", {"text": text, "key": "web.tls.enabled"})
        return self

    @model_validator(mode="after")
    def _an_address_for_the_provider(self) -> "WebConfig":
        if self.oidc.issuer and not self.public_url:
            text = "is needed with web.oidc.issuer: the provider sends browsers back to it"
            raise PydanticCustomError("public_url", "{text}", {"text": text, "key": "web.public_url"})
        return self

    def is_trusted_proxy(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether the forwarding headers of requests from this address count."""
        return any(address in network for network in self.trusted_proxies)
