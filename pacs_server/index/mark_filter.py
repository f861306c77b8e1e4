"""Studies by their marks, as a condition of the statements that list studies.

Marks are rows of their own, by the UID of a study. SQLite keeps no count of them, so it is asked whether a mark is rare
or frequent: of a rare one the rows are collected first, of a frequent one each study is asked for it, the newest first,
until the page is full. PostgreSQL decides that by its statistics.
"""

from dataclasses import dataclass
from typing import Final

from pacs_server.index.database import Database
from pacs_server.index.marks import Reading
from pacs_server.index.matching import Clause, all_of

# Up to so many studies a mark is rare.
_FEW: Final = 2000


@dataclass(frozen=True, slots=True)
class MarkFilter:
    """Studies with all of these labels, that this person or role is to read, and whose reading is that far.

    '' as `assigned_to` is for those that nobody is to read; a study that nobody has marked is unread.
    """

    labels: tuple[str, ...] = ()
    assigned_to: str | None = None
    reading: Reading | None = None

    def __bool__(self) -> bool:
        return self != NOTHING


NOTHING: Final = MarkFilter()


def condition_of(wanted: MarkFilter, database: Database) -> Clause:
    """The condition that a row of the table of studies has to fulfil; raises IndexUnavailable."""
    clauses = [_marked(database, "study_label", "label = ?", (label,)) for label in dict.fromkeys(wanted.labels)]
    facts: dict[str, str] = {}
    if wanted.assigned_to:
        facts["assigned_to = ?"] = wanted.assigned_to
    elif wanted.assigned_to is not None:
        clauses.append(_unmarked("assigned_to <> ''"))
    if wanted.reading is Reading.UNREAD and not wanted.assigned_to:
        clauses.append(_unmarked("state <> 'unread'"))
    elif wanted.reading is not None:
        facts["state = ?"] = wanted.reading
    if facts:
        clauses.append(_marked(database, "study_reading", " AND ".join(facts), tuple(facts.values())))
    return all_of(clauses)


def _marked(database: Database, table: str, fact: str, values: tuple[str, ...]) -> Clause:
    if database.is_sqlite and _is_rare(database, table, fact, values):
        return Clause(f"study.study_instance_uid IN (SELECT study_instance_uid FROM {table} WHERE {fact})", values)  # noqa: S608
    return Clause(f"EXISTS ({_of_study(table)} AND {fact})", values)


def _unmarked(fact: str) -> Clause:
    return Clause(f"NOT EXISTS ({_of_study('study_reading')} AND {fact})", ())


def _of_study(table: str) -> str:
    return f"SELECT 1 FROM {table} WHERE {table}.study_instance_uid = study.study_instance_uid"  # noqa: S608


def _is_rare(database: Database, table: str, fact: str, values: tuple[str, ...]) -> bool:
    sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {fact} LIMIT {_FEW + 1})"  # noqa: S608
    with database.rows(sql, values, few=True) as rows:
        return int(next(rows)[0]) <= _FEW
