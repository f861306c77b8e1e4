"""The caller of a request, as the middleware has found out."""

from typing import cast

from starlette.requests import HTTPConnection

from pacs_server.dicom.caller import Caller

KEY = "pacs_server.caller"


def caller_of(request: HTTPConnection) -> Caller:
    """Who makes the request, and what the caller may do."""
    return cast(Caller, request.scope[KEY])
