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


def _modalities(value: Any) -> Any:
    """The modalities as a tuple, or one of the words that stand for them. Raises ValueError."""
    value = _list(value)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("write same, any, or a list of modalities such as [CT, MR]")
    if tuple(value) in (("same",), ("any",)):
        return value[0]
    for each in value:
        if not isinstance(each, str) or not _MODALITY.fullmatch(each):
            raise ValueError(f"{str(each)[:20]!r} is not a modality such as CT; same and any stand alone")
    return tuple(value)


def _body_parts(value: Any) -> Any:
    """The body parts as a tuple, or `any`. Raises ValueError."""
    value = _list(value)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError("write any, or a list of body parts such as [CHEST, HEAD]")
    return "any" if tuple(value) == ("any",) else tuple(value)


def _check_built(then: str) -> str:
    if then == "analyse":
        raise ValueError("this server cannot analyse studies yet, use fetch or route")
    return then


def _one_text(value: Any) -> Any:
    """The value of a key. Raises ValueError for a list."""
    if isinstance(value, list | tuple):
        raise ValueError(r"write several values as one text, with a backslash between them, such as CT\MR")
    return value


_Name = Annotated[str, AfterValidator(check_name)]
_Names = Annotated[tuple[_Name, ...], Field(strict=False, min_length=1), BeforeValidator(_list)]
_Modalities = Annotated[Literal["same", "any"] | tuple[str, ...], BeforeValidator(_modalities)]
_BodyParts = Annotated[Literal["any"] | tuple[str, ...], BeforeValidator(_body_parts)]
_Priority = Literal["urgent", "high", "medium", "low"]


class PollingConfig(Section):
    """A remote that is asked again and again what it has; times in seconds.

    `query` maps keywords to values as in C-FIND. Without Study Date in it, the studies of the last `window` are asked
    for, and of the time since the last answer if that is longer.
    """

    remote: _Name
    name: str = ""
    every: Annotated[Duration, Field(ge=1)]
    query: Annotated[Mapping[str, Annotated[str, BeforeValidator(_one_text)]], Field(strict=False)] = {}
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
    modalities: _Modalities = "same"
    body_parts: _BodyParts = "any"
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
