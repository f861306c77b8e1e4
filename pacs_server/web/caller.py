"""The caller of a request, as the middleware has found out."""

from typing import cast

from starlette.requests import HTTPConnection

from pacs_server.dicom.caller import Caller

KEY = "pacs_server.caller"
# The name of the operation in the audit trail, where a door has names for them.
OPERATION = "pacs_server.operation"


def caller_of(request: HTTPConnection) -> Caller:
    """Who makes the request, and what the caller may do."""
    return cast(Caller, request.scope[KEY])
