"""REST: send studies to remotes, what became of it, and which remotes can be sent to."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.dicom.identifier import RetrieveKeys
from pacs_server.dicom.levels import Level
from pacs_server.index.deliveries import DeliveryState
from pacs_server.index.delivery_overview import OPEN_STATES, DeliveryFilter
from pacs_server.index.task_values import Priority
from pacs_server.services.forwarding import RemoteOverview
from pacs_server.web.api.binding import next_address
from pacs_server.web.api.hidden_numbers import outward
from pacs_server.web.api.operation import Answer, Body, Call, Operation, Page, Paging, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "outgoing"
_PARTS: Final = {"remote": "The name of a remote in `remote_aes`."}
_UNKNOWN: Final = {404: "There is no such remote."}

_Study = Annotated[str, Field(description="A Study Instance UID.", max_length=64)]
_UIDs = Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(max_length=1000)]
_Name = Annotated[str, Field(max_length=64)]


class DeliveryRow(Answer):
    """One instance that is to go to one remote, and what that has answered."""

    id: int
    remote: Annotated[str, Field(description="For which remote it is; a backup may have taken it instead.")]
    rule: Annotated[str, Field(description="The rule that it follows from, empty if a person wanted it.")]
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    state: DeliveryState
    caused_by: str
    created: datetime
    attempts: int
    answered_by: Annotated[str, Field(description="The remote that gave the last answer.")]
    answered_at: datetime | None
    status: Annotated[int | None, Field(description="The status of the answer, as of C-STORE.")]
    detail: Annotated[str, Field(description="The answer in words, or why there is none.")]
    association: Annotated[str, Field(description="Over what it was sent.")]


class DeliverySearch(Paging):
    """Which deliveries to list."""

    state: Annotated[
        list[DeliveryState] | None, Field(description="Only those in these states; without it, waiting and dead ones.")
    ] = None
    remote: Annotated[_Name | None, Field(description="Only those to this remote.")] = None
    rule: Annotated[str | None, Field(description="Only those of this rule.", max_length=64)] = None
    study: Annotated[_Study | None, Field(description="Only those of this study.")] = None


class Send(Body):
    """What to send, and where."""

    remotes: Annotated[list[_Name], Field(min_length=1, max_length=50, description="Names of remotes.")]
    study: _Study
    series: Annotated[_UIDs, Field(description="Only these series of the study.")] = ()
    instances: Annotated[_UIDs, Field(description="Only these instances of the study.")] = ()
    priority: Annotated[Priority | None, Field(description="Instead of the remote's own.")] = None


class ForwardedRow(Answer):
    """What is going to be sent to one remote."""

    remote: str
    study_instance_uid: str
    instances: int
    task: Annotated[int, Field(description="The `id` of the task that sends it.")]


class ForwardedRows(Answer):
    """What is going to be sent, one row for each remote."""

    items: list[ForwardedRow]


class Destinations(Answer):
    """Where studies can be sent."""

    items: Annotated[list[str], Field(description="The names of the remotes.")]


class Retarget(Body):
    """Which remote gets what waits for another one."""

    to: Annotated[_Name, Field(description="The name of the other remote.")]
    study: Annotated[_Study | None, Field(description="Only this study.")] = None


class Retargeted(Answer):
    """The tasks that were made for the other remote."""

    tasks: list[int]


class RemoteRow(Answer):
    """Whether a remote can be sent to now, and what waits for it."""

    name: str
    state: Literal["ready", "paused", "failing", "closed"]
    reason: Annotated[str, Field(description="Why it cannot be sent to, or how it failed at last.")]
    until: Annotated[datetime | None, Field(description="Until when nothing is sent to it.")]
    failures: Annotated[int, Field(description="How often in a row it has failed as a whole.")]
    waiting: Annotated[int, Field(description="Deliveries that wait for it.")]
    dead: Annotated[int, Field(description="Deliveries to it that were given up.")]
    oldest_seconds: Annotated[float, Field(description="The age of the oldest delivery that waits.")]


class RemoteRows(Answer):
    """All remotes."""

    items: list[RemoteRow]


class Deliveries:
    """The resource deliveries, and what can be decided about remotes."""

    def __init__(self, services: WebServices) -> None:
        self._config = services.config
        self._forwarding = services.forwarding
        self._breakers = services.breakers

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/deliveries", name="list_deliveries", tag=_TAG, role=Role.READER,
                summary="List what is to be sent to remotes or was, the last added first.",
                query=DeliverySearch, answer=Page[DeliveryRow], run=self._list,
            ),
            Operation(
                method="POST", path="/deliveries", name="send", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="Have a study, series or instances sent to remotes, also what they have already.",
                body=Send, answer=ForwardedRows, status=202, run=self._send,
                errors={404: "There is no such remote, or nothing of that in the archive."},
            ),
            Operation(
                method="GET", path="/destinations", name="list_destinations", tag=_TAG, role=Role.CONTRIBUTOR,
                summary="List the names of the remotes that studies can be sent to.", answer=Destinations,
                run=self._destinations,
            ),
            Operation(
                method="GET", path="/outgoing", name="outgoing", tag=_TAG, role=Role.OPERATOR,
                summary="List the remotes: which can be sent to, which cannot and why, and what waits for them.",
                answer=RemoteRows, run=self._remotes,
            ),
            Operation(
                method="POST", path="/remotes/{remote}/pause", name="pause_remote", tag=_TAG, role=Role.OPERATOR,
                summary="Send nothing to a remote until it is resumed.", parts=_PARTS, answer=RemoteRow,
                run=self._pause, errors=_UNKNOWN,
            ),
            Operation(
                method="POST", path="/remotes/{remote}/resume", name="resume_remote", tag=_TAG, role=Role.OPERATOR,
                summary="Send to a remote again that was paused or has failed.", parts=_PARTS, answer=RemoteRow,
                run=self._resume, errors=_UNKNOWN,
            ),
            Operation(
                method="POST", path="/remotes/{remote}/retarget", name="retarget", tag=_TAG, role=Role.OPERATOR,
                summary="Have another remote get what waits for one or was given up.", parts=_PARTS,
                body=Retarget, answer=Retargeted, run=self._retarget, errors=_UNKNOWN | {409: "It is the same one."},
            ),
        ]  # fmt: skip

    def _list(self, call: Call[DeliverySearch, None]) -> Answer:
        query, scope = call.query, call.caller.scope
        wanted = DeliveryFilter(query.state or OPEN_STATES, query.remote, query.rule, query.study)
        rows = self._forwarding.deliveries(wanted, query.limit + 1, query.after, scope)
        shown = rows[: query.limit]
        names = [name for name in DeliveryRow.model_fields if name != "id"]
        items = [
            DeliveryRow(id=outward(row.id, scope), **{name: getattr(row, name) for name in names}) for row in shown
        ]
        return Page[DeliveryRow](
            items=items, next=next_address(call, shown[-1].id if len(rows) > query.limit else None)
        )

    def _send(self, call: Call[Any, Send]) -> Answer:
        body, scope = call.body, call.caller.scope
        level = Level.IMAGE if body.instances else Level.SERIES if body.series else Level.STUDY
        keys = RetrieveKeys(
            level,
            study_instance_uids=(body.study,),
            series_instance_uids=body.series,
            sop_instance_uids=body.instances,
        )
        sent = self._forwarding.forward(keys, body.remotes, call.caller, scope=scope, priority=body.priority)
        return ForwardedRows(
            items=[
                ForwardedRow(
                    remote=each.remote, study_instance_uid=each.study_instance_uid, instances=each.instances,
                    task=outward(each.task, scope),
                )
                for each in sent
            ]
        )  # fmt: skip

    def _destinations(self, call: Call[Any, None]) -> Answer:
        return Destinations(items=sorted(each.name for each in self._config().remote_aes))

    def _remotes(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return RemoteRows(items=[_row(each) for each in self._forwarding.remotes(self._breakers)])

    def _pause(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        self._breakers.pause(call.path["remote"], call.caller)
        return self._one(call)

    def _resume(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        self._breakers.resume(call.path["remote"], call.caller)
        self._forwarding.wake()
        return self._one(call)

    def _retarget(self, call: Call[Any, Retarget]) -> Answer:
        unlimited(call)
        return Retargeted(
            tasks=self._forwarding.retarget(call.path["remote"], call.body.to, call.caller, call.body.study)
        )

    def _one(self, call: Call[Any, None]) -> Answer:
        found = self._forwarding.remotes(self._breakers)
        return next(_row(each) for each in found if each.name == call.path["remote"])


def _row(remote: RemoteOverview) -> RemoteRow:
    return RemoteRow(**{name: getattr(remote, name) for name in RemoteRow.model_fields})
