"""What a caller with limits sees, as SQL: conditions for rows of each level, and what is counted and collected anew.

The limits stand before the statement as tables of values (WITH), so that conditions hold no values and can be put
wherever a statement needs them.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from pacs_server.dicom.attributes import ATTRIBUTES
from pacs_server.dicom.levels import Level
from pacs_server.dicom.same_patient import Identity
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.uids import InstanceUIDs
from pacs_server.index.aliases import aliases_of
from pacs_server.index.database import Database
from pacs_server.index.matching import Clause, column_of, name_of
from pacs_server.index.models import TABLES, instance, series, study

# The condition of each limit, by the level of the table that it is about.
_MODALITY: Final = "{series}.modality IN (SELECT value FROM seen_modality)"
_AE_TITLE: Final = "{instance}.calling_ae IN (SELECT value FROM seen_ae_title)"
_PATIENT: Final = (
    "({patient}.patient_id, {patient}.issuer_of_patient_id) IN (SELECT patient_id, issuer FROM seen_patient)"
)
_STUDY: Final = "{study}.study_instance_uid IN (SELECT value FROM seen_study)"
# The tables below the row that a condition is about have other names than those of the statement around it.
_ALIASES: Final = {TABLES[level].name: f"seen_{TABLES[level].name}_row" for level in Level}
_COUNTED: Final = {"Studies": Level.STUDY, "Series": Level.SERIES, "Instances": Level.IMAGE}
_COLLECTED: Final = {
    "ModalitiesInStudy": (Level.SERIES, "modality"),
    "SOPClassesInStudy": (Level.IMAGE, "sop_class_uid"),
}


class ScopeIndex:
    """Answers what callers with limits see in one database; every method raises IndexUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def hides(self, uids: InstanceUIDs, scope: Scope) -> bool:
        """Whether the archive holds an instance, series or study of these UIDs that the caller does not see."""
        hidden = [
            f"SELECT 1 FROM {joined_from(level)} WHERE {name_of(column)} = ? AND NOT {seen(level, scope)}"  # noqa: S608
            for level, column in (
                (Level.STUDY, study.c.study_instance_uid),
                (Level.SERIES, series.c.series_instance_uid),
                (Level.IMAGE, instance.c.sop_instance_uid),
            )
        ]
        found = Clause(" UNION ALL ".join(hidden), (uids.study, uids.series, uids.sop))
        with self._database.rows(*limited(found, scope, embedded=self._database.is_sqlite), few=True) as rows:
            return next(rows, None) is not None

    def leads_out(self, values: Mapping[str, str], uid: str, scope: Scope) -> bool:
        """Whether decisions of operators send a study of a patient to a patient whom the caller does not see.

        `values` maps the columns of the patient to their values.
        """
        if not scope.patients:
            return False
        waiting, followed = [Identity.of(values)], set[int]()
        with self._database.connect() as connection:
            while waiting:
                identity = waiting.pop()
                for alias in aliases_of(connection, identity, uid):
                    target = Identity.of(alias.target)
                    if target.key not in scope.patients:
                        return True
                    if alias.key not in followed:
                        followed.add(alias.key)
                        waiting.append(target)
        return False


def seen(level: Level, scope: Scope) -> str:
    """The condition that a row of that level is seen; all tables above it have to be joined."""
    limits = _limits(scope)
    own = [text.format(**_plain()) for at, text in limits if at <= level]
    if any(at > level for at, _ in limits):
        own.append(f"EXISTS (SELECT 1 FROM {_below(level, limits)})")  # noqa: S608 - values are not in it
    return f"({' AND '.join(own)})"


def limited(statement: Clause, scope: Scope, *, embedded: bool) -> Clause:
    """The statement with the values of the limits, and with numbers and lists of what is seen instead of those kept.

    Without limits it stays as it is. `embedded` says whether it is for SQLite.
    """
    if not scope.is_limited:
        return statement
    sql = statement.sql
    for column, expression in _recomputed(scope, embedded=embedded):
        sql = sql.replace(column, expression)
    tables: list[str] = []
    values: list[str] = []
    for name, texts in (
        ("seen_modality", scope.modalities),
        ("seen_ae_title", scope.ae_titles),
        ("seen_study", scope.studies),
    ):
        if texts:
            tables.append(f"{name}(value) AS (VALUES {', '.join(['(?)'] * len(texts))})")
            values += texts
    if scope.patients:
        tables.append(f"seen_patient(patient_id, issuer) AS (VALUES {', '.join(['(?, ?)'] * len(scope.patients))})")
        values += [text for pair in scope.patients for text in pair]
    return Clause(f"WITH {', '.join(tables)} {sql}", (*values, *statement.values))


def joined_from(level: Level, top: Level = Level.PATIENT) -> str:
    """The table of a level joined with those above it up to `top`."""
    tables = [TABLES[Level(each)].name for each in range(level, top - 1, -1)]
    joins = [f" JOIN {above} ON {above}.id = {below}.{above}_fk" for below, above in pairwise(tables)]
    return tables[0] + "".join(joins)


def _limits(scope: Scope) -> list[tuple[Level, str]]:
    found = []
    if scope.patients:
        found.append((Level.PATIENT, _PATIENT))
    if scope.studies:
        found.append((Level.STUDY, _STUDY))
    if scope.modalities:
        found.append((Level.SERIES, _MODALITY))
    if scope.ae_titles:
        found.append((Level.IMAGE, _AE_TITLE))
    return found


def _plain() -> dict[str, str]:
    return {name: name for name in _ALIASES}


def _below(level: Level, limits: list[tuple[Level, str]], reach: Level | None = None) -> str:
    """The rows below a row of `level` that are seen, down to `reach`, or as far as the limits have to look."""
    lowest = max([at for at, _ in limits] + ([reach] if reach is not None else []))
    tables = [TABLES[each].name for each in sorted(Level) if level < each <= lowest]
    source = f"{tables[0]} AS {_ALIASES[tables[0]]}"
    for above, below in pairwise(tables):
        source += f" JOIN {below} AS {_ALIASES[below]} ON {_ALIASES[below]}.{above}_fk = {_ALIASES[above]}.id"
    top = TABLES[level].name
    conditions = [f"{_ALIASES[tables[0]]}.{top}_fk = {top}.id"]
    # Limits of the row itself, or of what is above it, are conditions of the statement around this one.
    conditions += [text.format(**_ALIASES) for at, text in limits if at > level]
    return f"{source} WHERE {' AND '.join(conditions)}"


def _recomputed(scope: Scope, *, embedded: bool) -> list[tuple[str, str]]:
    """The columns that tell of all there is, each with an expression for what is seen."""
    found = []
    limits = _limits(scope)
    for attribute in ATTRIBUTES.values():
        counted = next((at for what, at in _COUNTED.items() if attribute.keyword.endswith(f"Related{what}")), None)
        if counted is not None:
            key = f"{_ALIASES[TABLES[counted].name]}.id"
            below = _below(attribute.level, limits, counted)
            found.append((column_of(attribute), f"(SELECT count(DISTINCT {key}) FROM {below})"))  # noqa: S608
        elif attribute.keyword in _COLLECTED:
            at, name = _COLLECTED[attribute.keyword]
            column = f"{_ALIASES[TABLES[at].name]}.{name}"
            below = _below(attribute.level, limits, at)
            several = (
                f"(SELECT DISTINCT {column} AS value FROM {below} AND {column} <> '' ORDER BY value) AS seen_values"  # noqa: S608
            )
            one = "group_concat(value, '\\')" if embedded else "string_agg(value, '\\' ORDER BY value)"
            found.append((column_of(attribute), f"(SELECT coalesce({one}, '') FROM {several})"))  # noqa: S608
        elif attribute.keyword == "OriginalAttributesSequence":
            # It names the patient that a study had before, who may be one that is not seen.
            found.append((column_of(attribute), "''"))
    return found
