"""REST: ask remotes whether they are there, what they have, and to send it here."""

from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pacs_server.config.sections.remote_aes import RemoteAEConfig
from pacs_server.dicom.caller import Role
from pacs_server.dicom.implementations import UNKNOWN, Implementation
from pacs_server.dicom.json_model import DataSet
from pacs_server.dicom.levels import Level
from pacs_server.errors import InvalidRequest, NotFound
from pacs_server.index.task_values import Priority
from pacs_server.outbox.comparison import RETURNED, compare
from pacs_server.scu.queries import LastEcho
from pacs_server.scu.search import Search
from pacs_server.services.fetching import Fetching
from pacs_server.web.api.operation import Answer, Body, Call, Limit, Operation, unlimited
from pacs_server.web.api.private import StandardValue, standard_of
from pacs_server.web.services import WebServices

_TAG: Final = "remotes"
_PARTS: Final = {"remote": "The name of a remote in `remote_aes`."}
_ERRORS: Final = {
    404: "There is no such remote.",
    502: "The remote refuses what was asked of it.",
    503: "The remote is busy.",
    504: "The remote cannot be reached, or does not answer in time.",
}
_UID = Annotated[str, Field(max_length=64)]
_Keys = Annotated[dict[str, Annotated[str, Field(max_length=1024)]], Field(max_length=100)]


class RemoteSettings(Answer):
    """A remote as configured."""

    name: str
    kind: Literal["dimse", "dicomweb"]
    ae_title: Annotated[str, Field(description="Empty for kind dicomweb.")]
    address: Annotated[str, Field(description="Host and port, or the URL of its DICOMweb services.")]
    tls: bool
    max_associations: int
    windows: list[str]
    backups: list[str]
    vendor: Annotated[str, Field(description="As set, else as it says itself; empty if that is not known.")]
    implementation_class_uid: Annotated[
        str, Field(description="What it said of its software when it was called last; empty before.")
    ]
    implementation_version_name: str
    echoed_at: Annotated[
        datetime | None, Field(description="When the last echo was sent; null for none since the start.")
    ]
    echo_failure: Annotated[
        str, Field(description="Why the last echo had no answer; empty if it had one, or for none.")
    ]


class RemoteSettingsList(Answer):
    """All remotes as configured."""

    items: list[RemoteSettings]


class Echoed(Answer):
    """The answer of a remote."""

    seconds: Annotated[float, Field(description="The time of all, with the connection.")]
    round_trip: Annotated[float, Field(description="The time of the answer alone.")]
    vendor: Annotated[str, Field(description="As set, else as it says itself; empty if that is not known.")]
    implementation_class_uid: Annotated[str, Field(description="What it says of its software; empty for DICOMweb.")]
    implementation_version_name: str


class SearchAtRemote(Body):
    """What to search for at a remote."""

    level: Annotated[Literal["patient", "study", "series", "image"], Field(description="What to list.")] = "study"
    keys: Annotated[
        _Keys,
        Field(description="Values to match, by keyword or tag, as in a C-FIND: wild cards, ranges, lists of UIDs."),
    ] = {}  # noqa: RUF012 - pydantic copies it
    returns: Annotated[list[str], Field(max_length=100, description="Other attributes to return.")] = []  # noqa: RUF012
    relational: Annotated[bool, Field(description="Ask for series and images without the UIDs above them.")] = False
    combined: Annotated[bool, Field(description="Ask for ranges of date and time together.")] = False
    fuzzy: Annotated[bool, Field(description="Ask for names that the remote finds alike.")] = False
    standard: Annotated[
        bool, Field(description="Tell what private elements in the matches mean, under standard names.")
    ] = False
    compare: Annotated[
        bool,
        Field(description="Only for studies: ask for the instances of each, and tell how many of them are here."),
    ] = False
    limit: Limit = 100


class WorklistAtRemote(Body):
    """Which worklist items of a remote to list; without keys all."""

    keys: Annotated[
        _Keys,
        Field(description="As for a search; `ScheduledProcedureStepSequence.Modality` names an attribute of the step."),
    ] = {}  # noqa: RUF012 - pydantic copies it
    limit: Limit = 100


class ComparedStudy(Answer):
    """How much of a study of a remote is here."""

    study_instance_uid: str
    here: Annotated[int, Field(description="How many of these instances are here.")]
    there: Annotated[int | None, Field(description="How many the remote has; null if it does not tell.")]


class Matches(Answer):
    """Matches in the DICOM JSON Model (PS3.18 F.2)."""

    items: list[dict[str, Any]]
    complete: Annotated[bool, Field(description="Whether these are all; there may be more than `limit`.")]
    standard: Annotated[
        list[list[StandardValue]],
        Field(description="If asked for: of each match what the remote has in private elements, under standard names."),
    ] = []  # noqa: RUF012 - pydantic copies it
    compared: Annotated[
        list[ComparedStudy] | None,
        Field(description="If asked for: how much of each study is here, else null."),
    ] = None


class Fetch(Body):
    """What to fetch: a study, a series of it, or an instance of that series."""

    study: _UID
    series: _UID = ""
    instance: _UID = ""
    priority: Priority = Priority.MEDIUM


class FetchTask(Answer):
    """The task that fetches."""

    task: Annotated[int, Field(description="Its `id`; `GET /tasks/{task}` tells how far it has come.")]


class Remotes:
    """The resource remotes."""

    def __init__(self, services: WebServices) -> None:
        self._config = services.config
        self._queries = services.remotes
        self._retrieve = services.retrieve
        self._breakers = services.breakers
        self._fetching = services.fetching

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/remotes", name="list_remotes", tag=_TAG, role=Role.OPERATOR,
                summary="List the remotes as configured.", answer=RemoteSettingsList, run=self._list,
            ),
            Operation(
                method="POST", path="/remotes/{remote}/echo", name="echo_remote", tag=_TAG, role=Role.OPERATOR,
                summary="Ask a remote whether it is there, by C-ECHO or by a search for one study.",
                parts=_PARTS, answer=Echoed, run=self._echo, errors=_ERRORS,
            ),
            Operation(
                method="POST", path="/remotes/{remote}/search", name="search_remote", tag=_TAG, role=Role.OPERATOR,
                summary="Search at a remote, by C-FIND or QIDO-RS.", parts=_PARTS, body=SearchAtRemote,
                answer=Matches, run=self._search,
                errors=_ERRORS | {400: "A key is no attribute, or what is to be compared are no studies."},
            ),
            Operation(
                method="POST", path="/remotes/{remote}/worklist", name="ask_worklist_of_remote", tag=_TAG,
                role=Role.OPERATOR, summary="List worklist items of a remote.", parts=_PARTS, body=WorklistAtRemote,
                answer=Matches, run=self._worklist,
                errors=_ERRORS | {400: "A key is no attribute, or the remote speaks DICOMweb."},
            ),
            Operation(
                method="POST", path="/remotes/{remote}/fetch", name="fetch_from_remote", tag=_TAG, role=Role.OPERATOR,
                summary="Have a study, series or instance fetched from a remote; what is here is not sent again.",
                parts=_PARTS, body=Fetch, answer=FetchTask, status=202, run=self._fetch,
                errors={400: "A UID is none.", 404: "There is no such remote."},
            ),
        ]  # fmt: skip

    def _list(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        states = self._breakers.states()
        return RemoteSettingsList(
            items=[
                _row(
                    each,
                    states[each.name].implementation if each.name in states else UNKNOWN,
                    self._queries.last_echo(each.name),
                )
                for each in self._config().remote_aes
            ]
        )

    def _echo(self, call: Call[Any, None]) -> Answer:
        name = self._named(call)
        answer, remote = self._queries.echo(name), self._config().remote(name)
        return Echoed(
            seconds=round(answer.seconds, 6),
            round_trip=round(answer.round_trip, 6),
            vendor=answer.implementation.vendor(remote.vendor if remote else "auto"),
            implementation_class_uid=answer.implementation.class_uid,
            implementation_version_name=answer.implementation.version_name,
        )

    def _search(self, call: Call[Any, SearchAtRemote]) -> Answer:
        name, body = self._named(call), call.body
        compared = body.compare
        if compared and body.level != "study":
            raise InvalidRequest("only studies are compared with what is here")
        returns = tuple(dict.fromkeys((*body.returns, *(RETURNED if compared else ()))))
        search = Search(Level[body.level.upper()], body.keys, returns, body.fuzzy, body.relational, body.combined)
        found = _matches(self._queries.find(call.caller, name, search, body.limit + 1), body.limit)
        told = {
            **({"standard": list(map(standard_of, found.items))} if body.standard else {}),
            **({"compared": [self._compared(call, name, each) for each in found.items]} if compared else {}),
        }
        return found.model_copy(update=told)

    def _compared(self, call: Call[Any, Any], remote: str, match: DataSet) -> ComparedStudy:
        found = compare(self._queries, self._retrieve, call.caller, remote, match)
        return ComparedStudy(study_instance_uid=found.study_instance_uid, here=found.here, there=found.there)

    def _worklist(self, call: Call[Any, WorklistAtRemote]) -> Answer:
        name, body = self._named(call), call.body
        return _matches(self._queries.worklist(call.caller, name, body.keys, body.limit + 1), body.limit)

    def _fetch(self, call: Call[Any, Fetch]) -> Answer:
        unlimited(call)
        body = call.body
        wanted = Fetching(body.study, body.series, body.instance)
        who = call.caller.user or "rest"
        return FetchTask(task=self._fetching.fetch(call.path["remote"], wanted, who, priority=body.priority))

    def _named(self, call: Call[Any, Any]) -> str:
        unlimited(call)
        name = call.path["remote"]
        if self._config().remote(name) is None:
            raise NotFound("there is no remote of this name in remote_aes")
        return name


def _matches(found: Any, limit: int) -> Matches:
    items = list(islice(found, limit + 1))
    return Matches(items=[dict(each) for each in items[:limit]], complete=len(items) <= limit)


def _row(remote: RemoteAEConfig, implementation: Implementation, echo: LastEcho | None) -> RemoteSettings:
    return RemoteSettings(
        name=remote.name,
        kind=remote.kind,
        ae_title=remote.ae_title,
        address=remote.url or f"{remote.host}:{remote.port}",
        tls=remote.uses_tls,
        max_associations=remote.max_associations,
        windows=list(remote.windows),
        backups=list(remote.backups),
        vendor=implementation.vendor(remote.vendor),
        implementation_class_uid=implementation.class_uid,
        implementation_version_name=implementation.version_name,
        echoed_at=None if echo is None else echo.at,
        echo_failure="" if echo is None else echo.failure,
    )
