"""The address under which clients reach this server, for the URLs in its answers."""

from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from pacs_server.config.sections.web import WebConfig

_PORTS: Final = {"http": 80, "https": 443}


def base_url(request: HTTPConnection, settings: WebConfig) -> str:
    """The address of this server without a slash at its end, such as http://127.0.0.1:8080.

    That is `web.public_url`, or what the request says: for a proxy in `web.trusted_proxies` its forwarding headers
    count, else the Host header, with the port of this server if the client left it out.
    """
    if settings.public_url:
        return settings.public_url
    scheme, host = str(request.scope["scheme"]), request.headers.get("host", "")
    if from_trusted_proxy(request, settings):
        scheme, host, prefix = _forwarded(request, scheme, host)
        return f"{scheme}://{host}{prefix}"
    server = request.scope.get("server") or ("127.0.0.1", None)
    if not host:
        host = f"[{server[0]}]" if ":" in server[0] else server[0]
    if server[1] and server[1] != _PORTS[scheme] and not _has_port(host):
        host = f"{host}:{server[1]}"
    return f"{scheme}://{host}"


def is_same_origin(request: HTTPConnection, settings: WebConfig) -> bool:
    """Whether a request comes from no page at all, from a page of ours, or from one of an allowed origin.

    That every origin may read answers does not make it an allowed one.
    """
    origin = request.headers.get("origin")
    if origin is None:
        return request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    ours = urlsplit(base_url(request, settings))
    return origin.lower() in (f"{ours.scheme}://{ours.netloc}".lower(), *settings.cors_origins)


def local_target(target: str) -> str:
    """The path and query of a page of ours to go on with; `/` for whatever might lead elsewhere."""
    odd = not target.isprintable() or "\\" in target or " " in target
    # What begins with two slashes would name a host, and may be no URL at all.
    if odd or not target.startswith("/") or target.startswith("//"):
        return "/"
    parts = urlsplit(target)
    return "/" if parts.scheme or parts.netloc else target


def from_trusted_proxy(request: HTTPConnection, settings: WebConfig) -> bool:
    """Whether the request comes from a proxy whose forwarding headers count."""
    client = request.client
    # Nearly all servers have no proxies, and parsing the address takes longer than all else here.
    if not settings.trusted_proxies or client is None:
        return False
    return settings.is_trusted_proxy(ip_address(client.host.partition("%")[0]))


def _has_port(host: str) -> bool:
    return host.rpartition("]")[2].count(":") == 1


def is_contradictory(request: HTTPConnection, settings: WebConfig) -> bool:
    """Whether a trusted proxy passes on both `Forwarded` and `X-Forwarded-*`.

    A proxy writes one kind and lets the other through as the client has sent it; nothing tells which is which.
    """
    headers = request.headers
    if "forwarded" not in headers or not from_trusted_proxy(request, settings):
        return False
    return any(name.startswith("x-forwarded-") for name in headers)


def _forwarded(request: HTTPConnection, scheme: str, host: str) -> tuple[str, str, str]:
    """Scheme, host and path prefix as the nearest proxy tells them: Forwarded (RFC 7239), or X-Forwarded-*."""
    told = {
        name.strip().lower(): value.strip().strip('"')
        for pair in _last(request, "forwarded").split(";")
        for name, found, value in [pair.partition("=")]
        if found
    }
    scheme = told.get("proto") or _last(request, "x-forwarded-proto") or scheme
    host = told.get("host") or _last(request, "x-forwarded-host") or host
    port = _last(request, "x-forwarded-port")
    if port.isdecimal() and not _has_port(host) and int(port) != _PORTS.get(scheme):
        host = f"{host}:{port}"
    prefix = _last(request, "x-forwarded-prefix").rstrip("/")
    return (scheme if scheme in _PORTS else "http"), host, prefix if prefix.startswith("/") else ""


def _last(request: HTTPConnection, name: str) -> str:
    """The last element of all lines of a header: what stands before it anybody may have written."""
    return ",".join(request.headers.getlist(name)).rpartition(",")[2].strip()
