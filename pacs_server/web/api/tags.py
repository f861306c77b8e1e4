"""REST: all attributes of an instance, in the DICOM JSON Model (PS3.18 F.2)."""

from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from pacs_server.dicom.caller import Role
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import NotFound
from pacs_server.services.retrieve import counts_of
from pacs_server.web.api.operation import Call, Operation
from pacs_server.web.dicomweb.media_types import JSON
from pacs_server.web.dicomweb.resources import url_of_instance
from pacs_server.web.services import WebServices


class Tags:
    """The resource tags of an instance."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/instances/{instance}/tags", name="show_tags", tag="instances", role=Role.READER,
                summary="Show all attributes of an instance, in the DICOM JSON Model.",
                description="Long values are Bulkdata URIs of DICOMweb.", parts={"instance": "SOP Instance UID."},
                media_type=JSON, respond=self._respond, errors={404: "There is no such instance."},
            )
        ]  # fmt: skip

    async def _respond(self, call: Call[Any, None]) -> Response:
        return StreamingResponse(await run_in_threadpool(metadata_of, self._services, call), media_type=JSON)


def metadata_of(services: WebServices, call: Call[Any, None]) -> Iterator[bytes]:
    """The attributes of the instance that a path names, recorded as sent. Raises NotFound."""
    uid = call.path["instance"]
    keys = RetrieveKeys(Level.IMAGE, sop_instance_uids=(uid,))
    found = services.retrieve.select(keys, call.caller.scope) if is_uid(uid) else []
    if not found:
        raise NotFound("there is no instance of this UID")
    (stored,) = found
    counts = counts_of([stored])
    # Whatever can fail does so before the first byte is sent.
    with services.auditor.sending(call.caller, lambda: services.retrieve.subjects([stored]), counts) as sent:
        ((_, pieces),) = services.metadata.json([stored], lambda each: url_of_instance(call.base, each.uids))
        sent.completed[stored.uids.study][stored.sop_class_uid] += 1
    return pieces
