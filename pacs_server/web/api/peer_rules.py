"""REST: let a refused peer in: the access rule for it, and writing it into the configuration file."""

from typing import Annotated, Any, Final

from pydantic import Field

from pacs_server.config.sections.access_control import PeerService
from pacs_server.dicom.caller import Role
from pacs_server.services.peer_rules import PeerRules, Suggestion
from pacs_server.web.api.operation import Answer, Body, Call, Operation, Parameters, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "associations"
_Title = Annotated[str, Field(min_length=1, max_length=64, description="The AE title with which the peer calls.")]
_Address = Annotated[str, Field(min_length=1, max_length=64, description="The address from which it comes.")]
_Services = Annotated[list[PeerService], Field(min_length=1, max_length=8, description="The services that it may use.")]
_UNFIT: Final = {400: "No rule can name this AE title or address."}


class PeerOf(Parameters):
    """Which peer the rule is for, and what it may do."""

    calling_ae: _Title
    address: _Address
    allow: _Services


class NewPeerRule(Body):
    """Which peer is let in, and what it may do."""

    calling_ae: _Title
    address: _Address
    allow: _Services


class PeerRuleRow(Answer):
    """An access rule for a peer."""

    lines: Annotated[list[str], Field(description="The rule as it stands in a configuration file, in YAML.")]
    file: Annotated[str, Field(description="The configuration file; empty if the server was started without one.")]
    problem: Annotated[str, Field(description="Why the server cannot write it by itself; empty if it can.")]
    is_let_in: Annotated[bool, Field(description="Whether this peer is let in now.")]


class PeerRulesResource:
    """The access rules of peers."""

    def __init__(self, services: WebServices) -> None:
        self._rules = PeerRules(services.config, services.reload, services.auditor)

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/peers/rule", name="suggest_peer_rule", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Show the access rule that would let a peer in; nothing is written.",
                query=PeerOf, answer=PeerRuleRow, run=self._suggest, errors=_UNFIT,
            ),
            Operation(
                method="POST", path="/peers/rule", name="add_peer_rule", tag=_TAG, role=Role.ADMINISTRATOR,
                summary="Write that rule into the configuration file, and read the file again.",
                body=NewPeerRule, answer=PeerRuleRow, status=201, run=self._add,
                errors=_UNFIT | {409: "The peer is let in already, or the file cannot be changed by the server."},
            ),
        ]  # fmt: skip

    def _suggest(self, call: Call[PeerOf, None]) -> Answer:
        unlimited(call)
        query = call.query
        return _row(self._rules.suggest(query.calling_ae, query.address, query.allow, call.caller))

    def _add(self, call: Call[Any, NewPeerRule]) -> Answer:
        unlimited(call)
        body = call.body
        return _row(self._rules.add(body.calling_ae, body.address, body.allow, call.caller))


def _row(found: Suggestion) -> PeerRuleRow:
    return PeerRuleRow(
        lines=list(found.lines), file=found.file, problem=found.problem, is_let_in=found.is_let_in
    )  # fmt: skip
