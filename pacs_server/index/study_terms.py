"""What the list of studies is searched by, as conditions: words, days, modalities, stations.

Each condition is looked up by an index of its own first, and the studies that fulfil all of them are known by their
ids then. What very many studies fulfil is asked of each study instead, in the order of the list until the page is full.
Without that, a database that keeps no statistics reads and sorts all of them for a frequent word.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Final, NamedTuple

from pacs_server.dicom.levels import Level
from pacs_server.dicom.person_name import fold_name, name_words
from pacs_server.dicom.scope import Scope
from pacs_server.dicom.uids import is_uid
from pacs_server.index.database import Database
from pacs_server.index.mark_filter import NOTHING, MarkFilter, condition_of
from pacs_server.index.matching import Clause, all_of, any_of, begins, one_of
from pacs_server.index.scope import seen

# Up to so many studies are known by their ids, looked up one by one and sorted. More of them are found soon by walking
# through the list, unless they all lie at the end of it.
MOST_KNOWN: Final = 20_000
# If there is one condition only, and the list is in the order of dates, they lie all over the list. PostgreSQL knows by
# its statistics how many there are, and what to do about them.
MOST_KNOWN_ALONE: Final = 5000
# So many different descriptions are looked through; of more, those that begin with a word are found.
_DESCRIPTIONS: Final = 2000
_MOST_WORDS: Final = 8
# So many different mixtures of modalities are looked through.
_MIXTURES: Final = 200
_STUDIES: Final = "SELECT study.id FROM study WHERE"
_BETWEEN_WORDS: Final = re.compile(r"[\s,;^=*]+")


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """Which studies to list; what is empty does not matter.

    `text` is what somebody types: every word of it is in the name of the patient or in the description, or begins the
    Patient ID or the Accession Number; a UID is that of the study, of a series or of an instance. `dates` are the first
    and the last day, YYYYMMDD; `received` is from one moment to before another one, YYYYMMDDHHMMSS in UTC; each may
    lack one end. Studies have a series of one of `modalities`, and one of one of `stations`.
    """

    text: str = ""
    dates: tuple[str, str] = ("", "")
    received: tuple[str, str] = ("", "")
    modalities: tuple[str, ...] = ()
    stations: tuple[str, ...] = ()
    marks: MarkFilter = NOTHING


class Term(NamedTuple):
    """A condition for rows of studies joined with patients; `ids` fulfil it, None if these are very many."""

    clause: Clause
    ids: frozenset[int] | None


class StudyTerms:
    """Looks up the conditions of one list."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._database = database
        self._scope = scope
        self._most = MOST_KNOWN

    def of(self, wanted: StudyFilter, *, by_date: bool) -> Iterator[Term]:
        """The conditions; `by_date` says that the list is sorted by date, for which a range costs nothing."""
        words = _words(wanted.text)
        several = [*words, *filter(None, (any(wanted.received), wanted.modalities, wanted.stations, wanted.marks))]
        alone = (by_date and len(several) == 1) or not self._database.is_sqlite
        self._most = min(MOST_KNOWN, MOST_KNOWN_ALONE) if alone else MOST_KNOWN
        for word in words:
            yield self._uid(word) if _looks_like_uid(word) else self._word(word)
        if any(wanted.dates):
            yield self._range("study_date", *wanted.dates, ordered=by_date)
        if any(wanted.received):
            yield self._range("received_at", *wanted.received)
        if wanted.modalities:
            yield self._of_modalities(wanted.modalities)
        if wanted.stations:
            yield self._in_series("station_name", wanted.stations)
        if wanted.marks:
            yield Term(condition_of(wanted.marks, self._database), None)

    # ---------------------------------------------------------------- words

    def _word(self, word: str) -> Term:
        named, ways = name_words(fold_name(word)), _as_written(word)
        of_patient = [begins("patient.patient_id", way) for way in ways]
        if named:
            of_patient.append(all_of(self._contains("patient.patient_name_match", each) for each in named))
        of_study = [begins("study.accession_number", way) for way in ways]
        of_study += self._described(word, ways)
        join = "CROSS JOIN" if self._database.is_sqlite else "JOIN"
        by_patient = f"SELECT study.id FROM patient {join} study ON study.patient_fk = patient.id WHERE"  # noqa: S608
        parts = [*((by_patient, each) for each in of_patient), *((_STUDIES, each) for each in of_study)]
        known = self._known(parts)
        if known is None and not self._has(any_of(of_study)):
            # Then patients that do not fulfil it are passed over without their studies.
            of_study = []
        if self._database.is_sqlite:
            # Patients are collected once, not asked for with each study. With a sign before it, a column has no index.
            found = "+study.patient_fk IN (SELECT id FROM patient WHERE"
            of_patient = [Clause(f"{found} {sql})", values) for sql, values in of_patient]
        return Term(any_of([*of_patient, *of_study]), known)

    def _has(self, condition: Clause) -> bool:
        sql = f"SELECT 1 FROM study WHERE {condition.sql} LIMIT 1"  # noqa: S608
        with self._database.rows(sql, condition.values, few=True) as rows:
            return next(rows, None) is not None

    def _described(self, word: str, ways: Sequence[str]) -> list[Clause]:
        column = "study.study_description"
        known = self._distinct("study", "study_description", _DESCRIPTIONS + 1)
        if len(known) > _DESCRIPTIONS:
            return [begins(column, way) for way in ways]
        folded = _plain(word)
        found = tuple(each for each in known if folded in _plain(each))
        return [one_of(column, found)] if found else []

    def _contains(self, column: str, text: str) -> Clause:
        # Faster than LIKE.
        found = "instr" if self._database.is_sqlite else "strpos"
        return Clause(f"{found}({column}, ?) > 0", (text,))

    def _uid(self, uid: str) -> Term:
        own = ["study.study_instance_uid = ?", "study.accession_number = ?"]
        if self._scope.is_limited:
            # What a caller does not see cannot be found by its UID.
            return Term(any_of(Clause(each, (uid,)) for each in own), None)
        patients = "SELECT patient.id FROM patient WHERE patient.patient_id = ?"
        series = "SELECT series_fk FROM instance WHERE sop_instance_uid = ?"
        ids = [
            *(f"SELECT study.id FROM study WHERE {each}" for each in own),  # noqa: S608
            f"SELECT study.id FROM study WHERE study.patient_fk IN ({patients})",  # noqa: S608
            "SELECT study_fk FROM series WHERE series_instance_uid = ?",
            f"SELECT study_fk FROM series WHERE series.id IN ({series})",  # noqa: S608
        ]
        with self._database.rows(" UNION ALL ".join(ids), [uid] * len(ids), few=True) as rows:
            found = frozenset(int(row[0]) for row in rows)
        return Term(Clause("1 = 1", ()), found)

    # ---------------------------------------------------------------- filters

    def _range(self, column: str, first: str, last: str, *, ordered: bool = False) -> Term:
        name = f"study.{column}"
        bounds = [Clause(f"{name} {sign} ?", (value,)) for sign, value in ((">=", first), ("<=", last)) if value]
        # What is empty is in no range.
        bounds = bounds if first else [Clause(f"{name} > ''", ()), *bounds]
        if ordered or not self._database.is_sqlite:
            # PostgreSQL keeps statistics of dates.
            return Term(all_of(bounds), None)
        # With an operator beside it, SQLite takes no index for a column.
        hidden = [Clause(f"({name} || ''){sql.removeprefix(name)}", values) for sql, values in bounds]
        return Term(all_of(hidden), self._known([(_STUDIES, all_of(bounds))]))

    def _of_modalities(self, values: tuple[str, ...]) -> Term:
        if self._scope.is_limited:
            return self._in_series("modality", values)
        column = "study.modalities_in_study"
        known = self._distinct("study", "modalities_in_study", _MIXTURES + 1)
        if len(known) > _MIXTURES:
            return self._in_series("modality", values)
        found = tuple(each for each in known if not set(values).isdisjoint(each.split("\\")))
        if not found:
            return Term(Clause("1 = 0", ()), frozenset())
        ids = self._known([(_STUDIES, one_of(column, found))])
        # With an operator beside it, SQLite takes no index for a column.
        return Term(one_of(f"({column} || '')" if self._database.is_sqlite else column, found), ids)

    def _in_series(self, column: str, values: tuple[str, ...]) -> Term:
        found = one_of(f"series.{column}", values)
        condition = f"series.study_fk = study.id AND {found.sql}"
        if self._scope.is_limited:
            condition += f" AND {seen(Level.SERIES, self._scope)}"
            return Term(Clause(f"EXISTS (SELECT 1 FROM series WHERE {condition})", values), None)  # noqa: S608
        known = self._known([("SELECT DISTINCT study_fk FROM series WHERE series.id > 0 AND", found)])
        return Term(Clause(f"EXISTS (SELECT 1 FROM series WHERE {condition})", values), known)  # noqa: S608

    def distinct(self, table: str, column: str, limit: int) -> list[str]:
        """The different values of a column that has an index, without the empty one."""
        return [value for value in self._distinct(table, column, limit + 1) if value][:limit]

    def _distinct(self, table: str, column: str, limit: int) -> list[str]:
        # From one value to the next by the index: as many steps as there are values, not as there are rows.
        least = f"SELECT min({column}) FROM {table} WHERE {'id > 0' if table == 'series' else '1 = 1'}"  # noqa: S608
        sql = (
            f"WITH RECURSIVE known(value) AS ({least} UNION ALL SELECT ({least} AND {column} > known.value) FROM known"  # noqa: S608
            f" WHERE known.value IS NOT NULL) SELECT value FROM known WHERE value IS NOT NULL LIMIT {limit}"
        )
        with self._database.rows(sql, (), few=True) as rows:
            return [str(row[0]) for row in rows]

    def _known(self, parts: Iterable[tuple[str, Clause]]) -> frozenset[int] | None:
        """The ids that one of these SELECTs finds, each with its condition; None if these are very many."""
        clauses = [Clause(f"{select} {sql}", values) for select, (sql, values) in parts]
        values = sum((clause.values for clause in clauses), ())
        sql = f"{' UNION ALL '.join(clause.sql for clause in clauses)} LIMIT {self._most + 1}"
        with self._database.rows(sql, values, few=True) as rows:
            found = frozenset(chain.from_iterable(rows))
        return None if len(found) > self._most else found


def _words(text: str) -> list[str]:
    return [word for word in _BETWEEN_WORDS.split(text) if word][:_MOST_WORDS]


def _looks_like_uid(word: str) -> bool:
    return word.count(".") >= 3 and is_uid(word)


def _as_written(word: str) -> list[str]:
    """The ways in which an ID may be written: people leave the shift key alone."""
    return list(dict.fromkeys((word, word.upper(), word.lower())))


@lru_cache(maxsize=2 * _DESCRIPTIONS)
def _plain(text: str) -> str:
    """A text without case and accents."""
    return fold_name(text.replace("^", " "))
