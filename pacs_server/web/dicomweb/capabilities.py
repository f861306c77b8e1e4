"""What the DICOMweb services can do, told to machines by OPTIONS (PS3.18 8.9, Annex H).

It is told for every resource, with all that lies below it, as a WADL document or as the same in JSON. There is one
route for each resource, so that the header Allow names all of its methods, whichever module answers them.
"""

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.config.model import Config
from pacs_server.web.accept import choose
from pacs_server.web.dicomweb.media_types import PLAIN_JSON
from pacs_server.web.dicomweb.resources import BASE
from pacs_server.web.dicomweb.transactions import TRANSACTIONS
from pacs_server.web.urls import base_url

WADL: Final = "application/vnd.sun.wadl+xml"
_OFFERED: Final = (WADL, PLAIN_JSON, "application/xml", "text/xml")

Endpoint = Callable[[Request], Awaitable[Response]]
Tree = dict[str, Any]


def with_capabilities(routes: Iterable[Route], config: Callable[[], Config]) -> list[Route]:
    """The same resources, each of them once with all its methods and OPTIONS, and the root of the service.

    Raises KeyError for a transaction that is missing in `TRANSACTIONS`.
    """
    endpoints: dict[str, dict[str, Endpoint]] = {BASE: {}, f"{BASE}/": {}}
    for route in routes:
        methods = route.methods or set()
        for method in methods - {"HEAD"}:
            TRANSACTIONS[method, route.path]
        endpoints.setdefault(route.path, {}).update(dict.fromkeys(methods, route.endpoint))
    return [_resource(path, methods, config) for path, methods in endpoints.items()]


def _resource(path: str, methods: dict[str, Endpoint], config: Callable[[], Config]) -> Route:
    allowed = sorted({*methods, "OPTIONS"})

    async def answer(request: Request) -> Response:
        if request.method == "OPTIONS":
            return _told(request, path.rstrip("/"), ", ".join(allowed), config())
        return await methods[request.method](request)

    return Route(path, answer, methods=allowed)


def _told(request: Request, path: str, allowed: str, config: Config) -> Response:
    media_type = choose(request, _OFFERED)
    base = f"{base_url(request, config.web)}{BASE}"
    tree = _tree(path)
    text = json.dumps(_json(base, tree)) if media_type == PLAIN_JSON else _wadl(base, path, tree)
    return Response(text, headers={"content-type": media_type, "allow": allowed, "vary": "accept"})


def _tree(path: str) -> Tree:
    """The transactions of a resource and of all below it: methods, and resources by the next part of their path."""
    tree: Tree = {"methods": {}, "resources": {}}
    for (method, resource), transaction in TRANSACTIONS.items():
        if resource == path or resource.startswith(f"{path}/"):
            node = tree
            for part in resource.removeprefix(path).split("/")[1:]:
                node = node["resources"].setdefault(part.replace(":path", ""), {"methods": {}, "resources": {}})
            node["methods"][method] = transaction
    return tree


def _json(base: str, node: Tree) -> dict[str, Any]:
    methods = {
        method: {"id": each.identifier, "request": list(each.takes), "response": list(each.answers)}
        for method, each in node["methods"].items()
    }
    told: dict[str, Any] = {"base": base} if base else {}
    return told | {"methods": methods, "resources": {part: _json("", each) for part, each in node["resources"].items()}}


def _wadl(base: str, path: str, tree: Tree) -> str:
    root = path.removeprefix(BASE).strip("/")
    inner = "".join(_xml_resource(part, node) for part, node in tree["resources"].items())
    if root:
        inner = f"<resource path={quoteattr(root)}>{_xml_methods(tree)}{inner}</resource>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<application xmlns="http://wadl.dev.java.net/2009/02">'
        f"<resources base={quoteattr(base)}>{inner}</resources></application>\n"
    )


def _xml_resource(part: str, node: Tree) -> str:
    inner = "".join(_xml_resource(name, each) for name, each in node["resources"].items())
    return f"<resource path={quoteattr(part)}>{_xml_methods(node)}{inner}</resource>"


def _xml_methods(node: Tree) -> str:
    return "".join(
        f"<method name={quoteattr(method)} id={quoteattr(each.identifier)}>"
        f"{_representations('request', each.takes)}{_representations('response', each.answers)}</method>"
        for method, each in node["methods"].items()
    )


def _representations(name: str, media_types: Iterable[str]) -> str:
    inner = "".join(f"<representation mediaType={quoteattr(each)}/>" for each in media_types)
    return f"<{name}>{inner}</{name}>" if inner else ""
