"""Routing rules: compiled from the settings, and matched against what is stored. Values in, values out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any, Final

from pacs_server.config.model import Config
from pacs_server.config.sections.routing import AttributeChange, RoutingRule
from pacs_server.dicom.attributes import BY_KEYWORD, Attribute
from pacs_server.dicom.matching import Matcher, matcher_for, matches
from pacs_server.dicom.tag_changes import Operation, TagChange
from pacs_server.errors import InvalidIdentifier, InvalidRequest
from pacs_server.kit.time_windows import TimeWindow

CALLING_AE: Final = "CallingAETitle"
MOVE_ORIGINATOR: Final = "MoveOriginatorApplicationEntityTitle"
PRIORITY: Final = "RequestedProcedurePriority"
TIME_OF_DAY: Final = "TimeOfDay"
FINDING: Final = "Finding"
# What rules can match that is no attribute of the index, with the VR that decides how.
_OTHERS: Final = {CALLING_AE: "AE", MOVE_ORIGINATOR: "AE", PRIORITY: "SH", TIME_OF_DAY: "", FINDING: "CS"}
# What an object can be compressed to on its way out; all of these are lossless.
COMPRESSIONS: Final = {
    "JPEGLSLossless": "1.2.840.10008.1.2.4.80",
    "JPEG2000Lossless": "1.2.840.10008.1.2.4.90",
    "RLELossless": "1.2.840.10008.1.2.5",
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One line of `match` or `unless`: what is compared with, and the patterns of which one has to match."""

    keyword: str
    patterns: tuple[str, ...]
    matchers: tuple[Matcher | None, ...] = ()
    windows: tuple[TimeWindow, ...] = ()
    multiple: bool = False

    def fits(self, value: str, now: time) -> bool:
        """Whether a value fits; for TimeOfDay the time of day `now` decides."""
        if self.keyword == TIME_OF_DAY:
            return any(window.holds(now) for window in self.windows)
        for pattern, matcher in zip(self.patterns, self.matchers, strict=True):
            if not pattern:
                if not value:
                    return True
            elif matcher is None or matches(matcher, value, multiple=self.multiple, unknown=False):
                return True
        return False

    def __str__(self) -> str:
        return f"{self.keyword}: {', '.join(self.patterns) or 'empty'}"


@dataclass(frozen=True, slots=True)
class Alteration:
    """What is changed in objects on their way out: nothing if it is false."""

    changes: tuple[TagChange, ...] = ()
    deidentify: bool = False
    compress: str = ""

    def __bool__(self) -> bool:
        return bool(self.changes or self.deidentify or self.compress)

    def as_json(self) -> dict[str, Any]:
        """The alteration as it is kept in a task, so that what was decided does not change with the settings."""
        kept: dict[str, Any] = {"changes": [each.as_json() for each in self.changes]} if self.changes else {}
        return (
            kept
            | ({"deidentify": True} if self.deidentify else {})
            | ({"compress": self.compress} if self.compress else {})
        )

    @classmethod
    def of_json(cls, kept: Mapping[str, Any]) -> "Alteration":
        """The alteration that `as_json` wrote."""
        changes = tuple(TagChange.of_json(each) for each in kept.get("changes", ()))
        return cls(changes, bool(kept.get("deidentify")), kept.get("compress", ""))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an instance, for rules: texts by keyword, and where it came from."""

    instance_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    calling_ae: str
    values: Mapping[str, str]
    move_originator: str = ""

    def value(self, keyword: str) -> str:
        """The text of an attribute, '' if it has none."""
        if keyword == CALLING_AE:
            return self.calling_ae
        return self.move_originator if keyword == MOVE_ORIGINATOR else self.values.get(keyword, "")

    def circle(self, titles: Collection[str]) -> str | None:
        """Why the instance is not sent to the remote of these names; None if it may go there."""
        if self.calling_ae in titles:
            return f"it came from {self.calling_ae}"
        return f"{self.move_originator} had it sent here by C-MOVE" if self.move_originator in titles else None


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that can be matched."""

    settings: RoutingRule
    match: tuple[Condition, ...] = ()
    unless: tuple[Condition, ...] = ()
    alteration: Alteration = field(default_factory=Alteration)

    @property
    def name(self) -> str:
        """Its name."""
        return self.settings.name

    def refusal(self, facts: Facts, now: datetime) -> str | None:
        """Why the rule does not apply to an instance at a local time, for people; None if it applies."""
        for condition in self.match:
            value = facts.value(condition.keyword)
            if not condition.fits(value, now.time()):
                shown = f"{now:%H:%M}" if condition.keyword == TIME_OF_DAY else value or "empty"
                return f"{condition.keyword} is {shown}, not {', '.join(map(repr, condition.patterns))}"
        if self.unless and all(each.fits(facts.value(each.keyword), now.time()) for each in self.unless):
            return f"excluded by unless: {'; '.join(map(str, self.unless))}"
        return None


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules that are enabled, in their order, and which attributes they look at."""

    rules: tuple[Rule, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    uses_priority: bool = False

    def at(self, when: str) -> tuple[Rule, ...]:
        """The rules for a moment: arrival, study_complete or finding."""
        return tuple(rule for rule in self.rules if rule.settings.when == when)

    def __bool__(self) -> bool:
        return bool(self.rules)


def compile_rules(config: Config) -> Rules:
    """The enabled rules of the settings. Raises ConfigError, which says in which line what is wrong."""
    names = {remote.name for remote in config.remote_aes}
    rules = [
        _compiled(config, f"routing.rules[{number}]", rule, names) for number, rule in enumerate(config.routing.rules)
    ]
    for number, deletion in enumerate(config.routing.delete):
        for place, name in enumerate(deletion.committed_by):
            remote = config.remote(name)
            if remote is None or not remote.commitment:
                key = f"routing.delete[{number}].committed_by[{place}]"
                raise config.error(key, f"{name} is no remote with `commitment: true`")
    enabled = tuple(rule for rule in rules if rule.settings.enabled)
    keywords = dict.fromkeys(each.keyword for rule in enabled for each in (*rule.match, *rule.unless))
    attributes = tuple(BY_KEYWORD[keyword] for keyword in keywords if keyword in BY_KEYWORD)
    return Rules(enabled, attributes, PRIORITY in keywords)


def _compiled(config: Config, key: str, rule: RoutingRule, remotes: Iterable[str]) -> Rule:
    for number, name in enumerate(rule.forward):
        if name not in remotes:
            known = ", ".join(sorted(remotes)) or "there are none"
            raise config.error(f"{key}.forward[{number}]", f"{name} is not in remote_aes ({known})")
    if rule.compress and rule.compress not in COMPRESSIONS and rule.compress not in COMPRESSIONS.values():
        raise config.error(f"{key}.compress", f"{rule.compress} is none of {', '.join(COMPRESSIONS)}")
    if rule.webhook is not None and config.routing.webhook_secret_file is None:
        raise config.error(
            f"{key}.webhook", "needs routing.webhook_secret_file, so that the receiver can check who calls"
        )
    conditions = [
        tuple(_condition(config, f"{key}.{name}.{keyword}", keyword, patterns, rule.when) for keyword, patterns in each)
        for name, each in (("match", rule.match.items()), ("unless", rule.unless.items()))
    ]
    changes = tuple(
        change
        for number, each in enumerate(rule.changes)
        for change in _changes(config, f"{key}.changes[{number}]", each)
    )
    compress = COMPRESSIONS.get(rule.compress, rule.compress)
    match, unless = conditions
    return Rule(rule, match, unless, Alteration(changes, rule.deidentify, compress))


def _condition(config: Config, key: str, keyword: str, patterns: Sequence[str], when: str) -> Condition:
    if keyword == FINDING and when != "finding":
        raise config.error(key, "only rules with `when: finding` have findings")
    if keyword == TIME_OF_DAY:
        try:
            return Condition(keyword, tuple(patterns), windows=tuple(map(TimeWindow.parse, patterns)))
        except ValueError as error:
            raise config.error(key, str(error)) from None
    attribute = BY_KEYWORD.get(keyword)
    if attribute is None and keyword not in _OTHERS:
        hint = f", and none of {', '.join(_OTHERS)}"
        raise config.error(key, f"{keyword[:64]} is no attribute of the index (docs/outgoing.md lists them){hint}")
    vr = attribute.vr if attribute else _OTHERS[keyword]
    if vr == "SQ":
        raise config.error(key, "is a sequence, which rules cannot match")
    try:
        matchers = tuple(matcher_for(vr, each) for each in patterns)
    except InvalidIdentifier as error:
        raise config.error(key, f"{', '.join(patterns)[:64]}: {error}") from None
    return Condition(keyword, tuple(patterns), matchers, multiple=attribute.multiple if attribute else False)


def _changes(config: Config, key: str, settings: AttributeChange) -> list[TagChange]:
    found = [TagChange(Operation.REMOVE, keyword) for keyword in settings.remove or ()]
    for operation, texts in (
        (Operation.SET, settings.set),
        (Operation.PREFIX, settings.prefix),
        (Operation.SUFFIX, settings.suffix),
        (Operation.COPY, settings.copy_from),
    ):
        found += [TagChange(operation, keyword, text) for keyword, text in (texts or {}).items()]
    found += [
        TagChange(Operation.REPLACE, keyword, each.new, each.old) for keyword, each in (settings.replace or {}).items()
    ]
    for change in found:
        try:
            change.check()
        except InvalidRequest as error:
            raise config.error(key, str(error)) from None
    return found
