"""Matching keys as SQL, equal to `dicom.matching` or a narrowing that Python finishes.

Exact are keys on columns of one value without special cases, list membership in columns of several
values, and times with a match column. Everything else is `exact=False` at best: the caller then
applies `MatchingKey.matches` to each row. Prefixes and date ranges come as `>=` and `<` so that
both databases use their indexes; text is in code-point order on both.

A clause is text, and values that are never in it. As expressions of SQLAlchemy a query by one key takes six times as
long: they cost far more than the database does.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Column

from pacs_server.dicom.attributes import Attribute
from pacs_server.dicom.identifier import MatchingKey
from pacs_server.dicom.matching import (
    AnyOf,
    DateTimeSpan,
    FuzzyName,
    Matcher,
    PersonName,
    Span,
    Values,
    WildCard,
    bare_name,
)
from pacs_server.index.models import NAME_MATCH, TABLES, TIME_MATCH, has_groups, instance

# SQLite limits the depth of expressions to 1000. Beyond this many alternatives, Python does the matching.
_MAX_ALTERNATIVES = 100
# The alias of a name in the subquery of matching names.
_NAMED = "named"


class Clause(NamedTuple):
    """A condition in SQL with a `?` for each value; the text itself never contains data."""

    sql: str
    values: tuple[str, ...]


class Condition(NamedTuple):
    """A matching key in SQL: every match satisfies `clause`, and if `exact` is set, only matches do."""

    clause: Clause | None
    exact: bool


_IN_PYTHON = Condition(None, exact=False)


def name_of(column: Column[Any]) -> str:
    """A column in SQL."""
    return f"{column.table.name}.{column.name}"


def all_of(clauses: Iterable[Clause]) -> Clause:
    """The conjunction of one or more clauses."""
    return _joined(" AND ", clauses)


def one_of(column: str, values: tuple[str, ...]) -> Clause:
    """The condition that a column has one of the given values, of which there is at least one."""
    return Clause(f"{column} IN ({', '.join('?' * len(values))})", values)


def _any_of(clauses: Iterable[Clause]) -> Clause:
    alternatives = _joined(" OR ", clauses)
    return Clause(f"({alternatives.sql})", alternatives.values)


def _joined(operator: str, clauses: Iterable[Clause]) -> Clause:
    texts, values = zip(*clauses, strict=True)
    return Clause(operator.join(texts), sum(values, ()))


def column_of(attribute: Attribute) -> str:
    """The column that holds an attribute, in SQL."""
    if attribute.keyword == "AvailableTransferSyntaxUID":
        return name_of(instance.c.transfer_syntax_uid)
    return f"{TABLES[attribute.level].name}.{attribute.column}"


def condition_of(key: MatchingKey) -> Condition:
    """The key as a condition on the tables of its attributes."""
    attribute = key.attributes[0]
    if attribute.column in NAME_MATCH and isinstance(key.matcher, PersonName | FuzzyName):
        table = TABLES[attribute.level].name
        return Condition(name_clause(table, _match_column(attribute), key.matcher, key.unknown), exact=False)
    if isinstance(key.matcher, DateTimeSpan):
        found = Condition(_dates(column_of(attribute), key.matcher.date), exact=False)
    else:
        found = _condition(attribute, key.matcher)
    if found.clause is None or not key.unknown:
        return found
    return Condition(_any_of([found.clause, _empty(column_of(attribute))]), found.exact)


def _match_column(attribute: Attribute) -> str:
    return f"{attribute.column}_match"


def _empty(column: str) -> Clause:
    return Clause(f"{column} = ''", ())


def _condition(attribute: Attribute, matcher: Matcher) -> Condition:
    match matcher:
        case AnyOf(matchers) if len(matchers) <= _MAX_ALTERNATIVES:
            return _any_matcher([_condition(attribute, each) for each in matchers])
        case Values(values):
            return _values(attribute, values)
        case WildCard(pattern):
            return _wild_card(attribute, pattern)
        case Span(vr="DA") if not attribute.multiple:
            return Condition(_dates(column_of(attribute), matcher), exact=False)
        case Span(vr="TM") if attribute.column in TIME_MATCH:
            column = f"{column_of(attribute)}_match"
            return Condition(between(column, matcher.lower or "0", matcher.upper), exact=True)
    return _IN_PYTHON


def _any_matcher(parts: list[Condition]) -> Condition:
    clauses = [part.clause for part in parts if part.clause is not None]
    if len(clauses) < len(parts):
        return _IN_PYTHON
    return Condition(_any_of(clauses), all(part.exact for part in parts))


def _values(attribute: Attribute, values: tuple[str, ...]) -> Condition:
    column = column_of(attribute)
    if not _holds_several(attribute):
        return Condition(one_of(column, values), exact=True)
    if len(values) > _MAX_ALTERNATIVES:
        return _IN_PYTHON
    delimited = f"'\\' || {column} || '\\'"
    patterns = ["%\\" + _like_text(value) + "\\%" for value in values]
    return Condition(_any_of(_like(delimited, pattern) for pattern in patterns), exact=True)


def _holds_several(attribute: Attribute) -> bool:
    # The attribute may have several values by the dictionary, but an instance has one transfer syntax.
    return attribute.multiple and attribute.keyword != "AvailableTransferSyntaxUID"


def _wild_card(attribute: Attribute, pattern: str) -> Condition:
    column = column_of(attribute)
    if _holds_several(attribute):
        return Condition(_like(column, f"%{_like_text(pattern, wild=True)}%"), exact=False)
    return Condition(_starts(column, pattern, _like_text(pattern, wild=True)), exact=True)


def name_clause(table: str, column: str, matcher: PersonName | FuzzyName, unknown: bool) -> Clause | None:
    """A narrowing to the rows whose folded name may match, with `unknown` the empty ones too; None if none is known."""
    folded = f"{_NAMED}.{column}"
    alternatives = _fuzzy(folded, matcher) if isinstance(matcher, FuzzyName) else _literal(folded, matcher)
    if not alternatives:
        return None
    if unknown:
        # A name that consists of delimiters only counts as unknown, as an empty one does.
        alternatives.append(_empty(folded))
    # A UNION of small SELECTs: neither database would use its indexes for all sides of an OR.
    selections = [
        Clause(f"SELECT {_NAMED}.id FROM {table} AS {_NAMED} WHERE {sql}", values)  # noqa: S608 - values are not in it
        for sql, values in alternatives
    ]
    found = _joined(" UNION ALL ", selections)
    return Clause(f"{table}.id IN ({found.sql})", found.values)


def _fuzzy(folded: str, matcher: FuzzyName) -> list[Clause]:
    return [all_of(_like(folded, f"%{_like_text(word)}%") for word in matcher.words[:_MAX_ALTERNATIVES])]


def _literal(folded: str, matcher: PersonName) -> list[Clause]:
    pattern, *others = matcher.groups
    bare = bare_name(pattern)
    if bare is not None:
        # "x^*" finds "x" too; both start with it.
        pattern = f"{bare}*"
    text = _like_text(pattern, wild=True)
    first_group = _starts(folded, pattern, f"{text}%")
    if others:
        return [first_group] if pattern else []
    return [first_group, all_of([Clause(has_groups(folded), ()), _like(folded, f"%={text}%")])]


def _dates(column: str, span: Span) -> Clause:
    # YYYYMMDD and the old YYYY.MM.DD each sort by date. Python removes other texts that fall in between.
    return _any_of(between(column, form(span.lower) or "0", form(span.upper)) for form in (str, _dotted))


def _dotted(date: str) -> str:
    return date and f"{date[:4]}.{date[4:6]}.{date[6:]}"


def between(column: str, lower: str, upper: str) -> Clause:
    """The condition for a range of dates or times; an empty upper bound means none."""
    # Values may be longer than the bound, but never beyond its day or microsecond.
    if upper:
        return Clause(f"{column} >= ? AND {column} <= ?", (lower, upper))
    return Clause(f"{column} >= ?", (lower,))


def _starts(column: str, pattern: str, like: str) -> Clause:
    prefix = pattern.split("*", maxsplit=1)[0].split("?", maxsplit=1)[0]
    clauses = [_like(column, like)]
    if prefix:
        clauses.append(Clause(f"{column} >= ?", (prefix,)))
        after = _after(prefix)
        if after:
            clauses.append(Clause(f"{column} < ?", (after,)))
    return all_of(clauses)


def _after(prefix: str) -> str:
    """The first text in code-point order that is greater than all that start with `prefix`, or ''."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return ""
    following = ord(stem[-1]) + 1
    # Surrogates are not characters, so they are skipped.
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def _like(column: str, pattern: str) -> Clause:
    return Clause(f"{column} LIKE ? ESCAPE '/'", (pattern,))


def _like_text(text: str, *, wild: bool = False) -> str:
    """Text for LIKE, its own wild cards escaped; with `wild` DICOM's are translated."""
    escaped = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return escaped.replace("*", "%").replace("?", "_") if wild else escaped
