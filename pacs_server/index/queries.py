"""Queries on the index: matches for C-FIND, instances for retrieve."""

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import select

from pacs_server.dicom.attributes import ATTRIBUTES, BY_KEYWORD, UNIQUE_KEYS, Attribute
from pacs_server.dicom.identifier import MatchingKey, Query, RetrieveKeys
from pacs_server.dicom.json_codec import ReturnKey
from pacs_server.dicom.levels import Level
from pacs_server.dicom.page import WHOLE, Order, Page
from pacs_server.dicom.scope import EVERYTHING, Scope
from pacs_server.dicom.subject import Subject
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index.database import Database
from pacs_server.index.instances import StoredInstance
from pacs_server.index.matching import Clause, all_of, column_of, condition_of, name_of, one_of
from pacs_server.index.models import NAME_MATCH, TABLES, instance, patient, series, study
from pacs_server.index.scope import joined_from, limited, seen

_STORED = [
    name_of(column)
    for column in (
        study.c.study_instance_uid, series.c.series_instance_uid, instance.c.sop_instance_uid,
        instance.c.sop_class_uid, instance.c.transfer_syntax_uid, instance.c.path, instance.c.data_set_offset,
        instance.c.size, instance.c.digest, instance.c.version,
    )
]  # fmt: skip
_PLACE = [
    name_of(column)
    for column in (study.c.id, series.c.series_number, series.c.id, instance.c.instance_number, instance.c.id)
]
_SUBJECT = ", ".join(
    name_of(column)
    for column in (
        patient.c.patient_id, patient.c.issuer_of_patient_id, study.c.study_instance_uid, study.c.accession_number,
    )
)  # fmt: skip
# Whose the instances are: the patient, and what a `Subject` tells of the patient and the study.
_WHOSE = [
    name_of(column)
    for column in (
        patient.c.id, patient.c.patient_id, patient.c.issuer_of_patient_id, study.c.study_instance_uid,
        study.c.accession_number,
    )
]  # fmt: skip
_SUBJECT_AT = len(_STORED) + len(_PLACE)
# So many rows may be in memory at a time.
_FEW = 1000
# So many matches are counted, for so many seconds.
_MOST_COUNTED = 10_000
_COUNT_SECONDS = 0.01
# The greatest number that both databases take.
_NO_LIMIT = (1 << 63) - 1
_UNIQUE = [column_of(BY_KEYWORD[UNIQUE_KEYS[level]]) for level in Level]


class Selection(NamedTuple):
    """Instances in the order of study, series and instance number, and whose their studies are, patient by patient."""

    instances: list[StoredInstance]
    subjects: list[Subject]


class QueryIndex:
    """Finds stored patients, studies, series and instances; thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(
        self, query: Query, scope: Scope = EVERYTHING, page: Page = WHOLE
    ) -> Generator[tuple[str, ...], None, None]:
        """The text of `query.returns` for every match at the level of the query that belongs to the page.

        Rows come from the database as they are asked for; closing the iterator gives the connection
        back. Raises IndexUnavailable.
        """
        statement, residual = find_statement(query, scope, page)
        statement = limited(statement, scope, embedded=self._database.is_sqlite)
        width = len(query.returns)
        few = not residual and page.limit is not None and page.limit <= _FEW
        with self._database.rows(*statement, few=few) as rows:
            for row in _paged(residual, rows, width, page) if residual else rows:
                yield row[:width]

    def count_after(self, query: Query, scope: Scope, page: Page) -> int | None:
        """How many matches follow those of the page; None if there are very many, or it takes long to tell.

        Raises IndexUnavailable.
        """
        start = page.offset + (page.limit or 0)
        statement = _count_statement(query, scope, start)
        if statement is None:
            return None
        counted = self._database.soon(*limited(statement, scope, embedded=self._database.is_sqlite), _COUNT_SECONDS)
        return None if counted is None or counted[0] > _MOST_COUNTED else int(counted[0])

    def select(self, keys: RetrieveKeys, scope: Scope = EVERYTHING) -> list[StoredInstance]:
        """The instances that the keys select, ordered by study, series and instance number; raises IndexUnavailable."""
        statement = limited(_select_statement(keys, scope), scope, embedded=self._database.is_sqlite)
        with self._database.rows(*statement) as rows:
            return _instances(rows)

    def select_with_subjects(self, keys: RetrieveKeys, scope: Scope = EVERYTHING) -> Selection:
        """The instances that the keys select, and whose they are, by one statement; raises IndexUnavailable."""
        statement = limited(_select_statement(keys, scope, _WHOSE), scope, embedded=self._database.is_sqlite)
        # A UID names one instance: its row comes at once.
        with self._database.rows(*statement, few=len(keys.sop_instance_uids) == 1) as rows:
            found = list(rows)
        studies = {row[len(_STORED)]: row[_SUBJECT_AT:] for row in found}
        whose = sorted((patient_key, study_key, rest) for study_key, (patient_key, *rest) in studies.items())
        return Selection(_instances(found), [Subject(*rest) for _, _, rest in whose])

    def subjects(self, study_instance_uids: Collection[str]) -> list[Subject]:
        """The patients of these studies, in the order of patients; raises IndexUnavailable."""
        if not study_instance_uids:
            return []
        found = one_of(name_of(study.c.study_instance_uid), tuple(study_instance_uids))
        sql = f"SELECT {_SUBJECT} FROM study JOIN patient ON patient.id = study.patient_fk WHERE {found.sql}"  # noqa: S608
        with self._database.rows(f"{sql} ORDER BY patient.id, study.id", found.values, few=True) as rows:
            return [Subject(*row) for row in rows]

    def subjects_of(self, sop_instance_uids: Collection[str]) -> list[Subject]:
        """The patients of the studies of these instances, each study once; raises IndexUnavailable."""
        statement = (
            select(study.c.study_instance_uid)
            .select_from(instance.join(series).join(study))
            .where(instance.c.sop_instance_uid.in_(sop_instance_uids))
            .distinct()
        )
        with self._database.connect() as connection:
            studies = list(connection.scalars(statement))
        return self.subjects(studies)


def _paged(
    residual: list[MatchingKey], rows: Iterable[tuple[str, ...]], width: int, page: Page
) -> Iterator[tuple[str, ...]]:
    stop = None if page.limit is None else page.offset + page.limit
    return islice((row for row in rows if fulfils(residual, row, width)), page.offset, stop)


def find_statement(
    query: Query,
    scope: Scope = EVERYTHING,
    page: Page = WHOLE,
    *,
    first: Sequence[str] = (),
    also: Iterable[Clause] = (),
) -> tuple[Clause, list[MatchingKey]]:
    """The SELECT of a query, and the keys that Python has to match; their columns follow those of the response.

    If there are such keys, the SELECT returns all rows instead of those of the page. With a limited `scope` it
    becomes a whole statement by `limited`. The columns `first` come before those of the response, and the rows fulfil
    the conditions `also`.
    """
    conditions = [(key, condition_of(key)) for key in query.keys]
    residual = [key for key, condition in conditions if not condition.exact]
    returned = _returned(query.returns)
    extra = [attribute for key in residual for attribute in key.attributes]
    matched = [attribute for key in query.keys for attribute in key.attributes]
    ordered = [order.attribute for order in page.orders]
    columns = [*first, *returned.columns, *map(as_text, extra)]
    clauses = [*(condition.clause for _, condition in conditions if condition.clause is not None), *also]
    top = min([query.level, returned.top, *(attribute.level for attribute in matched + ordered)])
    found = _selection(columns, query.level, top, clauses, scope)
    rest = _order_by(query.level, page) + ("" if residual else _limit(page))
    return Clause(found.sql + rest, found.values), residual


def _count_statement(query: Query, scope: Scope, start: int) -> Clause | None:
    """The SELECT that counts the matches from the one of that number on; None if Python has to match some keys."""
    conditions = [condition_of(key) for key in query.keys]
    if not all(condition.exact for condition in conditions):
        return None
    clauses = [condition.clause for condition in conditions if condition.clause is not None]
    top = min((attribute.level for key in query.keys for attribute in key.attributes), default=query.level)
    found = _selection(["1"], query.level, min(top, query.level), clauses, scope)
    rest = f"{found.sql} LIMIT {_MOST_COUNTED + 1} OFFSET {min(start, _NO_LIMIT)}"
    return Clause(f"SELECT count(*) FROM ({rest}) AS following", found.values)  # noqa: S608


class _Returned(NamedTuple):
    """The columns of the attributes of a response, and the highest level of them."""

    columns: tuple[str, ...]
    top: Level


@lru_cache(maxsize=256)
def _returned(returns: tuple[ReturnKey, ...]) -> _Returned:
    """Peers ask for the same attributes again and again."""
    attributes = [ATTRIBUTES[key.tag] for key in returns]
    top = min((attribute.level for attribute in attributes), default=Level.IMAGE)
    return _Returned(tuple(map(as_text, attributes)), top)


def _order_by(level: Level, page: Page) -> str:
    terms = [term for order in page.orders for term in _order_terms(order)]
    return f" ORDER BY {', '.join([*terms, TABLES[level].name + '.id' + _direction(page.newest_first)])}"


def _order_terms(order: Order) -> list[str]:
    attribute, column = order.attribute, column_of(order.attribute)
    direction = _direction(order.descending)
    if attribute.column in NAME_MATCH:
        return [f"{column}_match{direction}"]
    # Of numbers that are kept as text the longer one is the greater one.
    by_length = [f"length({column}){direction}"] if attribute.vr == "IS" and not attribute.computed else []
    return [*by_length, column + direction]


def _direction(descending: bool) -> str:
    return " DESC" if descending else ""


def _limit(page: Page) -> str:
    if page.limit is not None:
        return f" LIMIT {page.limit} OFFSET {page.offset}" if page.offset else f" LIMIT {page.limit}"
    # SQLite has no OFFSET without a LIMIT.
    return f" LIMIT {_NO_LIMIT} OFFSET {page.offset}" if page.offset else ""


def _selection(columns: list[str], level: Level, top: Level, clauses: list[Clause], scope: Scope) -> Clause:
    """A SELECT from the table of a level, joined with those above it up to `top`."""
    if scope.is_limited:
        top, clauses = Level.PATIENT, [*clauses, Clause(seen(level, scope), ())]
    where = all_of(clauses) if clauses else Clause("1 = 1", ())
    # A query without keys other than its level needs no column.
    sql = f"SELECT {', '.join(columns) or 'NULL'} FROM {joined_from(level, top)} WHERE {where.sql}"  # noqa: S608
    return Clause(sql, where.values)


def as_text(attribute: Attribute) -> str:
    """The column of an attribute as text, in SQL."""
    column = column_of(attribute)
    return f"CAST({column} AS VARCHAR)" if attribute.computed and attribute.vr == "IS" else column


def fulfils(residual: Iterable[MatchingKey], row: Sequence[str], start: int) -> bool:
    """Whether a row fulfils the keys that Python has to match, whose columns begin at `start`."""
    for key in residual:
        end = start + len(key.attributes)
        if not key.matches(*row[start:end]):
            return False
        start = end
    return True


def _select_statement(keys: RetrieveKeys, scope: Scope, also: Sequence[str] = ()) -> Clause:
    """The SELECT of instances: the columns `_STORED`, `_PLACE`, and `also`."""
    wanted = (keys.patient_ids, keys.study_instance_uids, keys.series_instance_uids, keys.sop_instance_uids)
    clauses = [one_of(column, values) for column, values in zip(_UNIQUE, wanted, strict=True) if values]
    return _selection([*_STORED, *_PLACE, *also], Level.IMAGE, Level.PATIENT, clauses, scope)


def _instances(rows: Iterable[tuple[Any, ...]]) -> list[StoredInstance]:
    # Thousands of instances have equal texts, and the driver creates a new string for each.
    texts: dict[str, str] = {}
    found = [(_place(row), _stored_instance(row, texts)) for row in rows]
    if len(found) > 1:
        found.sort(key=lambda pair: pair[0])
    return [stored for _, stored in found]


def _stored_instance(row: tuple[Any, ...], texts: dict[str, str]) -> StoredInstance:
    """The instance of a row; `texts` holds one copy of each text, which instances share."""
    study_uid, series_uid, sop_uid, sop_class, transfer_syntax, *rest = row[: len(_STORED)]
    shared = (texts.setdefault(text, text) for text in (study_uid, series_uid, sop_class, transfer_syntax))
    study_uid, series_uid, sop_class, transfer_syntax = shared
    return StoredInstance(InstanceUIDs(study_uid, series_uid, sop_uid), sop_class, transfer_syntax, *rest)


def _place(row: tuple[Any, ...]) -> tuple[int, ...]:
    study_key, series_number, series_key, instance_number, instance_key = row[len(_STORED) : _SUBJECT_AT]
    return study_key, _number(series_number), series_key, _number(instance_number), instance_key


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        # An entity without a number comes last; IS allows no greater number.
        return 1 << 31
