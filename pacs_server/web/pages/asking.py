"""What pages know they know from the REST API: they ask its operations in the same process, as the same caller.

So a page shows and does nothing that a program could not, and roles, limits and the audit trail are the same for both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import StreamingResponse

from pacs_server.services.access import require
from pacs_server.web.api.binding import Address, body_of, call_of, parameters
from pacs_server.web.api.operation import Call, Operation, Reply
from pacs_server.web.caller import OPERATION, caller_of
from pacs_server.web.threads import in_thread

Values = Mapping[str, object]
_NONE: Final[Values] = {}


class Asking:
    """Asks operations of the REST API by their name."""

    def __init__(self, operations: Sequence[Operation], base: Address) -> None:
        self._operations = {operation.name: operation for operation in operations}
        self._base = base

    def may(self, request: Request, name: str) -> bool:
        """Whether the role of the caller is enough for an operation."""
        return caller_of(request).role >= self._operations[name].role

    async def __call__(
        self,
        request: Request,
        name: str,
        path: Values = _NONE,
        query: Values = _NONE,
        body: Values | None = None,
        *,
        if_match: str | None = None,
    ) -> Any:
        """The answer of an operation: a value of its model, or None.

        `query` leaves out what is None or empty; a list stands for a parameter that is given several times. `if_match`
        is the ETag of what is to be changed, as it was read. Raises NotAuthorised, InvalidRequest, and what the
        operation raises.
        """
        operation = self._operations[name]
        call = self._call(request, operation, path, query, body)
        result = await _run(operation, call if if_match is None else replace(call, if_match=if_match))
        return result.answer if isinstance(result, Reply) else result

    async def tagged(self, request: Request, name: str, path: Values) -> tuple[Any, str]:
        """The answer of an operation that names a state, and the ETag of that state. Raises as calling does."""
        operation = self._operations[name]
        result = await _run(operation, self._call(request, operation, path, _NONE, None))
        assert isinstance(result, Reply), f"{name} has no ETag"
        return result.answer, result.headers["ETag"]

    async def whole(self, request: Request, name: str, path: Values, most: int) -> bytes | None:
        """The whole body of an operation that has an answer of its own kind; None if it is larger than `most` bytes.

        Raises as calling does.
        """
        operation = self._operations[name]
        assert operation.respond is not None, f"{name} has an answer of a model"
        response = await operation.respond(self._call(request, operation, path, _NONE, None))
        assert isinstance(response, StreamingResponse)
        found = bytearray()
        async for piece in response.body_iterator:
            found += piece.encode() if isinstance(piece, str) else piece
            if len(found) > most:
                return None
        return bytes(found)

    def _call(
        self, request: Request, operation: Operation, path: Values, query: Values, body: Values | None
    ) -> Call[Any, Any]:
        caller = caller_of(request)
        request.scope[OPERATION] = operation.name
        require(caller, operation.role)
        return call_of(
            request,
            self._base(request),
            {key: str(value) for key, value in path.items()},
            parameters(_query(query), operation.query, caller.scope),
            None if operation.body is None else body_of(json.dumps(body or {}).encode(), operation.body),
        )


async def _run(operation: Operation, call: Call[Any, Any]) -> Any:
    assert operation.run is not None, f"{operation.name} has an answer of its own kind"
    return await in_thread(operation.run, call)


def _query(values: Values) -> QueryParams:
    pairs = []
    for name, value in values.items():
        several = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, _text(each)) for each in several if each is not None and each != ""]
    return QueryParams(pairs)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
