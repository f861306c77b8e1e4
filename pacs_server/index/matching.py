"""Matching keys as SQL, equal to `dicom.matching` or a narrowing that Python finishes.

Exact are keys on columns of one value without special cases, list membership in columns of several
values, and times with a match column. Everything else is `exact=False` at best: the caller then
applies `MatchingKey.matches` to each row. Prefixes and date ranges come as `>=` and `<` so that
both databases use their indexes; text is in code-point order on both.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, and_, false, func, literal, literal_column, or_, select, union_all

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
from pacs_server.index.models import NAME_MATCH, TABLES, TIME_MATCH, instance

# SQLite takes expressions a thousand deep; beyond this many alternatives Python does the work.
_MAX_ALTERNATIVES = 100

Clause = ColumnElement[bool]


@dataclass(frozen=True, slots=True)
class Condition:
    """A key in SQL: every match satisfies `clause`, and nothing else does if it is `exact`."""

    clause: Clause | None
    exact: bool


_IN_PYTHON = Condition(None, exact=False)


def column_of(attribute: Attribute) -> Column[Any]:
    """The column that holds an attribute."""
    if attribute.keyword == "AvailableTransferSyntaxUID":
        return instance.c.transfer_syntax_uid
    return TABLES[attribute.level].c[attribute.column]


def condition_of(key: MatchingKey) -> Condition:
    """The key as a condition on the tables of its attributes."""
    attribute = key.attributes[0]
    if attribute.column in NAME_MATCH and isinstance(key.matcher, PersonName | FuzzyName):
        return Condition(name_clause(_match_column(attribute), key.matcher, key.unknown), exact=False)
    if isinstance(key.matcher, DateTimeSpan):
        found = Condition(_dates(column_of(attribute), key.matcher.date), exact=False)
    else:
        found = _condition(attribute, key.matcher)
    if found.clause is None or not key.unknown:
        return found
    return Condition(or_(found.clause, column_of(attribute) == ""), found.exact)


def _match_column(attribute: Attribute) -> Column[Any]:
    return TABLES[attribute.level].c[f"{attribute.column}_match"]


def _condition(attribute: Attribute, matcher: Matcher) -> Condition:
    match matcher:
        case AnyOf(matchers) if len(matchers) <= _MAX_ALTERNATIVES:
            return _any_of([_condition(attribute, each) for each in matchers])
        case Values(values):
            return _values(attribute, values)
        case WildCard(pattern):
            return _wild_card(attribute, pattern)
        case Span(vr="DA") if not attribute.multiple:
            return Condition(_dates(column_of(attribute), matcher), exact=False)
        case Span(vr="TM") if attribute.column in TIME_MATCH:
            return Condition(between(_match_column(attribute), matcher.lower or "0", matcher.upper), exact=True)
    return _IN_PYTHON


def _any_of(parts: list[Condition]) -> Condition:
    clauses = [part.clause for part in parts if part.clause is not None]
    if len(clauses) < len(parts):
        return _IN_PYTHON
    return Condition(or_(false(), *clauses), all(part.exact for part in parts))


def _values(attribute: Attribute, values: tuple[str, ...]) -> Condition:
    column = column_of(attribute)
    if not _holds_several(attribute):
        return Condition(column.in_(values), exact=True)
    if len(values) > _MAX_ALTERNATIVES:
        return _IN_PYTHON
    delimited = literal("\\") + column + literal("\\")
    patterns = ["%\\" + _like_text(value) + "\\%" for value in values]
    return Condition(or_(*(_like(delimited, pattern) for pattern in patterns)), exact=True)


def _holds_several(attribute: Attribute) -> bool:
    # The dictionary allows several transfer syntaxes, but an instance is stored in one.
    return attribute.multiple and attribute.keyword != "AvailableTransferSyntaxUID"


def _wild_card(attribute: Attribute, pattern: str) -> Condition:
    column = column_of(attribute)
    if _holds_several(attribute):
        return Condition(_like(column, f"%{_like_text(pattern, wild=True)}%"), exact=False)
    return Condition(_starts(column, pattern, _like_text(pattern, wild=True)), exact=True)


def name_clause(column: Column[Any], matcher: PersonName | FuzzyName, unknown: bool) -> Clause | None:
    """A narrowing to the rows whose folded name may match, with `unknown` the empty ones too; None if none is known."""
    rows = column.table.alias()
    folded = rows.c[column.name]
    alternatives = _fuzzy(folded, matcher) if isinstance(matcher, FuzzyName) else _literal(folded, matcher)
    if not alternatives:
        return None
    if unknown:
        # A name of nothing but delimiters is as unknown as an empty one.
        alternatives.append(folded == "")
    # A union of small selections, because neither database would use its indexes for all sides of an OR.
    found = union_all(*(select(rows.c.id).where(alternative) for alternative in alternatives))
    return column.table.c.id.in_(found)


def _fuzzy(folded: ColumnElement[Any], matcher: FuzzyName) -> list[Clause]:
    return [and_(*(_like(folded, f"%{_like_text(word)}%") for word in matcher.words[:_MAX_ALTERNATIVES]))]


def _literal(folded: ColumnElement[Any], matcher: PersonName) -> list[Clause]:
    pattern, *others = matcher.groups
    bare = bare_name(pattern)
    if bare is not None:
        # "x^*" finds "x" too; both start with it.
        pattern = f"{bare}*"
    text = _like_text(pattern, wild=True)
    first_group = _starts(folded, pattern, f"{text}%")
    if others:
        return [first_group] if pattern else []
    return [first_group, and_(_has_groups(folded), _like(folded, f"%={text}%"))]


def _has_groups(column: ColumnElement[Any]) -> Clause:
    return func.replace(column, literal_column("'='"), literal_column("''")) != column


def _dates(column: Column[Any], span: Span) -> Clause:
    # YYYYMMDD and the old YYYY.MM.DD each sort by date; what else falls in between goes in Python.
    return or_(*(between(column, form(span.lower) or "0", form(span.upper)) for form in (str, _dotted)))


def _dotted(date: str) -> str:
    return date and f"{date[:4]}.{date[4:6]}.{date[6:]}"


def between(column: Column[Any], lower: str, upper: str) -> Clause:
    """The rows in a range of dates or times; without an upper bound if that is empty."""
    # Values may be longer than the bound, but never beyond its day or microsecond.
    return and_(column >= lower, column <= upper) if upper else column >= lower


def _starts(column: ColumnElement[Any], pattern: str, like: str) -> Clause:
    prefix = pattern.split("*", maxsplit=1)[0].split("?", maxsplit=1)[0]
    clauses = [_like(column, like)]
    if prefix:
        clauses.append(column >= prefix)
        after = _after(prefix)
        if after:
            clauses.append(column < after)
    return and_(*clauses)


def _after(prefix: str) -> str:
    """The first text in code-point order that is greater than all that start with `prefix`, or ''."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return ""
    following = ord(stem[-1]) + 1
    # Surrogates are no characters.
    return stem[:-1] + chr(0xE000 if following == 0xD800 else following)


def _like(column: ColumnElement[Any], pattern: str) -> Clause:
    return column.like(pattern, escape="/")


def _like_text(text: str, *, wild: bool = False) -> str:
    """Text for LIKE, its own wild cards escaped; with `wild` DICOM's are translated."""
    escaped = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return escaped.replace("*", "%").replace("?", "_") if wild else escaped
