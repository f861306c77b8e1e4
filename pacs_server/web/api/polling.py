"""REST: what the archive fetches by itself: how the polling of remotes stands, and the studies found there."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.errors import NotFound
from pacs_server.index.remote_studies import PollingState, RemoteStudyFilter, RemoteStudyState
from pacs_server.index.task_values import Priority
from pacs_server.web.api.operation import Answer, Call, Limit, Operation, Parameters, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "polling"
_PARTS: Final = {"polling": "The name of an entry of `polling`."}


class PollingEntry(Answer):
    """An entry of `polling`, and how it stands."""

    name: str
    remote: str
    every: Annotated[float, Field(description="In seconds.")]
    query: dict[str, str]
    then: str
    asked_at: Annotated[datetime | None, Field(description="When the remote was last asked; null for never.")]
    answered_at: Annotated[datetime | None, Field(description="When it last answered; null for never.")]
    matches: Annotated[int, Field(description="How many studies its last answer named.")]
    found: Annotated[int, Field(description="How many of them were to be fetched then.")]
    failures: Annotated[int, Field(description="How often in a row it has not answered.")]
    last_error: Annotated[str, Field(description="Why it did not answer the last time; empty if it did.")]


class PollingEntries(Answer):
    """All entries of `polling`."""

    items: list[PollingEntry]


class RemoteStudies(Parameters):
    """Which studies of remotes to list."""

    remote: Annotated[str | None, Field(description="Only those of this remote.", max_length=64)] = None
    state: Annotated[RemoteStudyState | None, Field(description="Only those in this state.")] = None
    study: Annotated[str | None, Field(description="Only this Study Instance UID.", max_length=64)] = None
    before: Annotated[int | None, Field(ge=1, lt=1 << 63, description="Only those whose `id` is below this one.")] = (
        None
    )
    limit: Limit = 100


class RemoteStudyRow(Answer):
    """A study that a remote has, and how far it has come."""

    id: int
    remote: str
    study_instance_uid: str
    state: RemoteStudyState
    priority: Priority
    found_by: Annotated[str, Field(description="What found it, such as `polling WS1`.")]
    is_routed: Annotated[bool, Field(description="Whether routing rules apply to what is fetched of it.")]
    is_cache: Annotated[bool, Field(description="Whether it may be deleted here again while the remote has it.")]
    patient_id: Annotated[str, Field(description="As the remote says; several are joined by backslashes.")]
    study_date: str
    modalities: Annotated[str, Field(description="Joined by backslashes.")]
    remote_series: Annotated[int | None, Field(description="How many the remote says to have; null if it does not.")]
    remote_instances: Annotated[int | None, Field(description="How many the remote says to have.")]
    listed_instances: Annotated[
        int | None, Field(description="How many it named one by one when the study was last complete.")
    ]
    found_at: datetime
    seen_at: Annotated[datetime, Field(description="When the remote last named it.")]
    changed_at: Annotated[datetime, Field(description="When its state last changed.")]
    completed_at: datetime | None
    task_id: Annotated[int | None, Field(description="The task that fetches it; `GET /tasks/{task}` shows it.")]
    last_error: str


class RemoteStudyRows(Answer):
    """Studies of remotes, those found last first."""

    items: list[RemoteStudyRow]
    complete: Annotated[bool, Field(description="Whether these are all; there may be more than `limit`.")]


class PriorRow(Answer):
    """An earlier study that is to be here for an examination."""

    study_instance_uid: str
    remote: Annotated[str, Field(description="Where it is fetched from; empty if it was here already.")]
    study_date: str
    modalities: Annotated[str, Field(description="Joined by backslashes.")]
    is_here: Annotated[bool, Field(description="Whether all of it is here that the remote has named.")]


class PriorRows(Answer):
    """The earlier studies for an examination, the newest first."""

    items: list[PriorRow]


class Polling:
    """The entries of `polling`, and the studies that they have found."""

    def __init__(self, services: WebServices) -> None:
        self._config = services.config
        self._polling = services.polling
        self._prefetching = services.prefetching
        self._worklist = services.worklist

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/polling", name="list_polling", tag=_TAG, role=Role.OPERATOR,
                summary="List the remotes that are polled, and how that stands.",
                answer=PollingEntries, run=self._entries,
            ),
            Operation(
                method="POST", path="/polling/{polling}/now", name="poll_now", tag=_TAG, role=Role.OPERATOR,
                summary="Ask a remote now what it has.", parts=_PARTS, run=self._now,
                errors={404: "There is no such entry."},
            ),
            Operation(
                method="GET", path="/remote-studies", name="list_remote_studies", tag=_TAG, role=Role.OPERATOR,
                summary="List the studies that polling and prefetching have found at remotes.",
                query=RemoteStudies, answer=RemoteStudyRows, run=self._studies,
            ),
            Operation(
                method="GET", path="/worklist/{item}/priors", name="list_priors", tag=_TAG, role=Role.OPERATOR,
                summary="List the earlier studies that are fetched for a worklist item.",
                parts={"item": "The `id` of a worklist item."}, answer=PriorRows, run=self._priors,
                errors={404: "There is no such worklist item."},
            ),
        ]  # fmt: skip

    def _entries(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        states = self._polling.states()
        items = []
        for each in self._config().polling:
            state = states.get(each.name) or PollingState(each.name)
            items.append(
                PollingEntry(
                    name=each.name, remote=each.remote, every=each.every, query=dict(each.query), then=each.then,
                    asked_at=state.asked_at, answered_at=state.answered_at, matches=state.matches, found=state.found,
                    failures=state.failures, last_error=state.last_error,
                )
            )  # fmt: skip
        return PollingEntries(items=items)

    def _now(self, call: Call[Any, None]) -> None:
        unlimited(call)
        name = call.path["polling"]
        entry = next((each for each in self._config().polling if each.name == name), None)
        if entry is None:
            raise NotFound(f"there is no {name} in polling")
        self._polling.ask_now(entry.remote, entry.name)

    def _priors(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        told = call.path["item"]
        row = self._worklist.get(told) if told.isascii() and told.isdecimal() and len(told) < 19 else None
        if row is None or str(row.id) != told:
            raise NotFound("there is no worklist item of this id")
        names = PriorRow.model_fields
        found = self._prefetching.priors(row.id)
        return PriorRows(items=[PriorRow(**{name: getattr(each, name) for name in names}) for each in found])

    def _studies(self, call: Call[RemoteStudies, None]) -> Answer:
        unlimited(call)
        query = call.query
        wanted = RemoteStudyFilter(query.remote, query.state, query.study)
        found = self._polling.studies(wanted, query.limit + 1, query.before)
        names = RemoteStudyRow.model_fields
        rows = [RemoteStudyRow(**{name: getattr(each, name) for name in names}) for each in found[: query.limit]]
        return RemoteStudyRows(items=rows, complete=len(found) <= query.limit)
