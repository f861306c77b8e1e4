"""The rule engine: which rules apply to what happened in the archive. It decides; others act."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pacs_server.index.changes import ChangeKind
from pacs_server.index.feed import Change
from pacs_server.index.routing import RoutingIndex
from pacs_server.services.routing import FINDING, PRIORITY, Facts, Rule, Rules

# Local time, which is what rules speak of.
Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now().astimezone()


@dataclass(frozen=True, slots=True)
class Decision:
    """A rule applies to instances of a study."""

    rule: Rule
    study_instance_uid: str
    instances: tuple[Facts, ...]
    finding: str = ""

    def for_remote(self, titles: Collection[str]) -> tuple[list[Facts], Counter[str]]:
        """The instances to send to the remote of these names, and why others are not: how many for each reason."""
        circles = [each.circle(titles) for each in self.instances]
        going = [each for each, circle in zip(self.instances, circles, strict=True) if circle is None]
        return going, Counter(circle for circle in circles if circle is not None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a rule would do with a study: to how many of its instances it applies, or why to none."""

    rule: Rule
    decision: Decision | None
    instances: int
    reason: str = ""


class RuleEngine:
    """Matches rules; thread-safe, and everything raises IndexUnavailable."""

    def __init__(self, index: RoutingIndex, rules: Callable[[], Rules], *, clock: Clock = _now) -> None:
        """`rules` are those in force now."""
        self.rules = rules
        self._index = index
        self._clock = clock

    def arrived(self, changes: Iterable[Change]) -> list[Decision]:
        """What the rules for arrivals say of the instances of these changes that are still there."""
        rules = self.rules()
        ids = [change.instance_id for change in changes if change.instance_id is not None]
        applying = rules.at("arrival")
        if not ids or not applying:
            return []
        return self._decisions(applying, self._facts(rules, self._index.instances(ids, rules.attributes)))

    def completed(self, study_instance_uid: str) -> list[Decision]:
        """What the rules for complete studies say: a rule that applies to one instance applies to the whole study."""
        rules = self.rules()
        facts = self._of_study(rules, study_instance_uid)
        return [
            Decision(rule, study_instance_uid, tuple(facts))
            for rule in rules.at("study_complete")
            if any(rule.refusal(each, self._clock()) is None for each in facts)
        ]

    def found(self, change: Change) -> list[Decision]:
        """What the rules for findings say of a change of that kind."""
        rules = self.rules()
        applying = rules.at("finding")
        if change.kind is not ChangeKind.FINDING or not applying:
            return []
        facts = [
            each
            for each in self._of_study(rules, change.study_instance_uid, {FINDING: change.detail})
            if change.sop_instance_uid in ("", each.sop_instance_uid)
        ]
        return [
            Decision(each.rule, each.study_instance_uid, each.instances, change.detail)
            for each in self._decisions(applying, facts)
        ]

    def test(self, study_instance_uid: str) -> tuple[int, list[Verdict]]:
        """How many instances a study has, and what each rule would do with them if they arrived now."""
        rules = self.rules()
        facts = self._of_study(rules, study_instance_uid)
        return len(facts), [self._verdict(rule, study_instance_uid, facts) for rule in rules.rules]

    def _verdict(self, rule: Rule, study_instance_uid: str, facts: Sequence[Facts]) -> Verdict:
        now = self._clock()
        refusals = [rule.refusal(each, now) for each in facts]
        applies = tuple(each for each, refusal in zip(facts, refusals, strict=True) if refusal is None)
        if not applies:
            return Verdict(rule, None, 0, next(iter(refusals), None) or "the study has no instances")
        if rule.settings.when == "study_complete":
            applies = tuple(facts)
        return Verdict(rule, Decision(rule, study_instance_uid, applies), len(applies))

    def _decisions(self, rules: Iterable[Rule], facts: Sequence[Facts]) -> list[Decision]:
        now = self._clock()
        decisions = []
        for rule in rules:
            by_study: dict[str, list[Facts]] = defaultdict(list)
            for each in facts:
                if rule.refusal(each, now) is None:
                    by_study[each.study_instance_uid].append(each)
            decisions += [Decision(rule, study, tuple(some)) for study, some in by_study.items()]
        return decisions

    def _of_study(self, rules: Rules, study: str, also: dict[str, str] | None = None) -> list[Facts]:
        return self._facts(rules, self._index.of_study(study, rules.attributes), also or {})

    def _facts(self, rules: Rules, rows: Iterable[tuple[Any, ...]], also: dict[str, str] | None = None) -> list[Facts]:
        keywords = [each.keyword for each in rules.attributes]
        found = list(rows)
        priorities = self._index.priorities({row[1] for row in found}) if rules.uses_priority and found else {}
        facts = []
        for key, study, series, sop, calling_ae, originator, *texts in found:
            values = dict(zip(keywords, texts, strict=True)) | (also or {})
            if rules.uses_priority:
                values[PRIORITY] = priorities.get(study, "")
            facts.append(Facts(key, study, series, sop, calling_ae, values, originator))
        return facts
