"""The caller of a request, as the middleware has found out."""

from typing import cast

from starlette.requests import HTTPConnection

from pacs_server.dicom.caller import Caller
from pacs_server.errors import PacsError

KEY = "pacs_server.caller"
# What finds out the caller of a request.
IDENTIFY = "pacs_server.identify"
# The name of the operation in the audit trail, where a door has names for them.
OPERATION = "pacs_server.operation"


def caller_of(request: HTTPConnection) -> Caller:
    """Who makes the request, and what the caller may do."""
    return cast(Caller, request.scope[KEY])


async def is_caller_still(request: HTTPConnection) -> bool:
    """Whether a request that goes on would be let in now as well, as the same caller with the same role and limits."""
    try:
        return bool(await request.scope[IDENTIFY](request) == caller_of(request))
    except PacsError:
        return False
