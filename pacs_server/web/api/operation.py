"""Operations of the REST API as values: what each takes and gives, and which role it needs.

The routes (`binding.py`) and the OpenAPI document (`schema.py`) are both made from these values, so that neither can
say anything else than the other.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from pacs_server.dicom.caller import Caller, Role
from pacs_server.errors import NotAuthorised

PREFIX: Final = "/api/v1"
MAX_LIMIT: Final = 1000

Q = TypeVar("Q", bound="Parameters")
B = TypeVar("B", bound=BaseModel | None)
T = TypeVar("T")


class Parameters(BaseModel):
    """Query parameters; a parameter that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Body(BaseModel):
    """A JSON object that a request carries; a member that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Answer(BaseModel):
    """A JSON object that an answer carries."""

    model_config = ConfigDict(frozen=True, defer_build=True)


Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT, description="How many to give at most.")]


class Paging(Parameters):
    """Which page of a list: `limit` rows, behind the row at which the page before ended."""

    limit: Limit = 100
    # An id has 64 bits in the database.
    after: Annotated[int | None, Field(ge=1, lt=1 << 63, description="As in the link `next` of the page before.")] = (
        None
    )


class Page(Answer, Generic[T]):
    """One page of a list, the newest first."""

    items: Annotated[list[T], Field(description="The rows of this page.")]
    next: Annotated[str | None, Field(description="The address of the next page; null if this is the last one.")] = None


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request: who asks, the parts of the path, the query parameters, the body, and the value of If-Match.

    `base` is the address of the server, and `address` that of the request without its query. `is_caller_still` says
    whether the caller would be let in now as well, with the same role and limits.
    """

    caller: Caller
    path: Mapping[str, str]
    query: Q
    body: B
    base: str
    address: str
    is_caller_still: Callable[[], Awaitable[bool]]
    if_match: str | None = None
    last_event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with headers of its own."""

    answer: Answer
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation.

    `path` lies below /api/v1 and has its parameters in braces; `parts` says what each of them is. `run` is called in a
    thread and returns the answer, or None for an operation without one; `respond` is called on the event loop instead.
    `errors` says when the operation answers a status other than those that every operation may answer.
    """

    method: str
    path: str
    name: str
    summary: str
    role: Role
    tag: str
    run: Callable[[Call[Any, Any]], Answer | Reply | None] | None = None
    respond: Callable[[Call[Any, Any]], Awaitable[Response]] | None = None
    query: type[Parameters] = Parameters
    body: type[BaseModel] | None = None
    answer: type[Answer] | None = None
    media_type: str = "application/json"
    status: int = 200
    parts: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)
    description: str = ""


def unlimited(call: Call[Any, Any]) -> None:
    """Raise NotAuthorised if the caller may see only a part of the archive: this resource is about all of it."""
    if call.caller.scope.is_limited:
        raise NotAuthorised("this is about the whole archive, and your account is limited to a part of it")
