"""From operations to routes: check the role, read and check the request, run the operation, write its answer."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar, get_args, get_origin
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pacs_server.dicom.scope import Scope
from pacs_server.errors import InvalidRequest
from pacs_server.services.access import require
from pacs_server.web.api.hidden_numbers import inward, outward
from pacs_server.web.api.operation import PREFIX, Answer, Call, Operation, Page, Parameters, Reply
from pacs_server.web.caller import OPERATION, caller_of, is_caller_still

MAX_BODY: Final = 1 << 20
_JSON: Final = "application/json"
# Control characters but for tab and line ends, and halves of characters.
_NO_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Address = Callable[[Request], str]
R = TypeVar("R")


def routes_of(operations: Sequence[Operation], base: Address) -> list[Route]:
    """The routes of operations, one for each path; `base` gives the address of the server for a request."""
    paths: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = operation
    return [Route(PREFIX + path, _handler(found, base), methods=list(found)) for path, found in paths.items()]


def _handler(operations: Mapping[str, Operation], base: Address) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        operation = operations["GET" if request.method == "HEAD" else request.method]
        caller = caller_of(request)
        request.scope[OPERATION] = operation.name
        require(caller, operation.role)
        query = parameters(request.query_params, operation.query, caller.scope)
        call = call_of(request, base(request), request.path_params, query, await _body(request, operation.body))
        if operation.respond is not None:
            if request.method == "HEAD" and operation.media_type == "text/event-stream":
                # A stream of events does not end.
                return Response(media_type=operation.media_type)
            return await operation.respond(call)
        assert operation.run is not None
        return _response(operation, await run_in_threadpool(operation.run, call))

    return handle


def call_of(
    request: Request, base: str, path: Mapping[str, str], query: Parameters, body: BaseModel | None
) -> Call[Any, Any]:
    """What an operation is asked: these parts of the path, parameters and body, by the caller of a request.

    Raises InvalidRequest.
    """
    check_texts(path, "the path")
    return Call(
        caller=caller_of(request),
        path=path,
        query=query,
        body=body,
        base=base,
        address=f"{base}{request.url.path}",
        is_caller_still=partial(is_caller_still, request),
        if_match=request.headers.get("if-match"),
        last_event_id=request.headers.get("last-event-id"),
    )


def parameters(given: QueryParams, model: type[Parameters], scope: Scope) -> Parameters:
    """Query parameters as `model` knows them, with places in lists as the database does. Raises InvalidRequest."""
    return _with_plain_place(_parameters(given, model), scope)


def body_of(data: bytes, model: type[BaseModel]) -> BaseModel:
    """The JSON object of a body as `model` knows it. Raises InvalidRequest."""
    try:
        found = model.model_validate_json(data)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error)) from None
    check_texts(found.model_dump(), "the body")
    return found


def _parameters(given: QueryParams, model: type[Parameters]) -> Parameters:
    values: dict[str, Any] = {}
    for name in given:
        several = given.getlist(name)
        check_texts(several, name[:64])
        field = model.model_fields.get(name)
        if field is None:
            raise InvalidRequest(f"there is no parameter {name[:64]!r}; {_known(model)}")
        if _is_list(field.annotation):
            values[name] = several
        elif len(several) > 1:
            raise InvalidRequest(f"{name} is given more than once")
        else:
            values[name] = several[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(_sentence(error)) from None


def _with_plain_place(query: Parameters, scope: Scope) -> Parameters:
    """The parameters with the id of the row behind which the page begins, as the database knows it."""
    after = getattr(query, "after", None)
    if not isinstance(after, int):
        return query
    known = inward(after, scope)
    if known is None:
        raise InvalidRequest("after is from no link that this server has given since it started: list from the start")
    return query.model_copy(update={"after": known})


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple) or any(map(_is_list, get_args(annotation)))


def _known(model: type[Parameters]) -> str:
    names = ", ".join(model.model_fields)
    return f"those known here are {names}" if names else "this takes none"


async def _body(request: Request, model: type[BaseModel] | None) -> BaseModel | None:
    if model is None:
        return None
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _JSON:
        raise HTTPException(415, f"send a JSON object, with the header Content-Type: {_JSON}")
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    return body_of(bytes(data), model)


def check_texts(value: object, where: str) -> None:
    """Raise InvalidRequest if there is a text that no name, reason or attribute has and databases do not take."""
    if isinstance(value, str):
        if _NO_TEXT.search(value):
            raise InvalidRequest(f"{where} holds a control character")
    elif isinstance(value, Mapping):
        for name, each in value.items():
            check_texts(name, where)
            check_texts(each, where)
    elif isinstance(value, list | tuple):
        for each in value:
            check_texts(each, where)


def _sentence(error: ValidationError) -> str:
    """What is wrong with a request; values are not quoted, because they may be patient data."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else f"the body is not as it has to be: {message}"


def _response(operation: Operation, result: Answer | Reply | None) -> Response:
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if isinstance(result, Reply):
        headers |= result.headers
        result = result.answer
    if result is None:
        return Response(status_code=204, headers=headers)
    if isinstance(result, Page) and result.next is not None:
        headers["Link"] = f'<{result.next}>; rel="next"'
    return Response(result.model_dump_json(), operation.status, headers, operation.media_type)


def paged(call: Call[Any, Any], rows: Sequence[R], key: str = "id") -> tuple[Sequence[R], str | None]:
    """The rows of the page that is asked for, and the address of the next one.

    `rows` has one row more than that if there are any; `key` is the field behind which the next page begins.
    """
    shown = rows[: call.query.limit]
    return shown, next_address(call, getattr(shown[-1], key) if len(rows) > len(shown) else None)


def next_address(call: Call[Any, Any], after: object, **other: object) -> str | None:
    """The address of the next page, which begins behind `after`; None if there is none. `other` parameters change."""
    if after is None:
        return None
    if isinstance(after, int):
        after = outward(after, call.caller.scope)
    given = call.query.model_dump(mode="json", exclude_unset=True) | other | {"after": after}
    return f"{call.address}?{urlencode(given, doseq=True)}"
