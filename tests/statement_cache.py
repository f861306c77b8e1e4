"""Statements of SQLAlchemy are compiled once for all databases of a process, of which the tests open thousands.

A server opens one and compiles as much once in its life; a test that opens another one would compile all of it again,
which takes a fifth of its time.
"""

from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

from pacs_server.index import postgresql, sqlite

_compiled: LRUCache[Any, Any] = LRUCache(4000)


def share() -> None:
    """Have all engines of the index that are made from now on share what was compiled."""
    for module in (sqlite, postgresql):
        vars(module)["create_engine"] = _engine
    # What was compiled is kept by dialect among others, and each engine has its own.
    vars_of_all: Any = DefaultDialect
    vars_of_all.__eq__ = lambda one, other: type(one) is type(other)
    vars_of_all.__hash__ = lambda one: hash(type(one))


def _engine(*args: Any, **options: Any) -> Engine:
    engine = create_engine(*args, **options)
    engine._compiled_cache = _compiled
    return engine
