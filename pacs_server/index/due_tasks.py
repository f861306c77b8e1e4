"""The statements by which tasks are added, found and claimed, compiled once: all of them are run for each task."""

from collections.abc import Collection
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BindParameter,
    Integer,
    and_,
    bindparam,
    insert,
    literal_column,
    not_,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from pacs_server.index import task_models
from pacs_server.index.prepared import Prepared
from pacs_server.index.task_models import task as table
from pacs_server.index.task_values import TaskState

_IS_RUNNING = text(task_models.IS_RUNNING)
# There are as many shapes of a statement as there are numbers of busy targets.
_SHAPES: Final = 64

_ADDED: Final = (
    "kind", "target", "priority", "due", "turn", "state", "attempts", "deadline", "claimed_until", "owner", "node",
    "again", "dedupe_key", "payload", "created", "created_by",
)  # fmt: skip

ADD: Final = Prepared(insert(table).values({name: bindparam(name) for name in _ADDED}).returning(table.c.id))
"""Inserts a task."""

CLAIM: Final = Prepared(
    update(table)
    .where(table.c.id == bindparam("_id"))
    .values(
        state=literal_column(f"'{TaskState.RUNNING}'"),
        owner=bindparam("_owner"),
        node=bindparam("_node"),
        claimed_until=bindparam("_until"),
    )
    .returning(table)
)
"""Gives the task `_id` to an owner."""

PROGRESS: Final = Prepared(
    update(table)
    .where(and_(table.c.id == bindparam("_id"), _IS_RUNNING, table.c.owner == bindparam("_owner")))
    .values(progress=bindparam("_progress"))
)
"""Keeps how far a task has come, if its owner still has it."""


@cache
def add_once(dialect: str) -> Prepared:
    """What inserts a task, unless one with its key is ready or running: a running one runs once more then."""
    insert_or_update: Any = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    statement = insert_or_update.values({name: bindparam(name) for name in _ADDED}).on_conflict_do_update(
        index_elements=["dedupe_key"],
        index_where=text(task_models.IS_LIVE),
        set_={"again": or_(table.c.again, table.c.state == literal_column(f"'{TaskState.RUNNING}'"))},
    )
    return Prepared(statement.returning(table.c.id))


class Looks(NamedTuple):
    """What looks for tasks to claim: each wants the values that come with it, and those named here.

    `first` finds the kind and target of the task whose turn it is (`_now`, `_latest`: the end of the longest patience),
    `candidates` those that are claimed together (also `_kind`, `_target`, `_limit`), `next` when the next one is due,
    and `ending` when the next lease ends.
    """

    first: Prepared
    candidates: Prepared
    next: Prepared
    ending: Prepared


def looks_for(
    kinds: Collection[str], busy: Collection[tuple[str, str]], *, urgent_only: bool
) -> tuple[Looks, dict[str, Any]]:
    """What looks for tasks of these kinds, but not for those of a busy kind and target; and values for it."""
    values: dict[str, Any] = {f"_kind{n}": kind for n, kind in enumerate(kinds)}
    for n, (kind, target) in enumerate(busy):
        values |= {f"_busy{n}": kind, f"_of{n}": target}
    return _looks(len(kinds), len(busy), urgent_only), values


def expired_for(kinds: Collection[str], owners: Collection[str]) -> tuple[Prepared, dict[str, Any]]:
    """What finds a task of these kinds whose lease has run out at `_now`, but none of these owners; values for it."""
    values = {f"_kind{n}": kind for n, kind in enumerate(kinds)}
    return _expired(len(kinds), len(owners)), values | {f"_owner{n}": owner for n, owner in enumerate(owners)}


@lru_cache(_SHAPES)
def _looks(kinds: int, busy: int, urgent_only: bool) -> Looks:
    kind, target = table.c.kind, table.c.target
    known = kind.in_([bindparam(f"_kind{n}") for n in range(kinds)])
    others = [not_(and_(kind == bindparam(f"_busy{n}"), target == bindparam(f"_of{n}"))) for n in range(busy)]
    claimable = and_(text(task_models.IS_URGENT if urgent_only else task_models.IS_READY), known, *others)
    # The bound of `turn` follows from that of `due`, and ends the scan of the index.
    due = and_(claimable, table.c.due <= bindparam("_now"), table.c.turn <= bindparam("_latest"))
    mine = and_(due, kind == bindparam("_kind"), target == bindparam("_target"))
    turns = (table.c.turn, table.c.id)
    limit: BindParameter[int] = bindparam("_limit", type_=Integer())
    # Urgent tasks have no patience, and the index of their turns is smaller than that of all due ones.
    order = table.c.turn if urgent_only else table.c.due
    ends = table.c.claimed_until
    return Looks(
        Prepared(select(kind, target).where(due).order_by(*turns).limit(1)),
        Prepared(select(table.c.id).where(mine).order_by(*turns).limit(limit).with_for_update(skip_locked=True)),
        Prepared(select(table.c.due).where(claimable).order_by(order).limit(1)),
        Prepared(select(ends).where(and_(_IS_RUNNING, known)).order_by(ends).limit(1)),
    )


@lru_cache(_SHAPES)
def _expired(kinds: int, owners: int) -> Prepared:
    known = table.c.kind.in_([bindparam(f"_kind{n}") for n in range(kinds)])
    others = [table.c.owner != bindparam(f"_owner{n}") for n in range(owners)]
    ended = table.c.claimed_until <= bindparam("_now")
    return Prepared(select(table.c.id).where(and_(_IS_RUNNING, ended, known, *others)).limit(1))
