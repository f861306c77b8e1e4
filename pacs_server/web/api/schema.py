"""**The** OpenAPI document of the REST API, made from its operations."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from pacs_server import __version__
from pacs_server.web.api.operation import PREFIX, Answer, Operation

_REF: Final = "#/components/schemas/{model}"
_CONVERTOR: Final = re.compile(r"\{(\w+)(?::\w+)?\}")
_PROBLEM: Final = "application/problem+json"
_ALWAYS: Final = {
    400: "The request breaks a rule; `detail` says which.",
    401: "You have to log in.",
    403: "Your role or your limits do not allow this.",
    503: "The database, the storage or the audit trail is not available now; try again.",
}
_WITH_BODY: Final = {413: "The body is too large.", 415: "The body is not application/json."}
_SECURITY: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`pacs-server key create`), or a token of the configured OpenID Connect provider.",
    },
    "basic": {"type": "http", "scheme": "basic", "description": "A user and password, over HTTPS or on this machine."},
}
_DESCRIPTION: Final = (
    "What the archive knows and holds, for pages and scripts. Lists come in pages, the newest first: follow the link "
    "`next`. Errors are problem details (RFC 9457) with one sentence in `detail`. The roles are reader, contributor, "
    "operator and administrator; each may do what those before it may."
)


class Problem(Answer):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


def openapi(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document, OpenAPI 3.1."""
    inputs = {model for one in operations for model in (one.query, one.body) if model is not None}
    outputs = {one.answer for one in operations if one.answer is not None} | {Problem}
    wanted = [*((model, "validation") for model in inputs), *((model, "serialization") for model in outputs)]
    wanted.sort(key=lambda each: each[0].__name__)
    names, document = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    schemas = document["$defs"]
    references = {model: names[model, mode]["$ref"] for model, mode in wanted}  # type: ignore[index]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        described = _operation(operation, references, schemas)
        paths.setdefault(public_path(operation.path), {})[operation.method.lower()] = described
    # Query parameters are listed one by one, so that their models are no schemas of their own.
    for model in {operation.query for operation in operations}:
        schemas.pop(_name(references[model]), None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pacs-server", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": PREFIX}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": _SECURITY},
        "security": [{"bearer": []}, {"basic": []}, {}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
    }


def public_path(path: str) -> str:
    """The path with its parameters as OpenAPI writes them."""
    return _CONVERTOR.sub(r"{\1}", path)


def _name(reference: str) -> str:
    return reference.rpartition("/")[2]


def _operation(
    operation: Operation, references: Mapping[type[BaseModel], str], schemas: Mapping[str, Any]
) -> dict[str, Any]:
    role = operation.role.name.lower()
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": f"{operation.description} Needs the role {role}.".strip(),
        "tags": [operation.tag],
        "x-role": role,
        "parameters": [*_parts(operation), *_parameters(schemas[_name(references[operation.query])])],
        "responses": _responses(operation, references),
    }
    if operation.body is not None:
        content = {"application/json": {"schema": {"$ref": references[operation.body]}}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parts(operation: Operation) -> Iterator[dict[str, Any]]:
    for name in _CONVERTOR.findall(operation.path):
        described = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        yield described | {"description": operation.parts[name]}


def _parameters(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    required = schema.get("required", ())
    for name, each in schema.get("properties", {}).items():
        kept = {key: value for key, value in each.items() if key not in ("title", "description")}
        parameter = {"name": name, "in": "query", "required": name in required, "schema": kept}
        yield parameter | ({"description": each["description"]} if "description" in each else {})


def _responses(operation: Operation, references: Mapping[type[BaseModel], str]) -> dict[str, Any]:
    status = operation.status if operation.answer is not None or operation.respond is not None else 204
    good: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if operation.answer is not None:
        good["content"] = {operation.media_type: {"schema": {"$ref": references[operation.answer]}}}
    elif operation.respond is not None:
        good["content"] = {operation.media_type: {"schema": {"type": "string"}}}
    errors = {**_ALWAYS, **(_WITH_BODY if operation.body is not None else {}), **operation.errors}
    problem = {_PROBLEM: {"schema": {"$ref": references[Problem]}}}
    told = {str(code): {"description": text, "content": problem} for code, text in sorted(errors.items())}
    return {str(status): good} | told
