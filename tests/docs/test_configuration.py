"""The reference of the configuration has every key, with its default and when a change takes effect."""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import pytest
from annotated_types import Ge, Le
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pacs_server.config import DeletionRule, PeerRule, RemoteAEConfig, RemoteAuthConfig, RoutingRule
from pacs_server.config.load import load
from pacs_server.config.model import settings, takes_effect
from pacs_server.config.sections.polling import PollingConfig, PrefetchConfig

PAGE = "docs/configuration.md"

# The settings at the top that are lists.
TOP = ("remote_aes", "polling", "prefetch")


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    for section, keys in groupby(settings(), lambda pair: pair[0].partition(".")[0]):
        if section == "routing":
            yield from _routing(dict(keys))
        elif section not in TOP:
            yield from keys
        if section == "access_control":
            yield from ((f"access_control.peers[].{name}", each) for name, each in PeerRule.model_fields.items())
    for key, field in RemoteAEConfig.model_fields.items():
        yield f"remote_aes[].{key}", field
        if key == "auth":
            yield from ((f"remote_aes[].auth.{name}", each) for name, each in RemoteAuthConfig.model_fields.items())
    for name, listed in (("polling", PollingConfig), ("prefetch", PrefetchConfig)):
        yield from ((f"{name}[].{field.alias or key}", field) for key, field in listed.model_fields.items())


def _routing(keys: dict[str, FieldInfo]) -> Iterator[tuple[str, FieldInfo]]:
    for key, field in keys.items():
        yield key, field
        listed = {"routing.rules": RoutingRule, "routing.delete": DeletionRule}.get(key)
        if listed is not None:
            yield from ((f"{key}[].{name}", each) for name, each in listed.model_fields.items())


FIELDS = dict(_fields())
# The keys of a list change with the list.
EFFECTS = {key: takes_effect(field) for key, field in settings()}
LISTS = ("access_control.peers", "routing.rules", "routing.delete", *TOP)


def _shown(value: Any) -> str:
    match value:
        case _ if value is PydanticUndefined:
            return "required"
        case None:
            return "`null`"
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:.10g}`"
        case Mapping():
            return "`{}`"
        case "":
            return "` `"
        case tuple():
            return "`[{}]`".format(", ".join(f'"{item}"' for item in value))
        case Path():
            return f"`./{value}`"
    return f"`{value}`"


@pytest.fixture(scope="module")
def documented(rows: Callable[..., list[list[str]]]) -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in rows(PAGE, "Settings")}


def test_every_key_and_no_other(documented: dict[str, list[str]]) -> None:
    assert list(documented) == list(FIELDS)


@pytest.mark.parametrize("key", FIELDS)
def test_default_and_effect(documented: dict[str, list[str]], key: str) -> None:
    default, values, when, effect = documented[key]
    assert default == _shown(FIELDS[key].default)
    declared = EFFECTS[next((name for name in LISTS if key.startswith(f"{name}[]")), key)]
    assert declared is not None
    assert when == declared.value
    assert values
    assert effect.endswith(".")


@pytest.mark.parametrize("key", FIELDS)
def test_possible_values(documented: dict[str, list[str]], key: str) -> None:
    values = documented[key][1]
    field = FIELDS[key]
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    assert all(f"`{choice}`" in values for choice in choices)
    lowest = [limit.ge for limit in field.metadata if isinstance(limit, Ge)]
    highest = [limit.le for limit in field.metadata if isinstance(limit, Le)]
    if lowest and highest and not key.endswith("min_free_space"):
        assert f"{lowest[0]} to {highest[0]}" in values


def test_the_examples_of_environment_variables_work() -> None:
    environ = {
        "PACS_SERVER__SERVER__PORT": "104",
        "PACS_SERVER__ACCESS_CONTROL__ALLOWED_AE_TITLES": '["CT*", "MR*"]',
    }
    config = load(None, environ=environ, overrides={})
    assert config.server.port == 104
    assert config.access_control.allowed_ae_titles == ("CT*", "MR*")


def test_the_examples_are_on_the_page(document: Callable[[str], str]) -> None:
    assert "PACS_SERVER__SERVER__PORT=104" in document(PAGE)
    assert """PACS_SERVER__ACCESS_CONTROL__ALLOWED_AE_TITLES='["CT*", "MR*"]'""" in document(PAGE)
