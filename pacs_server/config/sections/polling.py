"""The lists `polling` and `prefetch`, and the section `cache`: what the archive fetches by itself from remotes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pacs_server.config.types import Duration, Live, Section, check_name, parse_size

# So many studies of a remote are fetched at a time, or wait for it in the queue of tasks, unless told otherwise.
AT_ONCE: Final = 50
_MODALITY = re.compile(r"[A-Z0-9_ ]{1,16}")


def _list(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _check_modality(text: str) -> str:
    if not _MODALITY.fullmatch(text):
        raise ValueError(f"{text[:20]!r} is not a modality such as CT")
    return text


def _check_built(then: str) -> str:
    if then == "analyse":
        raise ValueError("this server cannot analyse studies yet, use fetch or route")
    return then


_Name = Annotated[str, AfterValidator(check_name)]
_Names = Annotated[tuple[_Name, ...], Field(strict=False, min_length=1), BeforeValidator(_list)]
_Modalities = Annotated[
    tuple[Annotated[str, AfterValidator(_check_modality)], ...],
    Field(strict=False, min_length=1),
    BeforeValidator(_list),
]
_Priority = Literal["urgent", "high", "medium", "low"]


class PollingConfig(Section):
    """A remote that is asked again and again what it has; times in seconds.

    `query` maps keywords to values as in C-FIND. Without Study Date in it, the studies of the last `window` are asked
    for, and of the time since the last answer if that is longer.
    """

    remote: _Name
    name: str = ""
    every: Annotated[Duration, Field(ge=1)]
    query: Annotated[Mapping[str, str], Field(strict=False)] = {}
    window: Duration = 172_800.0
    then: Annotated[Literal["fetch", "route", "analyse"], AfterValidator(_check_built)] = "fetch"
    priority: _Priority = "medium"
    at_once: Annotated[int, Field(ge=1, le=1000)] = AT_ONCE
    cache: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_remote(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("remote"), str):
            return {**data, "name": data["remote"].strip()}
        return data


class PrefetchConfig(Section):
    """Earlier studies of a patient are fetched when an item of the worklist names the patient; `within` in seconds."""

    on: Literal["worklist"] = "worklist"
    from_: _Names = Field(alias="from")
    modalities: Literal["same", "any"] | _Modalities = "same"
    body_parts: Literal["any"] | _Names = "any"
    priors: Annotated[int, Field(ge=1, le=100)] = 3
    within: Duration = 157_680_000.0
    priority: _Priority = "high"
    cache: bool = False


class CacheConfig(Section):
    """How much of what was fetched as cache is kept, in bytes and seconds; None for no limit."""

    max_size: Live[Annotated[int, Field(ge=1), BeforeValidator(parse_size)] | None] = None
    ttl: Live[Duration | None] = None


def check_polling(polling: tuple[PollingConfig, ...]) -> tuple[PollingConfig, ...]:
    """The entries, if their names are unique. Raises PydanticCustomError."""
    seen: dict[str, int] = {}
    for number, each in enumerate(polling):
        first = seen.setdefault(each.name, number)
        if first != number:
            text = f"{each.name} is already the name of polling[{first}], give one of them another name"
            raise PydanticCustomError("duplicate", "{text}", {"text": text, "key": f"polling[{number}].name"})
    return polling
