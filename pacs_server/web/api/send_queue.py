"""REST: the send queue as people look at it: what waits by study and remote, try it now, do not send it."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Caller, Role
from pacs_server.index.deliveries import DeliveryState
from pacs_server.index.delivery_overview import OPEN_STATES, DeliveryFilter
from pacs_server.services.send_queue import Sending, SendQueue
from pacs_server.web.api.operation import Answer, Body, Call, Limit, Operation, Parameters, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "outgoing"
_Study = Annotated[str, Field(description="A Study Instance UID.", max_length=64)]
_Name = Annotated[str, Field(max_length=64)]


class DeliveryGroups(Parameters):
    """Which groups of deliveries to list."""

    state: Annotated[
        list[DeliveryState] | None, Field(description="Only those in these states; without it, waiting and dead ones.")
    ] = None
    remote: Annotated[_Name | None, Field(description="Only those to this remote.")] = None
    study: Annotated[_Study | None, Field(description="Only those of this study.")] = None
    limit: Limit = 100


class DeliveryGroupRow(Answer):
    """The deliveries of one study to one remote, by one rule, that are in one state."""

    study_instance_uid: str
    remote: str
    rule: Annotated[str, Field(description="The rule that they follow from, empty if a person wanted it.")]
    state: DeliveryState
    instances: int
    since: Annotated[datetime, Field(description="When the first of them was added.")]
    last: Annotated[datetime | None, Field(description="When the last of them was tried.")]
    detail: Annotated[str, Field(description="What the remote answered to one of them, or why there is no answer.")]


class DeliveryGroupRows(Answer):
    """Groups of deliveries, those added last first."""

    items: list[DeliveryGroupRow]
    complete: Annotated[bool, Field(description="Whether these are all; there may be more than `limit`.")]


class Which(Body):
    """What waits for a remote or was given up: all, or only some of it."""

    remote: Annotated[_Name, Field(description="The name of the remote.")]
    study: Annotated[_Study | None, Field(description="Only this study.")] = None
    rule: Annotated[
        str | None, Field(description="Only what follows from this rule; empty for what persons wanted.", max_length=64)
    ] = None


class Decided(Answer):
    """How much a decision was about."""

    tasks: Annotated[int, Field(description="How many tasks it was about; each sends one study to one remote.")]


class SendQueueResource:
    """Deliveries by study and remote, and decisions about them."""

    def __init__(self, services: WebServices) -> None:
        self._forwarding = services.forwarding
        self._queue = SendQueue(services.tasks, services.auditor)

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/deliveries/groups", name="group_deliveries", tag=_TAG, role=Role.OPERATOR,
                summary="List what is to be sent, by study, remote, rule and state.",
                query=DeliveryGroups, answer=DeliveryGroupRows, run=self._groups,
            ),
            Operation(
                method="POST", path="/deliveries/retry", name="retry_deliveries", tag=_TAG, role=Role.OPERATOR,
                summary="Try now what waits for a remote or was given up.", body=Which, answer=Decided,
                run=lambda call: self._decide(call, self._queue.retry),
            ),
            Operation(
                method="POST", path="/deliveries/cancel", name="cancel_deliveries", tag=_TAG, role=Role.OPERATOR,
                summary="Do not send what waits for a remote or was given up.", body=Which, answer=Decided,
                run=lambda call: self._decide(call, self._queue.cancel),
            ),
        ]  # fmt: skip

    def _groups(self, call: Call[DeliveryGroups, None]) -> Answer:
        unlimited(call)
        query = call.query
        wanted = DeliveryFilter(query.state or OPEN_STATES, query.remote, None, query.study)
        found = self._forwarding.groups(wanted, query.limit + 1)[::-1]
        names = DeliveryGroupRow.model_fields
        rows = [DeliveryGroupRow(**{name: getattr(each, name) for name in names}) for each in found[: query.limit]]
        return DeliveryGroupRows(items=rows, complete=len(found) <= query.limit)

    def _decide(self, call: Call[Any, Which], decide: Callable[[Sending, Caller], int]) -> Answer:
        unlimited(call)
        body = call.body
        return Decided(tasks=decide(Sending(body.remote, body.study, body.rule), call.caller))
