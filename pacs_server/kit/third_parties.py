"""The programs of others that this one is made of, with their licences, as their packages tell."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_CLASSIFIER: Final = "License :: "
_LONGEST: Final = 80


@dataclass(frozen=True, slots=True)
class ThirdParty:
    """A package of somebody else; `licence` is empty if it does not tell."""

    name: str
    version: str
    licence: str


@cache
def third_parties(package: str = "pacs-server") -> tuple[ThirdParty, ...]:
    """What a package needs to run, and what that needs, as far as it is installed; by name."""
    found: dict[str, ThirdParty] = {}
    waiting = [package]
    while waiting:
        try:
            one = distribution(waiting.pop())
        except PackageNotFoundError:
            continue
        name = one.metadata["Name"]
        if name.lower() not in found:
            found[name.lower()] = ThirdParty(name, one.version, _licence(one))
            waiting += _needed(one)
    found.pop(package, None)
    return tuple(found[key] for key in sorted(found))


def _needed(one: Distribution) -> Iterator[str]:
    """The names of what a distribution needs. What only an extra brings is left out, unless it runs the server."""
    for requirement in one.requires or ():
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
        if (extra is None or extra[1] in ("postgres", "codecs", "binary", "crypto")) and (
            name := _NAME.match(requirement)
        ):
            yield name[0]


def _licence(one: Distribution) -> str:
    """The SPDX expression (PEP 639), else the short name in the old field, else what the classifiers say."""
    names = [name for name in ("License-Expression", "License") if name in one.metadata]
    told = one.metadata[names[0]].strip() if names else ""
    if told and "\n" not in told and len(told) <= _LONGEST:
        return told
    classifiers = one.metadata.get_all("Classifier") or ()
    kinds = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith(_CLASSIFIER)]
    return ", ".join(kinds) or told.partition("\n")[0][:_LONGEST]
