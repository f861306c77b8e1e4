"""The section `routing`: rules that say what becomes of objects that arrive."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.types import Duration, Live, OptionalPath, Section, is_loopback

When = Literal["arrival", "study_complete", "finding"]
PriorityName = Literal["urgent", "high", "medium", "low"]
ReadingName = Literal["unread", "reading", "read", "review"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What a rule may do, apart from deciding how and when.
ACTIONS = ("forward", "webhook", "label", "assign", "reading")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("a name has 1 to 64 letters, digits, dots, dashes and underscores")
    return name


def _check_webhook(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.fragment:
        raise ValueError("must be an address such as https://ris.example/hook, without a user in it")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("must begin with https://: what it tells is about patients")
    return url


def _list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_Name = Annotated[str, AfterValidator(_check_name)]
_Texts = Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(_list)]
_Match = Annotated[Mapping[str, _Texts], Field(strict=False)]
_Names = Annotated[tuple[str, ...], Field(strict=False), BeforeValidator(_list)]
_Texts_ = Annotated[Mapping[str, str], Field(strict=False)]


class Replacement(Section):
    """What to look for in a value, and what to put in its place."""

    old: Annotated[str, Field(min_length=1)]
    new: str


class AttributeChange(Section):
    """One change of attributes of what is sent; exactly one of the keys is given, each maps keywords to texts."""

    set: _Texts_ | None = None
    remove: _Names | None = None
    prefix: _Texts_ | None = None
    suffix: _Texts_ | None = None
    replace: Annotated[Mapping[str, Replacement], Field(strict=False)] | None = None
    copy_from: _Texts_ | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> "AttributeChange":
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError("one", "needs one of set, remove, prefix, suffix, replace and copy_from", {})
        return self


class RoutingRule(Section):
    """A rule: when it is looked at, which objects it is about, and what is done with them.

    `match` maps keywords of indexed attributes, and CallingAETitle, RequestedProcedurePriority, TimeOfDay and Finding,
    to patterns of which one has to match; all keywords have to. An object that fulfils all of `unless` is left alone.
    """

    name: _Name
    enabled: bool = True
    when: When = "arrival"
    match: _Match = {}  # noqa: RUF012 - pydantic copies it
    unless: _Match = {}  # noqa: RUF012
    forward: _Names = ()
    changes: Annotated[tuple[AttributeChange, ...], Field(strict=False)] = ()
    deidentify: bool = False
    compress: str = ""
    priority: PriorityName | None = None
    webhook: Annotated[str, AfterValidator(_check_webhook)] | None = None
    label: _Names = ()
    assign: str = ""
    reading: ReadingName | None = None

    @model_validator(mode="after")
    def _does_something(self) -> "RoutingRule":
        if not any(getattr(self, name) for name in ACTIONS):
            raise PydanticCustomError("idle", f"does nothing: it needs one of {', '.join(ACTIONS)}", {})
        if (self.changes or self.deidentify or self.compress) and not self.forward:
            raise PydanticCustomError("no_way", "changes what is sent, and sends nothing: it needs forward", {})
        return self


class DeletionRule(Section):
    """Studies to all of which all these remotes have committed are deleted here, `after` so many seconds.

    The time begins when the last object of the study came.
    """

    name: _Name
    committed_by: Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(_list)]
    after: Duration


def _check_unique_names(rules: tuple[RoutingRule, ...]) -> tuple[RoutingRule, ...]:
    seen: dict[str, int] = {}
    for number, rule in enumerate(rules):
        first = seen.setdefault(rule.name, number)
        if first != number:
            text = f"{rule.name} is already the name of routing.rules[{first}]"
            key = f"routing.rules[{number}].name"
            raise PydanticCustomError("duplicate", "{text}", {"text": text, "key": key})
    return rules


class RoutingConfig(Section):
    """Rules that are looked at in their order; all that match apply.

    A study counts as complete when nothing of it has come for `quiet_time`, in seconds, and nobody is still sending it.
    """

    rules: Live[
        Annotated[tuple[RoutingRule, ...], AfterValidator(_check_unique_names), Field(strict=False, max_length=1000)]
    ] = ()
    delete: Live[Annotated[tuple[DeletionRule, ...], Field(strict=False, max_length=100)]] = ()
    quiet_time: Live[Duration] = 60.0
    webhook_secret_file: Live[OptionalPath] = None
