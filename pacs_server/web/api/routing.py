"""REST: routing rules, and what they would do with a study."""

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from pacs_server.dicom.caller import Role
from pacs_server.dicom.uids import is_uid
from pacs_server.errors import NotFound
from pacs_server.services.actions import circles
from pacs_server.services.routing import Rule
from pacs_server.services.rule_engine import Verdict
from pacs_server.web.api.operation import Answer, Call, Operation, unlimited
from pacs_server.web.services import WebServices

_TAG: Final = "routing"

_When = Literal["arrival", "study_complete", "finding"]


class RuleRow(Answer):
    """A routing rule. The address of a webhook is not told: it may hold a secret."""

    name: str
    when: Annotated[_When, Field(description="When the rule is looked at.")]
    match: Annotated[dict[str, list[str]], Field(description="Patterns by keyword; all keywords have to match.")]
    unless: Annotated[dict[str, list[str]], Field(description="What fulfils all of this is left alone.")]
    forward: Annotated[list[str], Field(description="The names of the remotes that get the objects.")]
    changed: Annotated[bool, Field(description="Whether objects are changed on the way.")]
    webhook: Annotated[bool, Field(description="Whether a webhook is called.")]
    label: list[str]
    assign: str
    reading: str | None
    priority: str | None


class RuleList(Answer):
    """The rules that are enabled, in their order."""

    items: list[RuleRow]


class VerdictRow(Answer):
    """What a rule would do with a study."""

    rule: RuleRow
    instances: Annotated[int, Field(description="To how many instances it applies.")]
    reason: Annotated[str, Field(description="Why it applies to none; empty if it applies.")]
    circles: Annotated[list[str], Field(description="What is not sent to which remote, because it came from there.")]


class DryRun(Answer):
    """What the rules would do with a study if it arrived now."""

    instances: Annotated[int, Field(description="How many instances the study has.")]
    items: list[VerdictRow]


class Routing:
    """The resource routing."""

    def __init__(self, services: WebServices) -> None:
        self._engine = services.rules
        self._config = services.config

    def operations(self) -> list[Operation]:
        """The operations of the resource."""
        return [
            Operation(
                method="GET", path="/routing/rules", name="list_rules", tag=_TAG, role=Role.OPERATOR,
                summary="List the routing rules that are enabled, in their order.", answer=RuleList, run=self._list,
            ),
            Operation(
                method="GET", path="/routing/test/{study}", name="test_rules", tag=_TAG, role=Role.OPERATOR,
                summary="Say what each rule would do with a study if it arrived now; nothing is done.",
                parts={"study": "Study Instance UID."}, answer=DryRun, run=self._test,
                errors={404: "There is no such study."},
            ),
        ]  # fmt: skip

    def _list(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        return RuleList(items=[_row(rule) for rule in self._engine.rules().rules])

    def _test(self, call: Call[Any, None]) -> Answer:
        unlimited(call)
        uid = call.path["study"]
        instances, verdicts = self._engine.test(uid) if is_uid(uid) else (0, [])
        if not instances:
            raise NotFound("there is no study of this UID")
        return DryRun(instances=instances, items=[self._verdict(each) for each in verdicts])

    def _verdict(self, verdict: Verdict) -> VerdictRow:
        told = circles(self._config(), verdict.decision) if verdict.decision else []
        return VerdictRow(rule=_row(verdict.rule), instances=verdict.instances, reason=verdict.reason, circles=told)


def _row(rule: Rule) -> RuleRow:
    settings = rule.settings
    return RuleRow(
        name=settings.name, when=settings.when,
        match={key: list(patterns) for key, patterns in settings.match.items()},
        unless={key: list(patterns) for key, patterns in settings.unless.items()},
        forward=list(settings.forward), changed=bool(rule.alteration), webhook=settings.webhook is not None,
        label=list(settings.label), assign=settings.assign, reading=settings.reading, priority=settings.priority,
    )  # fmt: skip
