"""The endpoint of a request: the same that starlette would find."""

from itertools import product

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Route
from starlette.testclient import TestClient

from pacs_server.web.dispatch import Dispatch


def route(path: str, *methods: str) -> Route:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(f"{path} {sorted(request.path_params.items())}")

    return Route(path, endpoint, methods=methods or ("GET",))


ROUTES = [
    route("/"),
    route("/studies"),
    route("/studies/{study}"),
    route("/studies/new"),  # never found: the one before it takes the path
    route("/studies/{study}/series", "GET", "POST"),
    route("/studies/{study}/series/{series}"),
    route("/series/all"),
    route("/series/{series}"),
    route("/series/{series}", "DELETE"),
    route("/files/{path:path}"),
    route("/files/{name}"),  # neither
    route("/frames/{study}/x{number}"),
    route("/frames/{other}/{number}"),
]
PARTS = ("", "studies", "series", "files", "frames", "new", "all", "1.2", "x7")


def test_every_path_goes_where_starlette_would_send_it() -> None:
    dispatch, found = Dispatch(ROUTES, {}), 0
    for length, method in product(range(1, 5), ("GET", "HEAD", "POST", "DELETE")):
        for parts in product(PARTS, repeat=length):
            path = "/" + "/".join(parts)
            if (ours := dispatch.find(path, method)) is None:
                continue
            scope = {"type": "http", "path": path, "method": method}
            theirs = next(child for each in ROUTES for match, child in [each.matches(scope)] if match is Match.FULL)
            assert ours == (theirs["endpoint"], theirs["path_params"]), (method, path)
            found += 1
    assert found > 150


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/studies/1.2", 200, "/studies/{study} [('study', '1.2')]"),
        ("HEAD", "/studies/1.2", 200, ""),
        ("GET", "/files/a/b", 200, "/files/{path:path} [('path', 'a/b')]"),
        ("GET", "/frames/1/x2", 200, "/frames/{study}/x{number} [('number', '2'), ('study', '1')]"),
        ("POST", "/studies", 405, "Method Not Allowed"),
        ("GET", "/nothing", 404, "Not Found"),
    ],
)
def test_what_is_not_found_in_this_way_starlette_answers(method: str, path: str, status: int, text: str) -> None:
    answer = TestClient(Dispatch(ROUTES, {})).request(method, path)
    assert (answer.status_code, answer.text) == (status, text)


def test_errors_are_answered_by_the_handler_of_the_nearest_type() -> None:
    async def endpoint(request: Request) -> Response:
        raise {"/a": KeyError, "/b": LookupError, "/c": HTTPException}[request.url.path](418)

    async def on_lookup(request: Request, error: Exception) -> Response:
        return PlainTextResponse("lookup")

    async def on_key(request: Request, error: Exception) -> Response:
        return PlainTextResponse("key")

    routes = [Route(path, endpoint) for path in ("/a", "/b", "/c")]
    client = TestClient(Dispatch(routes, {LookupError: on_lookup, KeyError: on_key}))
    assert [client.get(path).text for path in ("/a", "/b")] == ["key", "lookup"]
    with pytest.raises(HTTPException):
        client.get("/c")
