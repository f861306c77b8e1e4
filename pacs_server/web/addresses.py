"""Where a request comes from: the address of the client, also behind trusted proxies, and how it reached us."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from starlette.requests import HTTPConnection

from pacs_server.config.sections.web import WebConfig
from pacs_server.config.types import is_loopback
from pacs_server.kit.addresses import plain_address
from pacs_server.web.urls import base_url, from_trusted_proxy

# Headers by which proxies tell that a request was made elsewhere.
_FORWARDING: Final = (b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip")


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who is at the other end of a request, as far as the connection tells.

    `certificate` holds the names in a client certificate that was checked. A visitor is `local` if the request was made
    on this machine and no proxy has passed it on.
    """

    address: str
    https: bool
    local: bool
    certificate: tuple[str, ...] = ()


def visitor_of(request: HTTPConnection, settings: WebConfig) -> Visitor:
    """The visitor that makes a request; forwarding headers count only if a trusted proxy has sent them."""
    peer = request.client.host if request.client is not None else ""
    tls: dict[str, Any] = (request.scope.get("extensions") or {}).get("tls") or {}
    names = tuple(tls.get("peer_names", ()))
    if from_trusted_proxy(request, settings):
        # The certificate, if any, is the proxy's.
        return Visitor(_client(request, settings, peer), base_url(request, settings).startswith("https:"), local=False)
    server: tuple[str, Any] = request.scope.get("server") or ("", None)
    local = is_loopback(peer) and is_loopback(server[0]) and not is_forwarded(request)
    return Visitor(peer, request.scope["scheme"] == "https", local, names)


def is_forwarded(request: HTTPConnection) -> bool:
    """Whether a proxy says that it passes the request on for somebody else."""
    # The names are in lower case, see `read_head`; headers that are decoded one by one would take ten times as long.
    return any(name in _FORWARDING or name.startswith(b"x-forwarded-") for name, _ in request.scope["headers"])


def _client(request: HTTPConnection, settings: WebConfig, peer: str) -> str:
    """The nearest address that is no trusted proxy's: what stands before it in the headers anybody may have written."""
    client = peer
    for text in _told(request):
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return client
        client = text
        if not settings.is_trusted_proxy(address):
            return client
    return client


def _told(request: HTTPConnection) -> Iterator[str]:
    """The addresses that the headers name, the last one first."""
    forwarded = ",".join(request.headers.getlist("forwarded"))
    if forwarded:
        for element in reversed(forwarded.split(",")):
            pairs = (pair.partition("=") for pair in element.split(";"))
            yield next((_bare(value) for name, _, value in pairs if name.strip().lower() == "for"), "")
        return
    for text in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
        yield _bare(text)


def _bare(text: str) -> str:
    """An address without quotes, brackets and port."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return plain_address(text)
