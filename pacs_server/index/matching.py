"""Matching keys as SQL, equal to `dicom.matching` or a narrowing that Python finishes.

Exact are keys on columns of one value, list membership in columns of several values, dates, times with a
match column, and names with a match column unless the matching is fuzzy. Everything else is `exact=False` at
best: the caller then applies `MatchingKey.matches` to each row. Prefixes and date ranges come as `>=` and `<`
so that both databases use their indexes; text is in code-point order on both.

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
from pacs_server.dicom.person_name import GROUPS
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


def any_of(clauses: Iterable[Clause]) -> Clause:
    """The disjunction of one or more clauses."""
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
        clause = name_clause(table, _match_column(attribute), key.matcher, key.unknown)
        return Condition(clause, exact=isinstance(key.matcher, PersonName))
    if isinstance(key.matcher, DateTimeSpan):
        found = _dates(column_of(attribute), key.matcher.date)._replace(exact=False)
    else:
        found = _condition(attribute, key.matcher)
    if found.clause is None or not key.unknown:
        return found
    return Condition(any_of([found.clause, _empty(column_of(attribute))]), found.exact)


def _match_column(attribute: Attribute) -> str:
    return f"{attribute.column}_match"


def _empty(column: str) -> Clause:
    return Clause(f"{column} = ''", ())


def _not_empty(column: str) -> Clause:
    return Clause(f"{column} <> ''", ())


def _condition(attribute: Attribute, matcher: Matcher) -> Condition:
    match matcher:
        case AnyOf(matchers) if len(matchers) <= _MAX_ALTERNATIVES:
            return _any_matcher([_condition(attribute, each) for each in matchers])
        case Values(values):
            return _values(attribute, values)
        case WildCard(pattern):
            return _wild_card(attribute, pattern)
        case Span(vr="DA") if not attribute.multiple:
            return _dates(column_of(attribute), matcher)
        case Span(vr="TM") if attribute.column in TIME_MATCH:
            column = f"{column_of(attribute)}_match"
            return Condition(between(column, matcher.lower or "0", matcher.upper), exact=True)
    return _IN_PYTHON


def _any_matcher(parts: list[Condition]) -> Condition:
    clauses = [part.clause for part in parts if part.clause is not None]
    if len(clauses) < len(parts):
        return _IN_PYTHON
    return Condition(any_of(clauses), all(part.exact for part in parts))


def _values(attribute: Attribute, values: tuple[str, ...]) -> Condition:
    column = column_of(attribute)
    if not _holds_several(attribute):
        return Condition(one_of(column, values), exact=True)
    if len(values) > _MAX_ALTERNATIVES:
        return _IN_PYTHON
    delimited = f"'\\' || {column} || '\\'"
    patterns = ["%\\" + _like_text(value) + "\\%" for value in values]
    return Condition(any_of(_like(delimited, pattern) for pattern in patterns), exact=True)


def _holds_several(attribute: Attribute) -> bool:
    # The attribute may have several values by the dictionary, but an instance has one transfer syntax.
    return attribute.multiple and attribute.keyword != "AvailableTransferSyntaxUID"


def _wild_card(attribute: Attribute, pattern: str) -> Condition:
    column = column_of(attribute)
    if _holds_several(attribute):
        return Condition(_like(column, f"%{_like_text(pattern, wild=True)}%"), exact=False)
    return Condition(_starts(column, pattern, _like_text(pattern, wild=True)), exact=True)


def name_clause(table: str, column: str, matcher: PersonName | FuzzyName, unknown: bool) -> Clause | None:
    """The rows whose folded name matches, with `unknown` the empty ones too.

    For a FuzzyName it is a narrowing to the rows that may match; None if none is known.
    """
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
    if len(matcher.groups) > 1:
        return [_all_groups(folded, matcher.groups)]
    (pattern,) = matcher.groups
    wide = _wide(pattern)
    text = _like_text(wide, wild=True)
    first = all_of([_starts(folded, wide, f"{text}%"), _not_empty(folded), _group_fits(folded, 1, pattern)])
    others = any_of(
        all_of([_has_group(folded, number), _group_fits(folded, number, pattern)])
        for number in range(2, len(GROUPS) + 1)
    )
    # A wide LIKE first: it costs less than taking the name apart.
    return [first, all_of([Clause(has_groups(folded), ()), _like(folded, f"%={text}%"), others])]


def _all_groups(folded: str, patterns: tuple[str, ...]) -> Clause:
    """The condition that each of the first component groups fits its pattern, where there is one."""
    fits = [_group_fits(folded, number, pattern) for number, pattern in enumerate(patterns, 1) if pattern]
    narrowing = []
    for number, pattern in enumerate(patterns, 1):
        wide = _wide(pattern)
        if not wide.strip("*"):
            continue
        text = _like_text(wide, wild=True)
        if number == 1:
            narrowing.append(_starts(folded, wide, f"{text}%"))
        else:
            narrowing += [Clause(has_groups(folded), ()), _like(folded, f"%={text}%")]
    return all_of([*narrowing, _not_empty(folded), *fits])


def _wide(pattern: str) -> str:
    """The pattern, or one that finds more: "x^*" finds "x" too, and both start with it."""
    bare = bare_name(pattern)
    return pattern if bare is None else f"{bare}*"


def _has_group(folded: str, number: int) -> Clause:
    return Clause(f"length({folded}) - length(replace({folded}, '=', '')) >= {number - 1}", ())


def _group_fits(folded: str, number: int, pattern: str) -> Clause:
    """The condition that component group `number` of a name fits the pattern."""
    group = f"split_part({folded}, '=', {number})"
    fits = _fits(group, pattern)
    if number > 1:
        return fits
    # Most names have one group only, and need not be taken apart.
    whole = _fits(folded, pattern)
    sql = f"CASE WHEN replace({folded}, '=', '') = {folded} THEN {whole.sql} ELSE {fits.sql} END"
    return Clause(sql, whole.values + fits.values)


def _fits(text: str, pattern: str) -> Clause:
    like, bare = _like(text, _like_text(pattern, wild=True)), bare_name(pattern)
    return like if bare is None else any_of([like, Clause(f"{text} = ?", (bare,))])


def _dates(column: str, span: Span) -> Condition:
    # YYYYMMDD and the old YYYY.MM.DD each sort by date. Other texts may fall in between.
    forms = [
        all_of([between(column, written(span.lower) or "0", written(span.upper)), _valid(column, form)])
        for written, form in ((str, "YYYYMMDD"), (_dotted, "YYYY.MM.DD"))
    ]
    return Condition(any_of(forms), exact=True)


def _valid(column: str, form: str) -> Clause:
    """The condition that a text is a date as `date_key` reads it, in this form."""
    digits = f"replace({column}, '.', '')"
    conditions = [
        f"length({column}) = {len(form)}",
        f"length({digits}) = 8",
        f"trim({digits}, '0123456789') = ''",
        f"substr({digits}, 5, 2) BETWEEN '01' AND '12'",
        f"substr({digits}, 7, 2) BETWEEN '01' AND '31'",
        *(f"substr({column}, {at}, 1) = '.'" for at, character in enumerate(form, 1) if character == "."),
    ]
    # With a plain =, PostgreSQL estimates that hardly any row fulfils it; with this form, nearly all.
    return Clause(f"CASE WHEN {' AND '.join(conditions)} THEN 1 ELSE 0 END <> 0", ())


def _dotted(date: str) -> str:
    return date and f"{date[:4]}.{date[4:6]}.{date[6:]}"


def between(column: str, lower: str, upper: str) -> Clause:
    """The condition for a range of dates or times; an empty upper bound means none."""
    # Values may be longer than the bound, but never beyond its day or microsecond.
    if upper:
        return Clause(f"{column} >= ? AND {column} <= ?", (lower, upper))
    return Clause(f"{column} >= ?", (lower,))


def begins(column: str, prefix: str) -> Clause:
    """The condition that a text begins so; `prefix` is not empty."""
    after = _after(prefix)
    if not after:
        return Clause(f"{column} >= ?", (prefix,))
    return Clause(f"({column} >= ? AND {column} < ?)", (prefix, after))


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
    # SQLite would look at the pattern to use an index for it, and prepare the statement anew for every pattern. IS TRUE
    # hides it. `_starts` says by itself what an index is good for. PostgreSQL plans both forms alike.
    return Clause(f"({column} LIKE ? ESCAPE '/') IS TRUE", (pattern,))


def _like_text(text: str, *, wild: bool = False) -> str:
    """Text for LIKE, its own wild cards escaped; with `wild` DICOM's are translated."""
    escaped = text.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return escaped.replace("*", "%").replace("?", "_") if wild else escaped
