"""**The** table of HTTP statuses: which error is answered with which status, and as what (RFC 9457 problem details)."""

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs_server import errors
from pacs_server.errors import FilesMissing, PacsError
from pacs_server.web.logged import logged_path

log = logging.getLogger(__name__)

# What cannot be done now may be asked for again after so many seconds.
_SECONDS: Final = "10"

# What is wrong may be wrong with the templates of the pages too, so this needs none.
_FAULT_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>That did not work</title>
<h1>That did not work</h1>
<p>This is a fault of the server, and nothing that was typed or clicked. Go back and use another page meanwhile.</p>
<p>Please tell who looks after the server: its log says "request failed" at this time, and what to report.</p>
</html>"""

STATUS_OF: Final[dict[type[PacsError], HTTPStatus]] = {
    errors.ConfigError: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.InvalidInstance: HTTPStatus.BAD_REQUEST,
    errors.InstanceMismatch: HTTPStatus.CONFLICT,
    errors.InvalidIdentifier: HTTPStatus.BAD_REQUEST,
    errors.DuplicateInstance: HTTPStatus.CONFLICT,
    errors.InstanceNotFound: HTTPStatus.NOT_FOUND,
    errors.StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.StorageUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ObjectNotFound: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ObjectUnreadable: HTTPStatus.SERVICE_UNAVAILABLE,
    # To ask for the same again does not help, and to ask for the rest does (RFC 9110 15.5.10).
    errors.FilesMissing: HTTPStatus.CONFLICT,
    errors.InvalidKey: HTTPStatus.BAD_REQUEST,
    errors.ObjectExists: HTTPStatus.CONFLICT,
    errors.IndexUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.SchemaError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.UnknownMoveDestination: HTTPStatus.NOT_FOUND,
    errors.NotAuthorised: HTTPStatus.FORBIDDEN,
    errors.TranscodeError: HTTPStatus.NOT_ACCEPTABLE,
    errors.InvalidWorklistItem: HTTPStatus.BAD_REQUEST,
    errors.WorklistItemNotFound: HTTPStatus.NOT_FOUND,
    errors.AttributeRefused: HTTPStatus.BAD_REQUEST,
    errors.InvalidAttributeValue: HTTPStatus.BAD_REQUEST,
    errors.MissingAttribute: HTTPStatus.BAD_REQUEST,
    errors.MissingAttributeValue: HTTPStatus.BAD_REQUEST,
    errors.ProcedureStepClosed: HTTPStatus.CONFLICT,
    errors.InvalidArgumentValue: HTTPStatus.BAD_REQUEST,
    errors.InvalidObjectInstance: HTTPStatus.BAD_REQUEST,
    errors.NoSuchAction: HTTPStatus.BAD_REQUEST,
    errors.NoSuchSOPClass: HTTPStatus.BAD_REQUEST,
    errors.AuditUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.PatientError: HTTPStatus.CONFLICT,
    errors.UserError: HTTPStatus.BAD_REQUEST,
    errors.ResourceLimitation: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.TooLarge: HTTPStatus.NOT_ACCEPTABLE,
    errors.WorklistItemChanged: HTTPStatus.PRECONDITION_FAILED,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.FrameNotFound: HTTPStatus.NOT_FOUND,
    errors.BulkDataNotFound: HTTPStatus.NOT_FOUND,
    errors.NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    errors.UnsupportedSOPClass: HTTPStatus.CONFLICT,
    errors.UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.RemoteError: HTTPStatus.BAD_GATEWAY,
    errors.RemoteUnreachable: HTTPStatus.GATEWAY_TIMEOUT,
    errors.RemoteBusy: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: PacsError) -> HTTPStatus:
    """The status that answers `error`."""
    return STATUS_OF[type(error)]


def problem(
    status: int, detail: str, headers: dict[str, str] | None = None, members: Mapping[str, object] | None = None
) -> Response:
    """The answer that says in one sentence what is wrong and what to do, and when to try again if that may help.

    `members` are what it says besides (RFC 9457 3.2).
    """
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": int(status), "detail": detail}
    told |= members or {}
    return Response(json.dumps(told), status, again_after(status) | (headers or {}), "application/problem+json")


def fault(accept: str) -> Response:
    """The answer to a request on which the program has failed: without what it was, and readable in a browser."""
    if "text/html" in accept:
        return Response(_FAULT_PAGE, HTTPStatus.INTERNAL_SERVER_ERROR, media_type="text/html")
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; the log of the server tells more")


def again_after(status: int) -> dict[str, str]:
    """The header of an answer of this status that says when to try again, if that may help (RFC 9110 10.2.3)."""
    return {"retry-after": _SECONDS} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error that this server raises on purpose."""
    assert isinstance(error, PacsError)
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning(
            "request failed", extra={"path": logged_path(request.scope), "status": int(status), "reason": str(error)}
        )
    members = {"missing": list(error.instances), "of": error.of} if isinstance(error, FilesMissing) else None
    return problem(status, str(error), members=members)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router finds: no such path, no such method."""
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND and error.detail == HTTPStatus.NOT_FOUND.phrase:
        return problem(error.status_code, f"there is nothing at {request.url.path}")
    return problem(error.status_code, error.detail, dict(error.headers or {}))
