"""Which endpoint answers a request: looked up part by part of the path, instead of trying one route after the other.

starlette answers all that this does not find: paths with slashes in their parameters, other methods, nothing at all.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from re import compile as pattern
from typing import Any, Final, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[Request, Exception], Awaitable[Response]]
Handlers = Mapping[type[Exception], Handler]

_PARAMETER: Final = pattern(r"\{([a-zA-Z_][a-zA-Z0-9_]*)\}")


class _Node:
    """A part of paths: what may follow it, and what answers a path that ends with it."""

    __slots__ = ("any", "endpoints", "parts")

    def __init__(self) -> None:
        self.parts: dict[str, _Node] = {}
        self.any: _Node | None = None
        # By method, with the names of the parameters in the path.
        self.endpoints: dict[str, tuple[Endpoint, tuple[str, ...]]] = {}

    def child(self, part: str) -> "_Node":
        if not _PARAMETER.fullmatch(part):
            return self.parts.setdefault(part, _Node())
        self.any = self.any or _Node()
        return self.any


class Dispatch:
    """An ASGI application of these routes; `handlers` answer what they raise, by the type of the error."""

    def __init__(self, routes: Sequence[BaseRoute], handlers: Handlers) -> None:
        self.routes = routes
        self._handlers = handlers
        self._handled = tuple(handlers)
        self._others = Starlette(routes=routes, exception_handlers=cast(Mapping[Any, Any], handlers))
        self._root = _Node()
        before = _Before()
        for route in routes:
            if isinstance(route, Route) and _is_found_here(route) and not before.may_hide(route):
                self._add(route)
            before.add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for part in route.path.split("/")[1:]:
            node = node.child(part)
        names = tuple(_PARAMETER.findall(route.path))
        for method in route.methods or ():
            node.endpoints.setdefault(method, (route.endpoint, names))

    def find(self, path: str, method: str) -> tuple[Endpoint, dict[str, str]] | None:
        """The endpoint, and the parameters in the path; None if the answer is not found in this way."""
        node = self._root
        values = []
        for part in path.split("/")[1:]:
            following = node.parts.get(part)
            if following is None:
                if node.any is None or not part:
                    return None
                following = node.any
                values.append(part)
            node = following
        if (found := node.endpoints.get(method)) is None:
            return None
        endpoint, names = found
        return endpoint, dict(zip(names, values, strict=True))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        found = self.find(scope["path"], scope["method"])
        if found is None:
            await self._others(scope, receive, send)
            return
        endpoint, scope["path_params"] = found
        request = Request(scope, receive, send)
        try:
            answer = await endpoint(request)
        except self._handled as error:
            answer = await self._answer(request, error)
        # What it raises from here on cannot be answered with another status.
        await answer(scope, receive, send)

    async def _answer(self, request: Request, error: Exception) -> Response:
        handler = next(self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers)
        return await handler(request, error)


def _is_found_here(route: Route) -> bool:
    return _is_plain(route) and iscoroutinefunction(route.endpoint)


def _is_plain(route: Route) -> bool:
    """Whether the parameters of a route are whole parts of its path."""
    return all(_PARAMETER.fullmatch(part) or "{" not in part for part in route.path.split("/"))


class _Before:
    """The routes that come before another one, which may hide it."""

    def __init__(self) -> None:
        self._foreign = False
        # Of routes that are plain, only those with as many parts can hide each other.
        self._plain: dict[int, list[list[str]]] = {}
        self._others: list[list[str]] = []

    def add(self, route: BaseRoute) -> None:
        if not isinstance(route, Route):
            self._foreign = True
            return
        parts = route.path.split("/")
        alike = self._plain.setdefault(len(parts), []) if _is_plain(route) else self._others
        if parts not in alike:
            alike.append(parts)

    def may_hide(self, route: Route) -> bool:
        """Whether starlette might give paths of `route` to one of these, and `find` would not."""
        parts = route.path.split("/")
        alike = (*self._others, *self._plain.get(len(parts), ()))
        return self._foreign or any(_may_hide(theirs, parts) for theirs in alike)


def _may_hide(theirs: list[str], ours: list[str]) -> bool:
    for their, our in zip(theirs, ours, strict=False):
        if "{" in their and (not _PARAMETER.fullmatch(their) or "{" not in our):
            return True
        if "{" not in their and their != our:
            # `find` prefers the part itself to a parameter.
            return False
    return False
