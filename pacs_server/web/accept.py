"""What a client accepts: the header Accept, or the query parameter of that name (PS3.18 8.3.3, 8.7)."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from starlette.requests import Request

from pacs_server.dicom.bulk_syntax import OLD_NAMES
from pacs_server.errors import NotAcceptable
from pacs_server.kit.media_types import QUOTED, media_type_of

_MULTIPART: Final = "multipart/related"
_BETWEEN_COMMAS: Final = re.compile(QUOTED.replace("{separator}", ","))
_MOST_RANGES: Final = 64
# Longer headers are read anew each time.
_MOST_KEPT: Final = 1024
# A query component that may hold a parameter of that name, which may be percent-encoded.
_MAY_ASK: Final = re.compile(rb"(?:^|&)(?:accept(?:=|&|$)|[^=&]*%)")


@dataclass(frozen=True, slots=True)
class Accepted:
    """One thing that a client accepts; `media_type` may be */* or image/*.

    `multipart` says whether it wants its parts in multipart/related, or the one part by itself; None if either will do.
    `transfer_syntax` is that of its parameter: a UID, "*" for any, or "" if there is none.
    """

    media_type: str
    multipart: bool | None = None
    transfer_syntax: str = ""
    quality: float = 1.0
    parameters: dict[str, str] = field(default_factory=dict, compare=False)

    def takes(self, media_type: str) -> bool:
        """Whether this range holds the media type."""
        kind, _, rest = self.media_type.partition("/")
        return self.media_type in ("*/*", media_type) or (rest == "*" and media_type.startswith(f"{kind}/"))


def accepted(request: Request) -> list[Accepted]:
    """What the client accepts, the best first; anything at all if it does not say.

    The query parameter `accept` stands before the header (PS3.18 8.3.3.1).
    """
    asked = request.query_params.getlist("accept") if _MAY_ASK.search(request.scope["query_string"]) else ()
    texts = tuple(asked or request.headers.getlist("accept"))
    # Clients say the same again and again.
    return list(_known(texts) if sum(map(len, texts)) < _MOST_KEPT else _best_first(texts))


def _best_first(texts: tuple[str, ...]) -> tuple[Accepted, ...]:
    ranges = [each for text in texts for each in _ranges(text)][:_MOST_RANGES]
    ranges = sorted(ranges, key=lambda each: -each.quality)
    return tuple(each for each in ranges if each.quality > 0) or (() if ranges else (Accepted("*/*"),))


_known = lru_cache(maxsize=128)(_best_first)


def choose(request: Request, offered: Sequence[str]) -> str:
    """The first of the offered media types that the client accepts best, alone or in parts. Raises NotAcceptable."""
    for each in accepted(request):
        found = next((media_type for media_type in offered if each.takes(media_type)), None)
        if found is not None:
            return found
    raise not_acceptable(offered)


def not_acceptable(offered: Iterable[str]) -> NotAcceptable:
    """The error that says what can be had."""
    return NotAcceptable(f"nothing that the header Accept names can be had here; there is {', '.join(offered)}")


def _ranges(text: str) -> Iterable[Accepted]:
    for part in _BETWEEN_COMMAS.findall(text):
        media_type, parameters = media_type_of(part)
        if "/" not in media_type:
            continue
        quality, syntax = _quality(parameters.get("q", "1")), parameters.get("transfer-syntax", "")
        if media_type == _MULTIPART:
            inner = parameters.get("type", "*/*").lower()
            inner = OLD_NAMES.get(inner, inner) if "/" in inner else "*/*"
            yield Accepted(inner, True, syntax, quality, parameters)
        else:
            multipart = None if media_type in ("*/*", "multipart/*") else False
            yield Accepted(OLD_NAMES.get(media_type, media_type), multipart, syntax, quality, parameters)


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0
