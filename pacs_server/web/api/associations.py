"""REST: associations, open and recent, and the peers seen."""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.web.api.operation import Answer, Call, Operation, Parameters, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "associations"


class Association(Answer):
    """An association: who, from where, and what came over it."""

    calling_ae: str
    called_ae: str
    address: str
    user: Annotated[str | None, Field(description="The user who has logged in by User Identity; null for nobody.")]
    tls: bool
    seconds: Annotated[float, Field(description="How long it has been open.")]
    bytes_in: int
    bytes_out: int
    operations: Annotated[dict[str, int], Field(description="How many commands of each kind came.")]


class OpenAssociation(Association):
    """An association that is open now."""

    doing: Annotated[str, Field(description="The command that is being carried out; empty for none.")]


class RecentAssociation(Association):
    """An association that has ended, or a connection that became none."""

    at: Annotated[datetime, Field(description="When it ended or was refused.")]
    refused: bool
    outcome: Annotated[str, Field(description="How it ended, or why it was refused.")]
    refusals: Annotated[int, Field(description="How many of its commands were refused.")]
    why: Annotated[str, Field(description="Why the last of these commands was refused; empty for none.")]


class Peer(Answer):
    """A peer that has asked for associations."""

    calling_ae: str
    called_ae: str
    address: str
    first_seen_at: datetime
    last_seen_at: datetime
    count: Annotated[int, Field(description="How often it has asked.")]
    outcome: Annotated[str, Field(description="`accepted`, or why the last one was rejected.")]
    tls: bool
    implementation_version_name: str


class OpenAssociations(Answer):
    """The associations that are open now, the oldest first."""

    items: list[OpenAssociation]


class RecentAssociations(Answer):
    """The last associations, the newest first; they are kept in memory until the server stops."""

    items: list[RecentAssociation]


class Peers(Answer):
    """The peers seen, 1,000 at most, the last seen first."""

    items: list[Peer]


class RecentSearch(Parameters):
    """Which associations to list."""

    refused: Annotated[bool | None, Field(description="Only those that were refused, or only those that were not.")] = (
        None
    )
    limit: Annotated[int, Field(ge=1, le=1000, description="How many at most.")] = 100


class PeerSearch(Parameters):
    """Which peers to list."""

    rejected: Annotated[bool, Field(description="Only those whose last request was rejected.")] = False
    calling_ae: Annotated[str | None, Field(description="Only those of this AE title.")] = None


class Associations:
    """The resources associations and peers."""

    def __init__(self, services: WebServices) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        """The operations of the resources."""
        return [
            Operation(
                method="GET", path="/associations", name="list_open_associations", tag=_TAG, role=Role.OPERATOR,
                summary="List the associations that are open now.", answer=OpenAssociations, run=self._open,
            ),
            Operation(
                method="GET", path="/associations/recent", name="list_recent_associations", tag=_TAG,
                role=Role.OPERATOR, summary="List the associations that ended or were refused, and why.",
                query=RecentSearch, answer=RecentAssociations, run=self._recent,
            ),
            Operation(
                method="GET", path="/peers", name="list_peers", tag=_TAG, role=Role.OPERATOR,
                summary="List the peers that have asked for associations.",
                query=PeerSearch, answer=Peers, run=self._peers,
            ),
        ]  # fmt: skip

    def _open(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return OpenAssociations(
            items=[
                OpenAssociation(
                    calling_ae=one.calling_ae, called_ae=one.called_ae, address=one.address, user=one.user,
                    tls=one.tls, operations=dict(one.operations), doing=one.doing, **one.traffic._asdict(),
                )
                for one in self._services.associations()
            ]
        )  # fmt: skip

    def _recent(self, call: Call[RecentSearch, None]) -> Answer:
        unlimited(call)
        found = self._services.recent_associations.list(refused=call.query.refused)
        return RecentAssociations(
            items=[
                RecentAssociation(
                    calling_ae=one.calling_ae, called_ae=one.called_ae, address=one.address, user=one.user,
                    tls=one.tls, at=one.at, refused=one.refused, outcome=one.outcome,
                    operations=dict(one.operations), refusals=one.refusals[0], why=one.refusals[1],
                    **one.traffic._asdict(),
                )
                for one in found[: call.query.limit]
            ]
        )  # fmt: skip

    def _peers(self, call: Call[PeerSearch, None]) -> Answer:
        unlimited(call)
        found = self._services.peers.list(rejected=call.query.rejected, calling_ae=call.query.calling_ae)
        return Peers(items=[Peer(**{name: getattr(one, name) for name in Peer.model_fields}) for one in found])
