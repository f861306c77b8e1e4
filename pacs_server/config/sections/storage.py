"""The section `storage`: where the objects are kept, and how."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from pacs_server.config.types import FilePath, Live, Restart, Section, empty_is_none, parse_size

_BOOL = TypeAdapter(bool)


def _fsync(value: object) -> object:
    """`slots` and `off` for true and false in all their spellings, which the setting was once."""
    try:
        return "slots" if _BOOL.validate_python(value) else "off"
    except ValidationError:
        return value


class StorageConfig(Section):
    """Where the objects are kept and how; min_free_space in bytes."""

    directory: Restart[FilePath] = Path("./archive")
    naming: Restart[Literal["hierarchical", "date_hierarchical", "flat"]] = "hierarchical"
    duplicate_policy: Live[Literal["reject", "replace", "ignore"]] = "reject"
    min_free_space: Live[Annotated[int, Field(ge=0, le=2**62), BeforeValidator(parse_size)]] = 1_000_000_000
    trash_days: Live[Annotated[int, Field(ge=1, le=36_500)] | None] = 30
    scrub_rate: Live[
        Annotated[
            Annotated[int, Field(ge=1, le=2**62)] | None, BeforeValidator(parse_size), BeforeValidator(empty_is_none)
        ]
    ] = 1_000_000
    fsync: Restart[Annotated[Literal["slots", "each", "off"], BeforeValidator(_fsync)]] = "slots"
    accept_unknown_sop_classes: Live[bool] = True
